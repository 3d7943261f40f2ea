//! The metrics of owners, of the node and of the tool itself, as data.

use super::coverage::{ALLOC, Coverage, FREE, attached, exact, mode};
use super::descriptors::Kind::{Counter, Gauge};
use super::descriptors::{Metric, Sample, Samples};
use super::view::View;
use crate::aggregate::gaps::GapState;
use crate::aggregate::snapshot::{ProbeState, Repairs};
use crate::attribute::verdict::Effect;

const OWNER_OF_TABLE: &[&str] =
    &["table=host,pod,netns", "owner=pod,cgroup,host,external,unknown", "namespace", "pod", "cgroup"];
const OUTCOME: &[&str] = &[
    "owner=pod,cgroup,host,external,unknown",
    "namespace",
    "pod",
    "cgroup",
    "cause=table_full,no_memory,evicted,invalid,race,unrelated",
    "confidence=exact,window,inferred",
];
const NO_OUTCOME: &str = "The owner had none.";
const NOT_TOLD: &str = "This kernel does not tell.";

/// One sample for each probe of which `read` knows something.
fn per_probe(view: &View, read: fn(&ProbeState) -> Option<f64>) -> Vec<Sample> {
    let probes = view.snapshot.probes.iter();
    probes.filter_map(|p| Some(Sample::new(&[("probe", p.probe)], read(p)?))).collect()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn probe_attached(view: &View) -> Vec<Sample> {
    let sample =
        |p: &ProbeState| Sample::new(&[("probe", p.probe), ("mechanism", p.mechanism)], flag(attached(p)));
    view.snapshot.probes.iter().map(sample).collect()
}

fn map_entries(view: &View) -> Vec<Sample> {
    let maps = view.snapshot.honesty.maps.iter();
    maps.filter_map(|(name, (used, _))| Some(Sample::new(&[("map", name)], (*used)? as f64))).collect()
}

fn map_capacity(view: &View) -> Vec<Sample> {
    let maps = view.snapshot.honesty.maps.iter();
    maps.map(|(name, (_, capacity))| Sample::new(&[("map", name)], *capacity as f64)).collect()
}

fn collector_success(view: &View) -> Vec<Sample> {
    let collectors = view.snapshot.honesty.collectors.iter();
    collectors.map(|(name, ok)| Sample::new(&[("collector", name)], flag(*ok))).collect()
}

fn disagreements(view: &View) -> Vec<Sample> {
    let found = view.snapshot.discovery.as_ref().and_then(|discovery| discovery.disagreements.as_ref());
    let counts = found.into_iter().flat_map(|found| &found.counts);
    counts.map(|(kind, count)| Sample::new(&[("kind", kind)], *count as f64)).collect()
}

fn build_info(view: &View) -> Vec<Sample> {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("mode", mode(&view.snapshot))];
    vec![Sample::new(&labels, 1.0)]
}

fn drift(view: &View) -> Vec<Sample> {
    let labels = [("table", "host"), ("namespace", ""), ("pod", ""), ("netns", "")];
    // Without both of its probes the account is none, whatever it says.
    let kept = Coverage::of(&view.snapshot.probes).has(&[ALLOC, FREE]);
    let drift = view.snapshot.honesty.drift_entries.filter(|_| kept && view.snapshot.conntrack_loaded);
    drift.map(|n| Sample::new(&labels, n as f64)).into_iter().collect()
}

const fn process(name: &'static str, kind: super::descriptors::Kind, unit: &'static str) -> Metric {
    Metric {
        name,
        kind,
        unit,
        labels: &[],
        help: "This program, as every Prometheus client reports it.",
        absent: "/proc/self cannot be read.",
        samples: Samples::Process,
    }
}

fn accounting_overflow(view: &View) -> Vec<Sample> {
    let overflow = view.snapshot.honesty.accounting;
    let Some(unplaced) = overflow.unplaced else { return Vec::new() };
    let all =
        [("account", overflow.owners_without_account), ("directory", overflow.untold), ("place", unplaced)];
    all.iter().map(|(what, n)| Sample::new(&[("what", *what)], *n as f64)).collect()
}

fn repairs(view: &View, samples: impl Fn(Repairs) -> Vec<Sample>) -> Vec<Sample> {
    view.snapshot.honesty.repairs.map_or_else(Vec::new, samples)
}

fn tokens_pushed_out(view: &View) -> Vec<Sample> {
    let kinds = view.snapshot.honesty.tokens_pushed_out.iter().flatten();
    kinds.map(|(kind, n)| Sample::new(&[("kind", *kind)], *n as f64)).collect()
}

fn coverage_gap(view: &View) -> Vec<Sample> {
    let known = view.snapshot.coverage.iter().filter(|g| g.state != GapState::Unknown);
    known.map(|g| Sample::new(&[("kind", g.kind)], flag(g.state == GapState::Present))).collect()
}

/// Metrics of owners, of the node and of the tool itself.
pub const NODE_METRICS: &[Metric] = &[
    Metric {
        name: "conntrack_owner_entries",
        kind: Gauge,
        unit: "entries",
        labels: OWNER_OF_TABLE,
        help: "Entries held now, by who made them. The sum over owners is the table's entries.",
        absent: "The owner has none and had none; without the probes `alloc` and `free` there is no count.",
        samples: Samples::OwnerEntries,
    },
    Metric {
        name: "conntrack_owner_responder_entries",
        kind: Gauge,
        unit: "entries",
        labels: OWNER_OF_TABLE,
        help: "Entries held now that this owner answers, whoever made them. Not part of any sum.",
        absent: "The owner answers none; or as above.",
        samples: Samples::OwnerResponderEntries,
    },
    Metric {
        name: "conntrack_owner_inserts_total",
        kind: Counter,
        unit: "entries",
        labels: OWNER_OF_TABLE,
        help: "Entries confirmed, by who made them.",
        absent: "As `conntrack_owner_entries`, or the probe `confirm` is not attached.",
        samples: Samples::OwnerInserts,
    },
    Metric {
        name: "conntrack_owner_drops_total",
        kind: Counter,
        unit: "connections",
        labels: OWNER_OF_TABLE,
        help: "New connections refused, by whose they were.",
        absent: "The owner had none.",
        samples: Samples::OwnerDrops,
    },
    Metric {
        name: "conntrack_owner_evictions_total",
        kind: Counter,
        unit: "entries",
        labels: OWNER_OF_TABLE,
        help: "Entries evicted before their time, by whose they were.",
        absent: "The owner had none.",
        samples: Samples::OwnerEvictions,
    },
    Metric {
        name: "conntrack_tcp_resets_total",
        kind: Counter,
        unit: "connections",
        labels: OUTCOME,
        help: "TCP connections reset, by whom it hurt and by what caused it. evicted: the reset matched the token of an eviction (exact: losing the entry is what makes such a reset; window: it could have another cause). invalid: a packet of a translated connection was INVALID, passed untranslated, and was answered by the reset (window: the reset was only seen to arrive). unrelated: resets sent and received, each by itself, that matched no token; their owner is known only in a pod's own namespace.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::Reset),
    },
    Metric {
        name: "conntrack_tcp_connect_timeouts_total",
        kind: Counter,
        unit: "connections",
        labels: OUTCOME,
        help: "TCP connections given up before they came about, by kernel or application. table_full, no_memory, race: every packet of the attempt was refused or lost, and never made good. unrelated: no token says so.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::ConnectTimeout),
    },
    Metric {
        name: "conntrack_tcp_slow_connects_total",
        kind: Counter,
        unit: "connections",
        labels: OUTCOME,
        help: "TCP connections that came about only after packets of the attempt had been refused or lost.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::SlowConnect),
    },
    Metric {
        name: "conntrack_tcp_stalls_total",
        kind: Counter,
        unit: "connections",
        labels: OUTCOME,
        help: "Open TCP connections whose entry was gone, whose data was refused another, and that had to send it again.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::Stall),
    },
    Metric {
        name: "conntrack_udp_refused_total",
        kind: Counter,
        unit: "flows",
        labels: OUTCOME,
        help: "UDP flows that lost a datagram because it was refused an entry, or lost a race for one; a flow that is refused again within 5 s counts once. Lookups of names are not among them.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::UdpRefused),
    },
    Metric {
        name: "conntrack_dns_stalls_total",
        kind: Counter,
        unit: "lookups",
        labels: OUTCOME,
        help: "Lookups of names over UDP (port 53) that were refused an entry, or lost a race for one: their resolver waits, and asks again.",
        absent: NO_OUTCOME,
        samples: Samples::Outcomes(Effect::DnsStall),
    },
    Metric {
        name: "conntrack_loaded",
        kind: Gauge,
        unit: "0 or 1",
        labels: &[],
        help: "1 while conntrack is in this kernel. While 0 there is no table and no series about one.",
        absent: "Never.",
        samples: Samples::Node(|v| vec![Sample::bare(flag(v.snapshot.conntrack_loaded))]),
    },
    Metric {
        name: "conntrack_accounting_drift_entries",
        kind: Gauge,
        unit: "entries",
        labels: &["table=host", "namespace", "pod", "netns"],
        help: "What the books of the host's table miss against nf_conntrack_count.",
        absent: "The probes alloc and free are not both attached, or no reading yet.",
        samples: Samples::Node(drift),
    },
    Metric {
        name: "conntrack_tables_in_overflow",
        kind: Gauge,
        unit: "tables",
        labels: &[],
        help: "Tables that found no slot of their own in the probes' map, and are counted together.",
        absent: "Never.",
        samples: Samples::Node(|v| vec![Sample::bare(v.snapshot.honesty.tables_in_overflow as f64)]),
    },
    Metric {
        name: "conntrack_coverage_gap",
        kind: Gauge,
        unit: "0 or 1",
        labels: &[
            "kind=not_loaded,cilium,calico_bpf,notrack,flow_offload,ipvs,zones,capabilities,user_namespace,lockdown,no_btf,no_kprobes,no_fentry,hidden_namespaces",
        ],
        help: "1 if something on this node keeps connections or what befalls them from being seen; `doctor` says what, why and what to do.",
        absent: "It could not be found out, or has not been looked for yet.",
        samples: Samples::Node(coverage_gap),
    },
    Metric {
        name: "conntrack_probe_attached",
        kind: Gauge,
        unit: "0 or 1",
        labels: &["probe", "mechanism=fentry,kprobe,raw_tracepoint,none"],
        help: "1 if the probe is attached, by the mechanism named. `doctor` says why not and what to do.",
        absent: "Never.",
        samples: Samples::Node(probe_attached),
    },
    Metric {
        name: "conntrack_probe_missed_total",
        kind: Counter,
        unit: "runs",
        labels: &["probe"],
        help: "Runs of the probe that the kernel skipped and no second program made good, at most. Counts are exact only while this is 0.",
        absent: NOT_TOLD,
        samples: Samples::Node(|v| per_probe(v, |p| p.missed.map(|n| n as f64))),
    },
    Metric {
        name: "conntrack_probe_caught_total",
        kind: Counter,
        unit: "runs",
        labels: &["probe"],
        help: "Runs that the kernel skipped of one program of the probe and the second one made good: nothing is lost.",
        absent: "The probe is not attached twice (kprobes, raw tracepoints).",
        samples: Samples::Node(|v| per_probe(v, |p| p.caught.map(|n| n as f64))),
    },
    Metric {
        name: "conntrack_accounting_overflow",
        kind: Gauge,
        unit: "as named",
        labels: &["what=account,directory,place"],
        help: "What found no room in the books by owner since start (directory: now): its entries are counted, as owner unknown.",
        absent: "Without probes.",
        samples: Samples::Node(accounting_overflow),
    },
    Metric {
        name: "conntrack_token_overflow_total",
        kind: Counter,
        unit: "tokens",
        labels: &["kind=refusal,eviction"],
        help: "Tokens that a flood of newer ones pushed out of their map while something could still have come of what left them, at most: outcomes that match none are counted as unrelated.",
        absent: "Without probes.",
        samples: Samples::Node(tokens_pushed_out),
    },
    Metric {
        name: "conntrack_accounting_audits_total",
        kind: Counter,
        unit: "audits",
        labels: &[],
        help: "Times that the books had drifted from the kernel's count for good, and were compared with the tables entry by entry and put right.",
        absent: "Without probes.",
        samples: Samples::Node(|v| repairs(v, |r| vec![Sample::bare(r.audits as f64)])),
    },
    Metric {
        name: "conntrack_accounting_repaired_total",
        kind: Counter,
        unit: "entries",
        labels: &["how=adopted,swept"],
        help: "Entries put into an owner's account when a dump showed them (adopted: older than the probes, or their allocation was missed), or taken out because none did (swept: their end was missed).",
        absent: "Without probes.",
        samples: Samples::Node(|v| {
            repairs(v, |r| {
                let all = [("adopted", r.adopted), ("swept", r.swept)];
                all.iter().map(|(how, n)| Sample::new(&[("how", *how)], *n as f64)).collect()
            })
        }),
    },
    Metric {
        name: "conntrack_counts_exact",
        kind: Gauge,
        unit: "0 or 1",
        labels: &[],
        help: "1 while refusals are counted at the functions that refuse and no run of a probe was missed. 0: inferred, or some were.",
        absent: NOT_TOLD,
        samples: Samples::Node(|v| exact(&v.snapshot).map(|e| Sample::bare(flag(e))).into_iter().collect()),
    },
    Metric {
        name: "conntrack_bpf_program_runs_total",
        kind: Counter,
        unit: "runs",
        labels: &["probe"],
        help: "Runs of the probe's program.",
        absent: NOT_TOLD,
        samples: Samples::Node(|v| per_probe(v, |p| p.runs.map(|n| n as f64))),
    },
    Metric {
        name: "conntrack_bpf_program_run_seconds_total",
        kind: Counter,
        unit: "seconds",
        labels: &["probe"],
        help: "Time spent in the probe's program.",
        absent: "kernel.bpf_stats_enabled is 0.",
        samples: Samples::Node(|v| per_probe(v, |p| p.run_time_ns.map(|n| n as f64 / 1e9))),
    },
    Metric {
        name: "conntrack_bpf_map_entries",
        kind: Gauge,
        unit: "entries",
        labels: &["map"],
        help: "Entries in use in a map of the probes.",
        absent: "Counting them would cost more than it tells.",
        samples: Samples::Node(map_entries),
    },
    Metric {
        name: "conntrack_bpf_map_capacity",
        kind: Gauge,
        unit: "entries",
        labels: &["map"],
        help: "Entries a map of the probes can hold.",
        absent: "No probes.",
        samples: Samples::Node(map_capacity),
    },
    Metric {
        name: "conntrack_log_events_lost_total",
        kind: Counter,
        unit: "lines",
        labels: &[],
        help: "Log lines that could not be written: the reader of standard output was too slow, or gone.",
        absent: "Never.",
        samples: Samples::Node(|v| vec![Sample::bare(v.snapshot.honesty.log_events_lost as f64)]),
    },
    Metric {
        name: "conntrack_collector_success",
        kind: Gauge,
        unit: "0 or 1",
        labels: &["collector"],
        help: "1 if the last reading of the source succeeded.",
        absent: "The source has not been read yet.",
        samples: Samples::Node(collector_success),
    },
    Metric {
        name: "conntrack_discovery_disagreements",
        kind: Gauge,
        unit: "pods",
        labels: &["kind=address,name,no_logs,not_in_api"],
        help: "Pods of which the Kubernetes API and this node say different things: other addresses than in the pod's namespace, another name than its log directory, no log directory while it runs, here but not for the API. `snapshot` and `doctor` name some.",
        absent: "No API is asked, or it is not in step.",
        samples: Samples::Node(disagreements),
    },
    Metric {
        name: "conntrack_build_info",
        kind: Gauge,
        unit: "always 1",
        labels: &["version", "mode=full,inferred"],
        help: "Version, and whether refusals are counted at the functions that refuse (full) or concluded (inferred).",
        absent: "Never.",
        samples: Samples::Node(build_info),
    },
    process("process_cpu_seconds_total", Counter, "seconds"),
    process("process_open_fds", Gauge, "file descriptors"),
    process("process_max_fds", Gauge, "file descriptors"),
    process("process_virtual_memory_bytes", Gauge, "bytes"),
    process("process_resident_memory_bytes", Gauge, "bytes"),
    process("process_start_time_seconds", Gauge, "seconds since the epoch"),
    process("process_threads", Gauge, "threads"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::gaps::gaps;
    use crate::drain::surroundings::Surroundings;

    #[test]
    fn the_kinds_of_disagreement_are_documented() {
        let metric = NODE_METRICS.iter().find(|m| m.name == "conntrack_discovery_disagreements").unwrap();
        assert_eq!(metric.labels, [format!("kind={}", crate::attribute::discovery::KINDS.join(","))]);
    }

    #[test]
    fn the_kinds_of_gaps_are_documented() {
        let kinds: Vec<_> = gaps(&Surroundings::default(), &[]).iter().map(|g| g.kind).collect();
        let metric = NODE_METRICS.iter().find(|m| m.name == "conntrack_coverage_gap").unwrap();
        assert_eq!(metric.labels, [format!("kind={}", kinds.join(","))]);
    }
}

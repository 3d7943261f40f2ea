//! The metrics of conntrack tables, as data.

use super::coverage::{ALLOC, CLASH, CONFIRM, DELETE, EARLY_DROP, FREE, GC, INFERRED_MODE, KFREE_SKB};
use super::descriptors::Kind::{Counter, Gauge};
use super::descriptors::{Metric, Read, Samples, TableSample};
use crate::aggregate::snapshot::{Counted, KernelStats, Table};

const TABLE: &[&str] = &["table", "namespace", "pod", "netns"];
const NO_STATS: &str = "The kernel's statistics of the namespace cannot be read.";

const fn counted(
    label: Option<(&'static str, &'static str)>,
    needs: &'static [&'static str],
    read: fn(&Table) -> Option<u64>,
) -> TableSample {
    TableSample { label, needs, read: Read::Counter(read) }
}

const fn statistic(name: &'static str, read: fn(&Table) -> Option<u64>) -> TableSample {
    counted(Some(("statistic", name)), &[], read)
}

const fn core(samples: &'static [TableSample]) -> Samples {
    Samples::Table { detail: false, samples }
}

const fn detail(samples: &'static [TableSample]) -> Samples {
    Samples::Table { detail: true, samples }
}

fn probes(t: &Table, read: fn(&Counted) -> u64) -> Option<u64> {
    t.counted.as_ref().map(read)
}

fn kernel(t: &Table, read: fn(&KernelStats) -> Option<u64>) -> Option<u64> {
    t.kernel.as_ref().and_then(read)
}

/// What the kernel's statistic rose by since this program first saw the table.
fn invalid_since_start(t: &Table) -> Option<u64> {
    let (now, start) = (t.kernel?.invalid?, t.kernel_at_start?.invalid?);
    Some(now.saturating_sub(start))
}

/// Refusals that were not for a full table: `__nf_conntrack_alloc` has no other reason than memory.
fn no_memory(t: &Table) -> Option<u64> {
    probes(t, |c| (c.refused + c.refused_by_request).saturating_sub(c.table_full))
}

/// Metrics of tables.
pub const TABLE_METRICS: &[Metric] = &[
    Metric {
        name: "conntrack_entries",
        kind: Gauge,
        unit: "entries",
        labels: TABLE,
        help: "Entries in the table, unconfirmed ones included, as the kernel counts them against the limit.",
        absent: "The namespace cannot be read.",
        samples: core(&[TableSample {
            label: None,
            needs: &[],
            read: Read::Gauge(|t| t.entries.map(|n| n as f64)),
        }]),
    },
    Metric {
        name: "conntrack_entries_limit",
        kind: Gauge,
        unit: "entries",
        labels: TABLE,
        help: "The limit in force for the table.",
        absent: "The namespace cannot be read, there is no limit, or the labels stand for several tables.",
        samples: core(&[TableSample {
            label: None,
            needs: &[],
            read: Read::GaugeOfOne(|t| t.limit.map(|n| n as f64)),
        }]),
    },
    Metric {
        name: "conntrack_seconds_to_full",
        kind: Gauge,
        unit: "seconds",
        labels: TABLE,
        help: "Seconds until the table reaches its limit, if it goes on like this. At most an hour ahead.",
        absent: "The table is not filling (it is at rest, returns from bursts, will level off below the limit, or is full), it has been watched for less than a minute or so, or the labels stand for several tables.",
        samples: core(&[TableSample {
            label: None,
            needs: &[],
            read: Read::GaugeOfOne(|t| t.forecast.as_ref().map(|f| f.seconds_to_full)),
        }]),
    },
    Metric {
        name: "conntrack_inserts_total",
        kind: Counter,
        unit: "entries",
        labels: TABLE,
        help: "Entries confirmed, that is inserted by the packet path.",
        absent: "The probe `confirm` is not attached.",
        samples: core(&[counted(None, &[CONFIRM], |t| probes(t, |c| c.inserts))]),
    },
    Metric {
        name: "conntrack_table_full_drops_total",
        kind: Counter,
        unit: "connections",
        labels: TABLE,
        help: "New connections refused because the table was full and nothing could be evicted.",
        absent: "The probe `early_drop` is not attached; see `conntrack_inferred_drops_total`.",
        samples: core(&[counted(None, &[EARLY_DROP], |t| probes(t, |c| c.table_full))]),
    },
    Metric {
        name: "conntrack_evictions_total",
        kind: Counter,
        unit: "entries",
        labels: &["table", "namespace", "pod", "netns", "cause=early_drop,gc"],
        help: "Entries evicted before their time, to make room for a new one (early_drop) or by the garbage collector under pressure (gc).",
        absent: "The probe `delete`, or the one that frames the cause (`early_drop`, `gc_worker`), is not attached.",
        samples: core(&[
            counted(Some(("cause", "early_drop")), &[DELETE, EARLY_DROP], |t| {
                probes(t, |c| c.evicted_early_drop)
            }),
            counted(Some(("cause", "gc")), &[DELETE, GC], |t| probes(t, |c| c.evicted_gc)),
        ]),
    },
    Metric {
        name: "conntrack_invalid_total",
        kind: Counter,
        unit: "packets",
        labels: TABLE,
        help: "Packets conntrack found INVALID since this program first saw the table, from the kernel's own statistic.",
        absent: NO_STATS,
        samples: core(&[counted(None, &[], invalid_since_start)]),
    },
    Metric {
        name: "conntrack_inferred_drops_total",
        kind: Counter,
        unit: "packets",
        labels: TABLE,
        help: "Without probes on conntrack: packets without an entry that netfilter dropped while the table was full. Concluded, not exact.",
        absent: "Refusals are counted exactly, or the tracepoint `kfree_skb` is not attached.",
        samples: core(&[counted(None, &[KFREE_SKB, INFERRED_MODE], |t| probes(t, |c| c.inferred_refusals))]),
    },
    Metric {
        name: "conntrack_buckets",
        kind: Gauge,
        unit: "buckets",
        labels: TABLE,
        help: "Buckets of the hash table that all namespaces share.",
        absent: "Any table but the host's.",
        samples: detail(&[TableSample {
            label: None,
            needs: &[],
            read: Read::GaugeOfOne(|t| t.buckets.map(|n| n as f64)),
        }]),
    },
    Metric {
        name: "conntrack_accounted_entries",
        kind: Gauge,
        unit: "entries",
        labels: TABLE,
        help: "Entries as this program's books have them, from seed, allocations and frees.",
        absent: "The probe `alloc` or `free` is not attached.",
        samples: detail(&[TableSample {
            label: None,
            needs: &[ALLOC, FREE],
            read: Read::Gauge(|t| t.accounted.map(|n| n as f64)),
        }]),
    },
    Metric {
        name: "conntrack_refusals_total",
        kind: Counter,
        unit: "connections",
        labels: &["table", "namespace", "pod", "netns", "reason=table_full,no_memory"],
        help: "New connections whose entry could not be made, those asked for by ctnetlink included.",
        absent: "The probe `alloc` or `early_drop` is not attached.",
        samples: detail(&[
            counted(Some(("reason", "table_full")), &[ALLOC, EARLY_DROP], |t| probes(t, |c| c.table_full)),
            counted(Some(("reason", "no_memory")), &[ALLOC, EARLY_DROP], no_memory),
        ]),
    },
    Metric {
        name: "conntrack_refusal_events_total",
        kind: Counter,
        unit: "events",
        labels: &["table", "namespace", "pod", "netns", "outcome=logged,suppressed,lost"],
        help: "What became of the record of each refusal: handed on to the log, held back by the limit for its source, or lost to a full ring. The three add up to the refusals of packets.",
        absent: "The probe `alloc` is not attached.",
        samples: detail(&[
            counted(Some(("outcome", "logged")), &[ALLOC], |t| probes(t, |c| c.refusal_events)),
            counted(Some(("outcome", "suppressed")), &[ALLOC], |t| probes(t, |c| c.refusal_suppressed)),
            counted(Some(("outcome", "lost")), &[ALLOC], |t| probes(t, |c| c.refusal_lost)),
        ]),
    },
    Metric {
        name: "conntrack_insert_failed_total",
        kind: Counter,
        unit: "entries",
        labels: &["table", "namespace", "pod", "netns", "reason=clash,chain_too_long,dying"],
        help: "Entries that were made but could not be inserted: the race was lost to another packet, the hash chain was too long, or the entry was already dying.",
        absent: "The probe `clash` (for clash) or `confirm` (for the others) is not attached.",
        samples: detail(&[
            counted(Some(("reason", "clash")), &[CLASH], |t| probes(t, |c| c.clash_lost)),
            counted(Some(("reason", "chain_too_long")), &[CONFIRM], |t| probes(t, |c| c.chain_too_long)),
            counted(Some(("reason", "dying")), &[CONFIRM], |t| probes(t, |c| c.dying)),
        ]),
    },
    Metric {
        name: "conntrack_kernel_statistics_total",
        kind: Counter,
        unit: "as the kernel's",
        labels: &[
            "table",
            "namespace",
            "pod",
            "netns",
            "statistic=drop,early_drop,insert_failed,invalid,error,search_restart,clash_resolve,chain_too_long",
        ],
        help: "The kernel's own statistics since the namespace came to be (the host's: since boot), so from before this program's start too. The kernel's drop counts table full, no memory and lost races together.",
        absent: "The kernel's statistics of the namespace cannot be read, or this kernel lacks the statistic.",
        samples: detail(&[
            statistic("drop", |t| kernel(t, |s| s.drop)),
            statistic("early_drop", |t| kernel(t, |s| s.early_drop)),
            statistic("insert_failed", |t| kernel(t, |s| s.insert_failed)),
            statistic("invalid", |t| kernel(t, |s| s.invalid)),
            statistic("error", |t| kernel(t, |s| s.error)),
            statistic("search_restart", |t| kernel(t, |s| s.search_restart)),
            statistic("clash_resolve", |t| kernel(t, |s| s.clash_resolve)),
            statistic("chain_too_long", |t| kernel(t, |s| s.chain_too_long)),
        ]),
    },
    Metric {
        name: "conntrack_ringbuf_lost_total",
        kind: Counter,
        unit: "events",
        labels: &["event=refusal,eviction,other"],
        help: "Records that found the ring buffer full. What they report is still counted.",
        absent: "No probe that writes such records is attached.",
        samples: Samples::AllTables(&[
            counted(Some(("event", "refusal")), &[ALLOC], |t| probes(t, |c| c.refusal_lost)),
            counted(Some(("event", "eviction")), &[DELETE], |t| probes(t, |c| c.eviction_lost)),
            counted(Some(("event", "other")), &[], |t| probes(t, |c| c.other_lost)),
        ]),
    },
    Metric {
        name: "conntrack_events_suppressed_total",
        kind: Counter,
        unit: "events",
        labels: &["event=refusal,eviction,other"],
        help: "Records held back by the limit for each source. What they report is still counted.",
        absent: "No probe that writes such records is attached.",
        samples: Samples::AllTables(&[
            counted(Some(("event", "refusal")), &[ALLOC], |t| probes(t, |c| c.refusal_suppressed)),
            counted(Some(("event", "eviction")), &[DELETE], |t| probes(t, |c| c.eviction_suppressed)),
            counted(Some(("event", "other")), &[], |t| probes(t, |c| c.other_suppressed)),
        ]),
    },
];

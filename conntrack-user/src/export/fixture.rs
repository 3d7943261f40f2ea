//! A node with a bit of everything, for tests.

use std::collections::BTreeMap;

use super::view::{HeldCounts, OwnerCounts, View};
use crate::aggregate::gaps::{Gap, GapState};
use crate::aggregate::snapshot::{
    AccountingOverflow, Counted, Forecast, Honesty, KernelStats, OutcomeCount, ProbeState, Repairs, Snapshot,
    Table,
};
use crate::attribute::discovery::{Disagreements, Discovery, KINDS, NO_LOGS};
use crate::attribute::owner::Owner;
use crate::attribute::verdict::Effect;

pub(crate) fn pod(name: &str) -> Owner {
    Owner::Pod { namespace: "shop".into(), pod: name.into(), uid: format!("uid-{name}") }
}

pub(crate) fn probe(probe: &'static str, mechanism: &'static str) -> ProbeState {
    let attached = mechanism != "none";
    ProbeState {
        probe,
        purpose: "what it serves",
        mechanism,
        target: attached.then(|| format!("{probe}_function")),
        reason: (!attached).then(|| "the kernel refused it: EPERM".to_owned()),
        missed: attached.then_some(0),
        caught: (mechanism == "fentry").then_some(2),
        runs: attached.then_some(1000),
        run_time_ns: attached.then_some(2_500_000),
    }
}

pub(crate) fn table(netns: u32, owner: Owner) -> Table {
    let statistics = |invalid| KernelStats {
        invalid: Some(invalid),
        insert_failed: Some(6),
        drop: Some(40),
        early_drop: Some(12),
        error: Some(1),
        search_restart: Some(2),
        clash_resolve: Some(3),
        chain_too_long: None,
    };
    Table {
        netns,
        host: owner == Owner::Host,
        buckets: (owner == Owner::Host).then_some(65_536),
        owner,
        entries: Some(200),
        limit: Some(256),
        accounted: Some(201),
        counted: Some(Counted {
            allocs: 5_000,
            frees: 4_800,
            table_full: 30,
            refused: 31,
            refusal_events: 20,
            refusal_suppressed: 10,
            refusal_lost: 1,
            inserts: 4_900,
            evicted_early_drop: 12,
            evicted_gc: 2,
            clash_lost: 3,
            chain_too_long: 2,
            dying: 1,
            inferred_refusals: 29,
            ..Counted::default()
        }),
        kernel: Some(statistics(9)),
        kernel_at_start: Some(statistics(4)),
        owners: None,
        forecast: (netns == 1).then(|| Forecast {
            seconds_to_full: 240.0,
            growth_per_second: 0.25,
            drivers: vec![(pod("web-0"), 0.2)],
        }),
    }
}

fn gap(kind: &'static str, state: GapState) -> Gap {
    let told = |text: &str| (state != GapState::Absent).then(|| text.to_owned());
    Gap {
        kind,
        state,
        found: told("rules exempt packets from tracking"),
        advice: told("nothing if that is meant"),
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let names = ["alloc", "free", "early_drop", "confirm", "delete", "gc_worker", "clash", "kfree_skb"];
    let mut probes: Vec<ProbeState> = names.iter().map(|n| probe(n, "fentry")).collect();
    probes.push(probe("invalid", "none"));
    Snapshot {
        conntrack_loaded: true,
        tables: vec![table(1, Owner::Host), table(2, pod("web-0")), table(3, Owner::Unknown)],
        before_start: Some(KernelStats { drop: Some(17), early_drop: Some(5), ..KernelStats::default() }),
        probes,
        coverage: vec![
            gap("notrack", GapState::Present),
            gap("ipvs", GapState::Absent),
            gap("zones", GapState::Unknown),
        ],
        outcomes: [
            (Effect::Reset, "evicted", 4),
            (Effect::ConnectTimeout, "table_full", 6),
            (Effect::SlowConnect, "race", 1),
            (Effect::Stall, "table_full", 2),
            (Effect::UdpRefused, "table_full", 7),
            (Effect::DnsStall, "race", 3),
        ]
        .map(|(effect, cause, count)| OutcomeCount {
            owner: pod("web-0"),
            effect,
            cause,
            confidence: "exact",
            count,
        })
        .into(),
        discovery: Some(Discovery {
            kubernetes: "synced",
            reason: None,
            last_error: None,
            stale_seconds: None,
            api_pods: Some(3),
            services: Some("synced"),
            services_reason: None,
            api_services: Some(5),
            log_pods: 2,
            disagreements: Some(Disagreements {
                counts: KINDS.map(|kind| (kind, u64::from(kind == NO_LOGS))).into(),
                examples: [(NO_LOGS, "shop/cart runs, but has no log directory".to_owned())].into(),
            }),
        }),
        honesty: Honesty {
            accounting: AccountingOverflow { unplaced: Some(0), ..AccountingOverflow::default() },
            repairs: Some(Repairs { audits: 1, adopted: 40, swept: 2 }),
            tokens_pushed_out: Some([("refusal", 0), ("eviction", 3)]),
            tables_in_overflow: 0,
            log_events_lost: 0,
            collectors: BTreeMap::from([("ctnetlink", true), ("namespaces", false)]),
            drift_entries: Some(1),
            maps: BTreeMap::from([("tables", (Some(3), 1024)), ("tokens", (None, 65_536))]),
        },
    }
}

pub(crate) fn view() -> View {
    let held = Some(HeldCounts { entries: 7, responder_entries: 3, inserts: Some(70) });
    let counts = |owner, drops| OwnerCounts { table: "host", owner, held, drops, evictions: 2 };
    let cgroup = Owner::Cgroup { cgroup: "system.slice/ntp.service".into() };
    View {
        snapshot: snapshot(),
        owners: vec![counts(pod("web-0"), 25), counts(cgroup, 4), counts(Owner::Unknown, 1)],
    }
}

//! A node in trouble, for tests: one pod fills the table, another is refused.

use super::wire::{Counted, Document, Forecast, Losses, Owners, Part, Table};
use crate::attribute::owner::Owner;
use crate::export::fixture::pod;

/// The host's namespace.
pub(crate) const HOST: u32 = 4_026_531_840;
/// A pod's with a table of its own.
pub(crate) const POD: u32 = 4_026_532_001;
/// One that nobody is known to own.
pub(crate) const OTHER: u32 = 4_026_532_002;

fn part(owner: Owner, entries: i64, inserts: f64) -> Part {
    Part { owner, entries, inserts_per_second: Some(inserts) }
}

fn table(netns: u32, owner: Owner, entries: u64) -> Table {
    let counted = Counted { table_full: 0, inferred_refusals: 0, evicted_early_drop: 0, evicted_gc: 0 };
    Table {
        netns,
        host: owner == Owner::Host,
        owner: owner.clone(),
        entries: Some(entries),
        limit: Some(262_144),
        counted: Some(counted),
        owners: Some(Owners { source: "probes".into(), parts: vec![part(owner, entries as i64, 0.5)] }),
        forecast: None,
    }
}

pub(crate) fn crawler() -> Owner {
    Owner::Pod { namespace: "batch".into(), pod: "crawler-7d9f".into(), uid: "uid-crawler".into() }
}

pub(crate) fn document() -> Document {
    let mut host = table(HOST, Owner::Host, 249_037);
    host.counted =
        Some(Counted { table_full: 1300, inferred_refusals: 0, evicted_early_drop: 40, evicted_gc: 2 });
    let ntp = Owner::Cgroup { cgroup: "system.slice/ntp.service".into() };
    host.owners = Some(Owners {
        source: "probes".into(),
        parts: vec![
            part(crawler(), 196_608, 412.0),
            part(pod("web-0"), 30_210, 95.5),
            part(ntp.clone(), 12, 0.1),
            part(Owner::Host, 1_801, 3.25),
            part(Owner::External, 20_406, 61.0),
        ],
    });
    host.forecast = Some(Forecast {
        seconds_to_full: 252.0,
        growth_per_second: 52.0,
        drivers: vec![(crawler(), 49.5), (pod("web-0"), 2.0)],
    });
    let losses = |owner, drops, evictions| Losses { table: "host".into(), owner, drops, evictions };
    Document {
        version: "1.2.3".into(),
        age_seconds: Some(0.4),
        conntrack_loaded: true,
        tables: vec![host, table(POD, pod("web-0"), 9_000), table(OTHER, Owner::Unknown, 17)],
        owner_losses: vec![losses(pod("web-0"), 1200, 30), losses(ntp, 100, 12)],
    }
}

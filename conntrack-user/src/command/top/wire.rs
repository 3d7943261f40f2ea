//! The document of `/snapshot`, as far as `top` reads it.

use anyhow::Context as _;
use serde::Deserialize;

use crate::attribute::owner::Owner;

/// All that is known.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Document {
    /// Version of the program that made it.
    pub version: String,
    /// Time since it was read, seconds; None: just now.
    pub age_seconds: Option<f64>,
    /// Is conntrack in the kernel?
    pub conntrack_loaded: bool,
    /// One for each namespace with a table.
    pub tables: Vec<Table>,
    /// What each owner suffered since start.
    pub owner_losses: Vec<Losses>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Table {
    /// Inode of the namespace.
    pub netns: u32,
    /// Is it the host's?
    pub host: bool,
    /// Whose namespace it is.
    pub owner: Owner,
    /// Entries now; None: not known.
    pub entries: Option<u64>,
    /// The limit; None: not known, or there is none.
    pub limit: Option<u64>,
    /// What probes counted; None without probes.
    pub counted: Option<Counted>,
    /// Who holds the entries; None: not known.
    pub owners: Option<Owners>,
    /// When it will be full; None: not filling.
    pub forecast: Option<Forecast>,
}

/// What the probes counted of one table, since start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Counted {
    /// New connections refused because the table was full.
    pub table_full: u64,
    /// The same, concluded without probes on conntrack.
    pub inferred_refusals: u64,
    /// Entries evicted to make room.
    pub evicted_early_drop: u64,
    /// Entries evicted by the garbage collector.
    pub evicted_gc: u64,
}

impl Counted {
    /// Refusals, however they were found out.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.table_full.max(self.inferred_refusals)
    }

    /// Evictions of both causes.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted_early_drop.saturating_add(self.evicted_gc)
    }
}

/// Who holds a table's entries.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Owners {
    /// "probes" or "dump".
    pub source: String,
    /// One for each owner.
    pub parts: Vec<Part>,
}

/// One owner's part.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Part {
    /// Who made the entries.
    #[serde(flatten)]
    pub owner: Owner,
    /// Entries held now.
    pub entries: i64,
    /// Entries confirmed a second; None: not known.
    pub inserts_per_second: Option<f64>,
}

/// When a table will be full.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Forecast {
    /// Seconds until the limit.
    pub seconds_to_full: f64,
    /// Entries a second by which it grows.
    pub growth_per_second: f64,
    /// The owners whose entries grow: (owner, entries a second).
    pub drivers: Vec<(Owner, f64)>,
}

/// What one owner suffered in one kind of table, since start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Losses {
    /// "host", "pod" or "netns".
    pub table: String,
    /// Whose connections they were.
    #[serde(flatten)]
    pub owner: Owner,
    /// New connections refused.
    pub drops: u64,
    /// Entries evicted.
    pub evictions: u64,
}

/// Reads a document.
///
/// # Errors
/// One line, if it is none.
pub fn read(text: &str) -> anyhow::Result<Document> {
    serde_json::from_str(text).context("what it answers is no snapshot of conntrack-pressure")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::snapshot::{OwnerPart, Owners};
    use crate::export::{fixture, snapshot_json};

    #[test]
    fn what_the_daemon_writes_can_be_read() {
        let mut view = fixture::view();
        let owners = [
            fixture::pod("web-0"),
            Owner::Cgroup { cgroup: "system.slice".into() },
            Owner::Host,
            Owner::External,
            Owner::Unknown,
        ];
        let part = |owner: &Owner| OwnerPart {
            owner: owner.clone(),
            entries: -3,
            responder_entries: 1,
            inserts: Some(7),
            inserts_per_second: Some(0.5),
        };
        view.snapshot.tables[0].owners =
            Some(Owners { source: "probes", parts: owners.iter().map(part).collect() });
        view.snapshot.tables[1].entries = None;
        let document = read(&snapshot_json::line(&view, None).unwrap()).unwrap();
        let table = &document.tables[0];
        assert_eq!((table.entries, table.limit, table.host), (Some(200), Some(256), true));
        assert_eq!(table.counted.map(|c| (c.refused(), c.evicted())), Some((30, 14)));
        let parts = &table.owners.as_ref().unwrap().parts;
        assert_eq!(parts.iter().map(|p| p.owner.clone()).collect::<Vec<_>>(), owners);
        assert_eq!((parts[0].entries, parts[0].inserts_per_second), (-3, Some(0.5)));
        assert_eq!(table.forecast.as_ref().unwrap().drivers, [(fixture::pod("web-0"), 0.2)]);
        assert_eq!((document.tables[1].entries, document.tables[1].forecast.is_none()), (None, true));
        assert_eq!(document.owner_losses.len(), 3);
    }

    #[test]
    fn anything_else_is_one_line() {
        let error = format!("{:#}", read("<html>").unwrap_err());
        assert!(error.contains("no snapshot") && !error.contains('\n'), "{error}");
    }
}

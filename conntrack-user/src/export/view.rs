//! What the exporter is given, and by whom.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::aggregate::snapshot::Snapshot;
use crate::attribute::owner::Owner;

/// What one owner has and suffered in one kind of table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OwnerCounts {
    /// In whose table: "host", "pod" or "netns", as [`crate::export::labels::table_kind`] names them.
    pub table: &'static str,
    /// Whose connections they were.
    #[serde(flatten)]
    pub owner: Owner,
    /// Entries held, and entries answered. None: not known. In JSON each table has its own.
    #[serde(skip)]
    pub held: Option<HeldCounts>,
    /// New connections refused since start, suppressed events included.
    pub drops: u64,
    /// Entries evicted since start, suppressed events included.
    pub evictions: u64,
}

/// What one owner holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldCounts {
    /// As [`crate::aggregate::snapshot::OwnerPart::entries`].
    pub entries: i64,
    /// As [`crate::aggregate::snapshot::OwnerPart::responder_entries`].
    pub responder_entries: i64,
    /// As [`crate::aggregate::snapshot::OwnerPart::inserts`].
    pub inserts: Option<u64>,
}

/// All that one scrape prints.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The state of the node.
    pub snapshot: Snapshot,
    /// What each owner has and suffered; none of those who have nothing and suffered nothing.
    pub owners: Vec<OwnerCounts>,
}

/// A future that the server can hold on to.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who makes views: the daemon's loop, or a fixture.
pub trait SnapshotSource: Send + Sync + 'static {
    /// Reads everything anew. Called for one scrape at a time: concurrent scrapes share.
    ///
    /// # Errors
    /// One line saying what could not be read.
    fn refresh(&self) -> Later<'_, anyhow::Result<Arc<View>>>;
    /// The last view made, whoever asked for it; None before the first.
    fn latest(&self) -> Option<Arc<View>>;
    /// Time since the loop last came round; None before its first round.
    fn heartbeat_age(&self) -> Option<Duration>;
}

//! When a table without probes is dumped: often enough to be of use, seldom enough to cost little.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::snapshot::Owners;

/// Between two dumps of one table, at least.
const LEAST: Duration = Duration::from_secs(5);
/// A dump may take one part in so many of the time: 5 % of one processor.
const SHARE: u32 = 20;

/// The last dump of every table.
#[derive(Debug, Default)]
pub struct DumpTier {
    tables: HashMap<u32, Held>,
}

#[derive(Debug)]
struct Held {
    begun: Instant,
    took: Duration,
    /// None: the dump failed. What an earlier one said is too old by now.
    owners: Option<Owners>,
}

impl DumpTier {
    /// Owners of the table of `netns`, by a dump that is made now if one is due, else by the last. `dump` makes it and
    /// says how long that took. None: the last dump failed.
    pub fn owners(
        &mut self,
        netns: u32,
        now: Instant,
        dump: impl FnOnce() -> (Option<Owners>, Duration),
    ) -> Option<&Owners> {
        if self.tables.get(&netns).is_none_or(|held| is_due(held.begun, held.took, now)) {
            let (owners, took) = dump();
            self.tables.insert(netns, Held { begun: now, took, owners });
        }
        self.tables.get(&netns)?.owners.as_ref()
    }

    /// Forgets the tables of namespaces that are gone.
    pub fn keep_only(&mut self, netns: impl IntoIterator<Item = u32>) {
        let kept: HashSet<u32> = netns.into_iter().collect();
        self.tables.retain(|netns, _| kept.contains(netns));
    }
}

/// Is a table to be dumped again?
fn is_due(begun: Instant, took: Duration, now: Instant) -> bool {
    now.saturating_duration_since(begun) >= LEAST.max(took * SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(source: &'static str) -> (Option<Owners>, Duration) {
        (Some(Owners { source, parts: Vec::new() }), Duration::from_millis(10))
    }

    #[test]
    fn a_dump_takes_a_twentieth_of_the_time_at_most() {
        let now = Instant::now();
        let seconds = Duration::from_secs;
        for (took, least) in [(0, 5_000), (250, 5_000), (251, 5_020), (1_000, 20_000)] {
            let (took, least) = (Duration::from_millis(took), Duration::from_millis(least));
            assert!(!is_due(now, took, now + least - Duration::from_millis(1)), "{took:?}");
            assert!(is_due(now, took, now + least), "{took:?}");
        }
        assert!(!is_due(now + seconds(9), Duration::ZERO, now), "a clock that stands still");
    }

    #[test]
    fn each_table_keeps_its_last_dump() {
        let now = Instant::now();
        let mut tier = DumpTier::default();
        let source = |owners: Option<&Owners>| owners.map(|owners| owners.source);
        assert_eq!(source(tier.owners(1, now, || owners("a"))), Some("a"));
        assert_eq!(source(tier.owners(2, now, || owners("b"))), Some("b"));
        assert_eq!(source(tier.owners(1, now + LEAST / 2, || panic!("too early"))), Some("a"));
        assert_eq!(source(tier.owners(1, now + LEAST, || owners("c"))), Some("c"));
        tier.keep_only([1]);
        assert_eq!(tier.tables.len(), 1);
        assert_eq!(source(tier.owners(2, now + LEAST / 2, || owners("d"))), Some("d"), "a new table");
    }

    #[test]
    fn a_dump_that_failed_tells_nothing_and_is_not_asked_again_at_once() {
        let now = Instant::now();
        let mut tier = DumpTier::default();
        assert!(tier.owners(1, now, || owners("a")).is_some());
        assert!(tier.owners(1, now + LEAST, || (None, Duration::from_secs(1))).is_none());
        assert!(tier.owners(1, now + LEAST + Duration::from_secs(19), || panic!("too early")).is_none());
        assert!(tier.owners(1, now + LEAST + Duration::from_secs(20), || owners("a")).is_some());
    }
}

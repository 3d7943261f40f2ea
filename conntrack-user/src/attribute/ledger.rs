//! What each owner suffered: connections refused, entries evicted, resets by cause. Counters that only grow, until
//! their owner has been gone for a while; to bound the number of series is the exporter's part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use conntrack_common::EventKind;

use super::owner::Owner;
use super::resets::{CAUSE_EVICTED, CAUSE_UNRELATED, CONFIDENCE_INFERRED, CONFIDENCE_WINDOW, ResetVerdict};
use crate::aggregate::snapshot::{ResetCount, Table};

/// How long the counters of an owner that is gone stay: two scrapes, and what is still to come of its last second.
pub const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Kind of table: "host", "pod" or "netns".
type TableKind = &'static str;

/// One owner's losses in one kind of table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// New connections refused.
    pub drops: u64,
    /// Entries evicted.
    pub evictions: u64,
}

/// All counters by owner.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    losses: BTreeMap<(TableKind, Owner), Losses>,
    resets: BTreeMap<(Owner, &'static str, &'static str), u64>,
    /// Namespace → resets without a token, as last read.
    unexplained: BTreeMap<u32, u64>,
    /// Owners that have counters and are gone → since when.
    gone: BTreeMap<Owner, Instant>,
}

impl Ledger {
    /// Counts `times` refusals or evictions; other kinds are none of these.
    pub fn lost(&mut self, kind: EventKind, table: TableKind, owner: &Owner, times: u64) {
        let losses = |ledger: &mut Self, drops, evictions| {
            let losses = ledger.losses.entry((table, owner.clone())).or_default();
            losses.drops += drops;
            losses.evictions += evictions;
        };
        match kind {
            EventKind::RefusedTableFull
            | EventKind::RefusedNoMemory
            | EventKind::Refused
            | EventKind::InferredRefusal => losses(self, times, 0),
            EventKind::EvictedEarlyDrop | EventKind::EvictedGc => losses(self, 0, times),
            EventKind::ResetSent | EventKind::ResetReceived | EventKind::ClashLost | EventKind::Invalid => {}
        }
    }

    /// Counts a reset that matched a token: once a connection, whichever of its ends is seen first.
    pub fn reset(&mut self, owner: &Owner, verdict: Option<&ResetVerdict>, repeated: bool) {
        if let (Some(verdict), false) = (verdict, repeated) {
            *self.resets.entry((owner.clone(), verdict.cause, verdict.confidence)).or_insert(0) += 1;
        }
    }

    /// Counts resets that matched a token but whose records were held back. Whether each is proof is in the
    /// record, so none is called exact.
    pub fn resets_withheld(&mut self, owner: &Owner, count: u64) {
        *self.resets.entry((owner.clone(), CAUSE_EVICTED, CONFIDENCE_WINDOW)).or_insert(0) += count;
    }

    /// Counts the resets of each namespace that matched no token: all, less those that did. `owner_of` says
    /// whose the sockets of a namespace are.
    pub fn unexplained(&mut self, tables: &[Table], owner_of: impl Fn(&Table) -> Owner) {
        let mut seen = BTreeMap::new();
        for table in tables {
            let Some(c) = table.counted else { continue };
            let now = (c.resets_sent + c.resets_received).saturating_sub(c.resets_evicted);
            // Counters of a namespace that is gone start again at 0 when its inode is used again.
            let before = self.unexplained.get(&table.netns).copied().filter(|b| *b <= now).unwrap_or(0);
            if now > before {
                let key = (owner_of(table), CAUSE_UNRELATED, CONFIDENCE_INFERRED);
                *self.resets.entry(key).or_insert(0) += now - before;
            }
            seen.insert(table.netns, now);
        }
        self.unexplained = seen;
    }

    /// Forgets the pods and cgroups that have been gone for [`FORGET_AFTER`]. `present` are all that are here; ask only
    /// when that is everyone, for who is missed in it for so long loses its counters. One that comes back in time
    /// keeps them.
    pub fn retire<'a>(&mut self, present: impl IntoIterator<Item = &'a Owner>, now: Instant) {
        let mut counted: BTreeSet<&Owner> = self.losses.keys().map(|(_, owner)| owner).collect();
        counted.extend(self.resets.keys().map(|(owner, ..)| owner));
        counted.retain(|owner| matches!(owner, Owner::Pod { .. } | Owner::Cgroup { .. }));
        for owner in present {
            counted.remove(owner);
            if counted.is_empty() {
                break;
            }
        }
        self.gone.retain(|owner, _| counted.contains(owner));
        let gone: Vec<Owner> = counted.into_iter().cloned().collect();
        for owner in gone {
            self.gone.entry(owner).or_insert(now);
        }
        let past = |since: &Instant| now.saturating_duration_since(*since) >= FORGET_AFTER;
        let forgotten: BTreeSet<Owner> =
            self.gone.iter().filter(|(_, since)| past(since)).map(|(owner, _)| owner.clone()).collect();
        if !forgotten.is_empty() {
            self.gone.retain(|owner, _| !forgotten.contains(owner));
            self.losses.retain(|(_, owner), _| !forgotten.contains(owner));
            self.resets.retain(|(owner, ..), _| !forgotten.contains(owner));
        }
    }

    /// Every owner's losses so far.
    pub fn losses(&self) -> impl Iterator<Item = (TableKind, &Owner, Losses)> {
        self.losses.iter().map(|((table, owner), losses)| (*table, owner, *losses))
    }

    /// Every reset so far, in the order of owners.
    #[must_use]
    pub fn resets(&self) -> Vec<ResetCount> {
        self.resets
            .iter()
            .map(|((owner, cause, confidence), &count)| ResetCount {
                owner: owner.clone(),
                cause,
                confidence,
                count,
            })
            .collect()
    }
}

#[cfg(test)]
mod retire_tests;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::aggregate::snapshot::Counted;

    fn resets(ledger: &Ledger) -> Vec<(Owner, &'static str, &'static str, u64)> {
        ledger.resets().into_iter().map(|c| (c.owner, c.cause, c.confidence, c.count)).collect()
    }

    #[test]
    fn counts_a_connection_once() {
        let verdict = |confidence| ResetVerdict { cause: "evicted", confidence, age: Duration::from_secs(1) };
        let mut ledger = Ledger::default();
        ledger.reset(&Owner::Host, Some(&verdict("exact")), false);
        ledger.reset(&Owner::Host, Some(&verdict("exact")), true);
        ledger.reset(&Owner::Host, Some(&verdict("exact")), false);
        ledger.reset(&Owner::Host, Some(&verdict("window")), false);
        ledger.resets_withheld(&Owner::Host, 3);
        ledger.reset(&Owner::External, None, false);
        let host = |confidence, count| (Owner::Host, "evicted", confidence, count);
        assert_eq!(resets(&ledger), [host("exact", 2), host("window", 4)]);
    }

    #[test]
    fn refusals_and_evictions_are_apart() {
        let mut ledger = Ledger::default();
        ledger.lost(EventKind::RefusedTableFull, "host", &Owner::Host, 2);
        ledger.lost(EventKind::EvictedGc, "host", &Owner::Host, 3);
        ledger.lost(EventKind::ClashLost, "host", &Owner::Host, 4);
        ledger.lost(EventKind::Refused, "pod", &Owner::Host, 5);
        let all: Vec<_> = ledger.losses().map(|(table, _, l)| (table, l.drops, l.evictions)).collect();
        assert_eq!(all, [("host", 2, 3), ("pod", 5, 0)]);
    }

    #[test]
    fn what_matched_no_token_is_unrelated() {
        let table = |sent, received, evicted| Table {
            netns: 7,
            host: false,
            owner: Owner::Unknown,
            entries: None,
            limit: None,
            buckets: None,
            accounted: None,
            counted: Some(Counted {
                resets_sent: sent,
                resets_received: received,
                resets_evicted: evicted,
                ..Counted::default()
            }),
            kernel: None,
            kernel_at_start: None,
            owners: None,
            forecast: None,
        };
        let mut ledger = Ledger::default();
        ledger.unexplained(&[table(3, 2, 1)], |_| Owner::Unknown);
        ledger.unexplained(&[table(3, 2, 1)], |_| Owner::Unknown);
        assert_eq!(resets(&ledger), [(Owner::Unknown, "unrelated", "inferred", 4)]);
        ledger.unexplained(&[table(1, 0, 0)], |_| Owner::Unknown);
        assert_eq!(resets(&ledger)[0].3, 5, "counters that started again");
    }
}

//! What each owner suffered: connections refused, entries evicted, outcomes by cause. Counters that only grow, until
//! their owner has been gone for a while; to bound the number of series is the exporter's part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use conntrack_common::EventKind;

use super::owner::Owner;
use super::verdict::{CAUSE_UNRELATED, CONFIDENCE_INFERRED, Effect, Verdict};
use crate::aggregate::snapshot::{Counted, OutcomeCount, Table};

/// How long the counters of an owner that is gone stay: two scrapes, and what is still to come of its last second.
pub const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Effect, cause, confidence.
type Outcome = (Effect, &'static str, &'static str);

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
    outcomes: BTreeMap<(Owner, Outcome), u64>,
    /// Namespace → outcomes without a token, as last read.
    unexplained: BTreeMap<(u32, Effect), u64>,
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
            EventKind::ResetSent
            | EventKind::ResetReceived
            | EventKind::ClashLost
            | EventKind::Invalid
            | EventKind::ConnectedLate
            | EventKind::ConnectGivenUp
            | EventKind::Stalled => {}
        }
    }

    /// Counts `times` outcomes with this verdict.
    pub fn outcome(&mut self, owner: &Owner, verdict: &Verdict, times: u64) {
        let outcome = (verdict.effect, verdict.cause, verdict.confidence);
        *self.outcomes.entry((owner.clone(), outcome)).or_insert(0) += times;
    }

    /// Counts the resets, and the connections given up, of each namespace that matched no token: all, less those that
    /// did. `owner_of` says whose the sockets of a namespace are.
    pub fn unexplained(&mut self, tables: &[Table], owner_of: impl Fn(&Table) -> Owner) {
        let mut seen = BTreeMap::new();
        for table in tables {
            let Some(counted) = &table.counted else { continue };
            for (effect, now) in without_token(counted) {
                let key = (table.netns, effect);
                // Counters of a namespace that is gone start again at 0 when its inode is used again.
                let before = self.unexplained.get(&key).copied().filter(|before| *before <= now).unwrap_or(0);
                if now > before {
                    let outcome = (effect, CAUSE_UNRELATED, CONFIDENCE_INFERRED);
                    *self.outcomes.entry((owner_of(table), outcome)).or_insert(0) += now - before;
                }
                seen.insert(key, now);
            }
        }
        self.unexplained = seen;
    }

    /// Forgets the pods and cgroups that have been gone for [`FORGET_AFTER`]. `present` are all that are here; ask only
    /// when that is everyone, for who is missed in it for so long loses its counters. One that comes back in time
    /// keeps them.
    pub fn retire<'a>(&mut self, present: impl IntoIterator<Item = &'a Owner>, now: Instant) {
        let mut counted: BTreeSet<&Owner> = self.losses.keys().map(|(_, owner)| owner).collect();
        counted.extend(self.outcomes.keys().map(|(owner, _)| owner));
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
            self.outcomes.retain(|(owner, _), _| !forgotten.contains(owner));
        }
    }

    /// Every owner's losses so far.
    pub fn losses(&self) -> impl Iterator<Item = (TableKind, &Owner, Losses)> {
        self.losses.iter().map(|((table, owner), losses)| (*table, owner, *losses))
    }

    /// Every outcome so far, in the order of owners.
    #[must_use]
    pub fn outcomes(&self) -> Vec<OutcomeCount> {
        let outcomes = self.outcomes.iter();
        outcomes
            .map(|((owner, (effect, cause, confidence)), &count)| OutcomeCount {
                owner: owner.clone(),
                effect: *effect,
                cause,
                confidence,
                count,
            })
            .collect()
    }
}

/// Outcomes of a namespace that matched no token.
fn without_token(counted: &Counted) -> [(Effect, u64); 2] {
    let resets = (counted.resets_sent + counted.resets_received).saturating_sub(counted.resets_evicted);
    let given_up = counted.connects_given_up.saturating_sub(counted.connects_refused);
    [(Effect::Reset, resets), (Effect::ConnectTimeout, given_up)]
}

#[cfg(test)]
mod retire_tests;

#[cfg(test)]
mod tests {
    use super::super::verdict::judge;
    use super::*;

    fn outcomes(ledger: &Ledger) -> Vec<(Owner, Effect, &'static str, &'static str, u64)> {
        ledger.outcomes().into_iter().map(|c| (c.owner, c.effect, c.cause, c.confidence, c.count)).collect()
    }

    #[test]
    fn outcomes_are_counted_by_verdict() {
        let reset = |kind| judge(kind, Some(EventKind::Invalid), 0).unwrap();
        let mut ledger = Ledger::default();
        ledger.outcome(&Owner::Host, &reset(EventKind::ResetSent), 1);
        ledger.outcome(&Owner::Host, &reset(EventKind::ResetSent), 1);
        ledger.outcome(&Owner::Host, &reset(EventKind::ResetReceived), 3);
        let host = |confidence, count| (Owner::Host, Effect::Reset, "invalid", confidence, count);
        assert_eq!(outcomes(&ledger), [host("exact", 2), host("window", 3)]);
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
        let table = |sent, received, evicted, given_up| Table {
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
                connects_given_up: given_up,
                connects_refused: 1,
                ..Counted::default()
            }),
            kernel: None,
            kernel_at_start: None,
            owners: None,
            forecast: None,
        };
        let mut ledger = Ledger::default();
        ledger.unexplained(&[table(3, 2, 1, 7)], |_| Owner::Unknown);
        ledger.unexplained(&[table(3, 2, 1, 7)], |_| Owner::Unknown);
        let unknown = |effect, count| (Owner::Unknown, effect, "unrelated", "inferred", count);
        assert_eq!(outcomes(&ledger), [unknown(Effect::Reset, 4), unknown(Effect::ConnectTimeout, 6)]);
        ledger.unexplained(&[table(1, 0, 0, 7)], |_| Owner::Unknown);
        assert_eq!(outcomes(&ledger)[0].4, 5, "counters that started again");
    }
}

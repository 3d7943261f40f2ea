//! How many connections were reset, by whom it hurt and why.

use std::collections::BTreeMap;

use super::owner::Owner;
use super::resets::{CAUSE_UNRELATED, CONFIDENCE_WINDOW, ResetVerdict};
use crate::aggregate::snapshot::ResetCount;

/// Counters that only grow. One for each (owner, cause, confidence) seen: to bound the number of owners is
/// the exporter's part.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    counts: BTreeMap<(Owner, &'static str, &'static str), u64>,
}

impl Ledger {
    /// Counts one reset's record: once a connection, whichever of its ends is seen first. Without a verdict
    /// it is unrelated: of an evicted flow, but too late to be blamed on it. Returns whether it was counted.
    pub fn record(&mut self, owner: &Owner, verdict: Option<&ResetVerdict>, repeated: bool) -> bool {
        if repeated {
            return false;
        }
        let (cause, confidence) = verdict
            .map_or((CAUSE_UNRELATED, CONFIDENCE_WINDOW), |verdict| (verdict.cause, verdict.confidence));
        *self.counts.entry((owner.clone(), cause, confidence)).or_insert(0) += 1;
        true
    }

    /// Everything counted so far, in the order of owners.
    #[must_use]
    pub fn counts(&self) -> Vec<ResetCount> {
        self.counts
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
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_a_connection_once() {
        let verdict = |confidence| ResetVerdict { cause: "evicted", confidence, age: Duration::from_secs(1) };
        let mut ledger = Ledger::default();
        assert!(ledger.record(&Owner::Host, Some(&verdict("exact")), false));
        assert!(!ledger.record(&Owner::Host, Some(&verdict("exact")), true));
        assert!(ledger.record(&Owner::Host, Some(&verdict("exact")), false));
        assert!(ledger.record(&Owner::Host, Some(&verdict("window")), false));
        assert!(ledger.record(&Owner::External, None, false));
        let counts: Vec<_> =
            ledger.counts().into_iter().map(|c| (c.owner, c.cause, c.confidence, c.count)).collect();
        assert_eq!(
            counts,
            [
                (Owner::Host, "evicted", "exact", 2),
                (Owner::Host, "evicted", "window", 1),
                (Owner::External, "unrelated", "window", 1),
            ]
        );
    }
}

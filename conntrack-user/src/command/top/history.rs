//! Rates, from the last few documents.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::wire::{Document, Table};
use crate::attribute::owner::Owner;

/// What rates are over.
const OVER: Duration = Duration::from_secs(5);
/// Documents kept, at most.
const KEPT: usize = 32;

/// The last documents, the newest last.
#[derive(Clone, Debug, Default)]
pub struct History {
    documents: VecDeque<(Instant, Document)>,
}

impl History {
    /// Takes in a document as received at `now`.
    pub fn enter(&mut self, now: Instant, document: Document) {
        self.documents.push_back((now, document));
        // One that is old enough stays, to count from.
        while self.documents.len() > KEPT
            || self.documents.get(1).is_some_and(|(then, _)| now.saturating_duration_since(*then) >= OVER)
        {
            self.documents.pop_front();
        }
    }

    /// The newest.
    #[must_use]
    pub fn latest(&self) -> Option<&Document> {
        self.documents.back().map(|(_, document)| document)
    }

    /// When it came.
    #[must_use]
    pub fn received(&self) -> Option<Instant> {
        self.documents.back().map(|(then, _)| *then)
    }

    /// By how much a figure of one table changed, a second. None: it is known of one document only.
    #[must_use]
    pub fn change(&self, netns: u32, read: impl Fn(&Table) -> Option<u64>) -> Option<f64> {
        let of = |document: &Document| read(document.tables.iter().find(|table| table.netns == netns)?);
        self.rate(|document| of(document).map(|n| n as f64))
    }

    /// How much one owner suffered, a second: of refusals, and of evictions. None as above, or after a restart.
    #[must_use]
    pub fn losses(&self, table: &str, owner: &Owner) -> (Option<f64>, Option<f64>) {
        // Who is not there has suffered nothing so far.
        let of = |document: &Document| {
            let mut all = document.owner_losses.iter();
            all.find(|l| l.table == table && l.owner == *owner).map_or((0, 0), |l| (l.drops, l.evictions))
        };
        let never_falls = |rate: Option<f64>| rate.filter(|rate| *rate >= 0.0);
        (
            never_falls(self.rate(|document| Some(of(document).0 as f64))),
            never_falls(self.rate(|document| Some(of(document).1 as f64))),
        )
    }

    fn rate(&self, read: impl Fn(&Document) -> Option<f64>) -> Option<f64> {
        let ((then, before), (now, after)) = (self.documents.front()?, self.documents.back()?);
        let seconds = now.saturating_duration_since(*then).as_secs_f64();
        (seconds > 0.0).then_some((read(after)? - read(before)?) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::example;

    fn at(start: Instant, seconds: u64, drops: u64, entries: u64) -> (Instant, Document) {
        let mut document = example::document();
        document.owner_losses[0].drops = drops;
        document.tables[0].entries = Some(entries);
        (start + Duration::from_secs(seconds), document)
    }

    fn history(of: &[(u64, u64, u64)]) -> History {
        let start = Instant::now();
        let mut history = History::default();
        for (seconds, drops, entries) in of {
            let (now, document) = at(start, *seconds, *drops, *entries);
            history.enter(now, document);
        }
        history
    }

    #[test]
    fn rates_are_over_the_last_seconds() {
        let one = history(&[(0, 5, 100)]);
        let losses = &one.latest().unwrap().owner_losses[0];
        let (table, owner) = (losses.table.clone(), losses.owner.clone());
        let netns = one.latest().unwrap().tables[0].netns;
        assert_eq!((one.losses(&table, &owner).0, one.change(netns, |t| t.entries)), (None, None));
        let two = history(&[(0, 5, 100), (2, 25, 80)]);
        assert_eq!(
            (two.losses(&table, &owner).0, two.change(netns, |t| t.entries)),
            (Some(10.0), Some(-10.0))
        );
        let long =
            history(&[(0, 0, 0), (1, 1000, 0), (2, 1001, 0), (3, 1002, 0), (6, 1005, 0), (7, 1006, 0)]);
        assert_eq!(long.losses(&table, &owner).0, Some(1.0), "what is older has gone");
    }

    #[test]
    fn a_restart_and_a_new_owner() {
        let again = history(&[(0, 500, 100), (1, 3, 100)]);
        let losses = again.latest().unwrap().owner_losses[0].clone();
        assert_eq!(again.losses(&losses.table, &losses.owner).0, None, "a count that fell is no rate");
        let mut history = history(&[(0, 0, 100), (1, 0, 100)]);
        let mut document = example::document();
        document.owner_losses[0].owner =
            Owner::Pod { namespace: "n".into(), pod: "new".into(), uid: String::new() };
        document.owner_losses[0].drops = 8;
        let new = document.owner_losses[0].clone();
        history.enter(history.received().unwrap() + Duration::from_secs(1), document);
        assert_eq!(history.losses(&new.table, &new.owner).0, Some(4.0));
        assert_eq!(history.change(4711, |t| t.entries), None, "there is no such table");
    }
}

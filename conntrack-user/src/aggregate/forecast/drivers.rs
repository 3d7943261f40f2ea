//! The owners whose entries grow.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::aggregate::snapshot::OwnerPart;
use crate::attribute::owner::Owner;

/// Between two readings that are kept.
const APART: Duration = Duration::from_secs(10);
/// Readings kept.
const KEPT: usize = 7;
/// Owners named.
const NAMED: usize = 3;
/// The part of all owners' growth from which an owner is named.
const WORTH: f64 = 0.05;

/// What each owner held, now and then.
#[derive(Clone, Debug, Default)]
pub(super) struct Drivers {
    kept: VecDeque<(Duration, BTreeMap<Owner, i64>)>,
}

impl Drivers {
    /// Takes in what each owner holds.
    pub(super) fn enter(&mut self, now: Duration, owners: &[OwnerPart]) {
        if self.kept.back().is_some_and(|(then, _)| now.saturating_sub(*then) < APART) {
            return;
        }
        self.kept.push_back((now, owners.iter().map(|part| (part.owner.clone(), part.entries)).collect()));
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// Those who grew most since the oldest reading kept: entries a second, the most first.
    pub(super) fn of(&self, now: Duration, owners: &[OwnerPart]) -> Vec<(Owner, f64)> {
        let Some((then, held)) = self.kept.front() else { return Vec::new() };
        let seconds = now.saturating_sub(*then).as_secs_f64();
        if seconds <= 0.0 {
            return Vec::new();
        }
        // Who was not there held nothing.
        let grew = |part: &OwnerPart| part.entries - held.get(&part.owner).copied().unwrap_or_default();
        let mut grown: Vec<(&Owner, f64)> =
            owners.iter().map(|part| (&part.owner, grew(part) as f64 / seconds)).collect();
        grown.retain(|(_, growth)| *growth > 0.0);
        grown.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let all: f64 = grown.iter().map(|(_, growth)| growth).sum();
        let named = grown.into_iter().take(NAMED).filter(|(_, growth)| *growth >= WORTH * all);
        named.map(|(owner, growth)| (owner.clone(), growth)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture::pod;

    fn part(owner: Owner, entries: i64) -> OwnerPart {
        OwnerPart { owner, entries, responder_entries: 0, inserts: None, inserts_per_second: None }
    }

    #[test]
    fn those_who_grow_the_most_first_and_three_at_most() {
        let mut drivers = Drivers::default();
        let names = ["a", "b", "c", "d", "e", "f"];
        let before: Vec<_> = names.iter().map(|n| part(pod(n), 100)).collect();
        drivers.enter(Duration::ZERO, &before);
        let grown = [110, 50, 400, 300, 200, 101];
        let mut now: Vec<_> = names.iter().zip(grown).map(|(n, e)| part(pod(n), e)).collect();
        now.push(part(Owner::Unknown, 250));
        assert!(drivers.of(Duration::ZERO, &now).is_empty(), "no time has passed");
        let of = drivers.of(Duration::from_secs(10), &now);
        assert_eq!(
            of,
            [(pod("c"), 30.0), (Owner::Unknown, 25.0), (pod("d"), 20.0)],
            "the new one counts from 0"
        );
    }

    #[test]
    fn growth_is_that_of_the_last_minute() {
        let mut drivers = Drivers::default();
        for second in 0..=300_u32 {
            let held = if second < 200 { 0 } else { i64::from(second) - 200 };
            drivers.enter(Duration::from_secs(second.into()), &[part(Owner::Host, held)]);
        }
        let of = drivers.of(Duration::from_secs(300), &[part(Owner::Host, 100)]);
        assert_eq!(of, [(Owner::Host, 1.0)]);
        assert!(drivers.of(Duration::from_secs(300), &[part(Owner::Host, 10)]).is_empty(), "it shrinks");
    }
}

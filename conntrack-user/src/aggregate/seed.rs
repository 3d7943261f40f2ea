//! Entries older than the probes: learnt in the first readings, and then left alone, so that what the books miss
//! later shows as drift instead of being explained away.

use conntrack_common::Counter;

use crate::drain::counters::Sums;

/// What is known of the number of entries that the probes have not seen allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    low: i64,
    high: i64,
    settled: bool,
}

impl Seed {
    /// What one reading tells: `entries` was read between `before` and `after`. Exact when nothing came or went
    /// meanwhile, else between two bounds. No `before`: nothing had come or gone yet.
    #[must_use]
    pub fn of(entries: u64, before: Option<&Sums>, after: &Sums) -> Self {
        let entries = entries.cast_signed();
        let before = before.unwrap_or(&[0; Counter::COUNT]);
        let (least, most) = (difference(before, after), difference(after, before));
        Self { low: entries - most, high: entries - least, settled: false }
    }

    /// Takes another reading in. Two that agree on one number settle it. A reading can be off by an allocation
    /// or free that another processor is in the middle of: then the two do not agree, and the later stands.
    #[must_use]
    pub fn and(self, reading: Self) -> Self {
        if self.settled {
            return self;
        }
        let (low, high) = (self.low.max(reading.low), self.high.min(reading.high));
        if low > high { reading } else { Self { low, high, settled: low == high } }
    }

    /// The best guess.
    #[must_use]
    pub fn value(self) -> i64 {
        self.low.midpoint(self.high)
    }
}

/// Entries allocated by one moment less those freed by another.
fn difference(allocated: &Sums, freed: &Sums) -> i64 {
    allocated[Counter::Allocs as usize].wrapping_sub(freed[Counter::Frees as usize]).cast_signed()
}

/// Entries allocated and not yet freed since the probes were attached; below zero while older ones are freed.
#[must_use]
pub fn live(sums: &Sums) -> i64 {
    difference(sums, sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(allocs: u64, frees: u64) -> Sums {
        let mut sums = [0; Counter::COUNT];
        sums[Counter::Allocs as usize] = allocs;
        sums[Counter::Frees as usize] = frees;
        sums
    }

    fn quiet(entries: u64, allocs: u64, frees: u64) -> Seed {
        Seed::of(entries, Some(&sums(allocs, frees)), &sums(allocs, frees))
    }

    #[test]
    fn a_quiet_reading_is_exact_and_a_busy_one_bounds() {
        assert_eq!(quiet(10, 3, 1).value(), 8);
        let busy = Seed::of(50, Some(&sums(10, 4)), &sums(16, 6));
        assert_eq!((busy.low, busy.high), (50 - 12, 50 - 4));
    }

    #[test]
    fn busy_readings_narrow_it_down() {
        let seed = Seed::of(50, Some(&sums(10, 4)), &sums(16, 6)).and(quiet(60, 30, 10));
        assert_eq!((seed.value(), seed.settled), (40, true));
    }

    #[test]
    fn once_settled_later_misses_show_as_drift() {
        let seed = quiet(10, 3, 1).and(quiet(12, 5, 1));
        assert!(seed.settled);
        // One allocation was not seen: the books say 12, the kernel 13.
        let later = seed.and(quiet(13, 5, 1));
        assert_eq!(later.value() + live(&sums(5, 1)), 12);
    }

    #[test]
    fn two_that_disagree_settle_nothing() {
        let caught_in_the_middle = quiet(11, 3, 1);
        let seed = caught_in_the_middle.and(quiet(10, 3, 1));
        assert_eq!((seed.value(), seed.settled), (8, false));
        assert!(seed.and(quiet(9, 3, 2)).settled);
    }
}

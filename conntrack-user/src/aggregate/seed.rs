//! Entries older than the probes: learnt in the first readings, and then left alone, so that what the books miss
//! later shows as drift instead of being explained away.

use conntrack_common::Counter;

use crate::drain::counters::Sums;

/// Readings that tell one number exactly, none of them below it, before it is believed for good.
const AGREE: u32 = 8;

/// What is known of the number of entries that the probes have not seen allocated.
///
/// Another processor can be in the middle of an allocation, a free or a refusal while a reading is made: the kernel counts an
/// entry before its probe does, and the probe of a free runs before the kernel does. All that makes the number too high, by
/// one for each, and none of it too low. So the highest that a reading allows is a bound, the lowest is one only as
/// long as no reading is below it, and of exact readings the least is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    low: i64,
    high: i64,
    /// Exact readings of `high`.
    agreed: u32,
}

impl Seed {
    /// What one reading tells: `entries` was read between `before` and `after`. Exact when nothing came or went
    /// meanwhile, else between two bounds. No `before`: nothing had come or gone yet.
    #[must_use]
    pub fn of(entries: u64, before: Option<&Sums>, after: &Sums) -> Self {
        let entries = entries.cast_signed();
        let before = before.unwrap_or(&[0; Counter::COUNT]);
        let (least, most) = (difference(before, after), difference(after, before));
        let (low, high) = (entries - most, entries - least);
        Self { low, high, agreed: u32::from(low == high) }
    }

    /// Takes another reading in, until enough agree.
    #[must_use]
    pub fn and(self, reading: Self) -> Self {
        if self.agreed >= AGREE {
            return self;
        }
        let high = self.high.min(reading.high);
        let of = |seed: Self| if seed.high == high { seed.agreed } else { 0 };
        Self { low: self.low.max(reading.low).min(high), high, agreed: of(self) + of(reading) }
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
        let busy = Seed::of(50, Some(&sums(10, 4)), &sums(16, 6));
        let narrower = busy.and(Seed::of(52, Some(&sums(16, 6)), &sums(17, 6)));
        assert_eq!((narrower.low, narrower.high), (41, 42));
        assert_eq!(narrower.and(quiet(60, 30, 10)).value(), 40);
    }

    #[test]
    fn once_enough_agree_later_misses_show_as_drift() {
        let seed =
            (0..AGREE).map(|n| quiet(10 + u64::from(n), 3 + u64::from(n), 1)).reduce(Seed::and).unwrap();
        // One free was not seen, or one allocation: the books say 12, the kernel something else.
        for entries in [11, 13] {
            assert_eq!(seed.and(quiet(entries, 5, 1)).value() + live(&sums(5, 1)), 12);
        }
        let too_few = (1..AGREE).map(|_| quiet(10, 3, 1)).reduce(Seed::and).unwrap();
        assert_eq!(too_few.and(quiet(11, 5, 1)).value(), 7);
    }

    #[test]
    fn what_is_caught_in_the_middle_of_an_allocation_or_a_free_is_not_believed() {
        // As often in a row as it may be: a pod allocates all the time, and its processor stands still while we read.
        let mut seed = quiet(11, 3, 1);
        for n in 1..u64::from(AGREE) - 1 {
            seed = seed.and(quiet(11 + n, 3 + n, 1));
        }
        assert_eq!(seed.value(), 9);
        let seed = seed.and(quiet(15, 8, 1));
        assert_eq!(seed.value(), 8);
        // And after the right one.
        assert_eq!(seed.and(quiet(16, 8, 1)).and(quiet(12, 5, 2)).value(), 8);
    }
}

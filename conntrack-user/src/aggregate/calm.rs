//! The kernel's count and the probes' counters, of one instant as nearly as can be.

use conntrack_common::Counter;

use crate::drain::counters::Tally;

/// The probes' counters before, the kernel's count, the counters after.
pub type Taken<T> = (Option<Tally>, Option<T>, Option<Tally>);

/// Readings to choose from.
const TRIES: usize = 5;

/// Reads until nothing came or went meanwhile, at most [`TRIES`] times, and returns the reading in which least did:
/// whoever reads can lose its processor in between.
pub fn calmest<T>(mut read: impl FnMut() -> Taken<T>) -> Taken<T> {
    let mut best = read();
    for _ in 1..TRIES {
        if motion(&best).is_none_or(|motion| motion == 0) {
            break;
        }
        let next = read();
        if motion(&next) < motion(&best) {
            best = next;
        }
    }
    best
}

/// Entries that came or went during a reading. None: there are no counters to tell.
fn motion<T>((before, _, after): &Taken<T>) -> Option<u64> {
    let (before, after) = (before.as_ref()?, after.as_ref()?);
    let moved = |counter: Counter| after.sums[counter as usize].wrapping_sub(before.sums[counter as usize]);
    Some(moved(Counter::Allocs).saturating_add(moved(Counter::Frees)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(allocs: u64) -> Option<Tally> {
        let mut sums = [0; Counter::COUNT];
        sums[Counter::Allocs as usize] = allocs;
        Some(Tally { sums, accounts: Vec::new() })
    }

    #[test]
    fn the_reading_in_which_least_happened() {
        let mut readings = [(0, 70), (70, 75), (75, 100), (100, 101), (101, 150)].into_iter();
        let best = calmest(|| readings.next().map(|(a, b)| (sums(a), Some(a), sums(b))).unwrap());
        assert_eq!(best.1, Some(100));
        let mut readings = [(0, 9), (9, 9)].into_iter();
        let best = calmest(|| readings.next().map(|(a, b)| (sums(a), Some(a), sums(b))).unwrap());
        assert_eq!(best.1, Some(9), "nothing moved: no third is read");
        assert_eq!(calmest(|| (None, Some(1), None)).1, Some(1));
    }
}

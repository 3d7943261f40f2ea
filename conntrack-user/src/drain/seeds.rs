//! Entries older than the probes: who owns each, found by its tuple when it is freed.

use std::collections::HashMap;

use conntrack_common::directory::{DirectoryEntry, DirectoryKey, SEED_CHAIN};

use super::directory::chain;
use super::mapping::Mapping;
use super::words::Words;

const WORDS: usize = size_of::<DirectoryEntry>() / size_of::<u64>();
const VALUE: usize = WORDS - 1;

/// Places for so many entries: at most half are used, and some come while the table is read.
#[must_use]
pub fn places(entries: u64) -> u32 {
    const LEAST: u64 = 16_384;
    const MOST: u64 = 8 << 20;
    let wanted = entries.saturating_mul(2).clamp(LEAST, MOST).next_power_of_two();
    u32::try_from(wanted).unwrap_or(1 << 23)
}

/// The accounts of one seed: who made the entry, and who answers it if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The account that holds it.
    pub owner: u32,
    /// The account that answers it.
    pub responder: Option<u32>,
}

impl Seeded {
    /// As the probes read it.
    fn value(self) -> u64 {
        u64::from(self.owner + 1) | self.responder.map_or(0, |responder| u64::from(responder + 1) << 32)
    }

    fn of(value: u64) -> Option<Self> {
        let account = |half: u64| u32::try_from(half).ok()?.checked_sub(1);
        Some(Self { owner: account(value & u64::from(u32::MAX))?, responder: account(value >> 32) })
    }
}

/// The seeds that the probes find.
pub struct Seeds<W = Mapping> {
    words: W,
    places: u32,
}

impl<W: Words> Seeds<W> {
    /// Over an array of so many places, a power of two, all zero.
    pub fn new(words: W, places: u32) -> Self {
        Self { words, places }
    }

    /// Adds one; the same key can be there more than once. False: no room, the entry is nobody's known.
    pub fn add(&self, key: DirectoryKey, seeded: Seeded) -> bool {
        for place in chain(key, SEED_CHAIN, self.places) {
            if self.words.word(place * WORDS) == 0 {
                for word in [1, 2] {
                    self.words.set(place * WORDS + word, key[word]);
                }
                self.words.set(place * WORDS + VALUE, seeded.value());
                self.words.set(place * WORDS, key[0]);
                return true;
            }
        }
        false
    }

    /// Takes out those that no probe took and that are not in `alive` (key → how many): they were freed before
    /// the probes were attached. Returns whose they were.
    pub fn keep(&self, mut alive: HashMap<DirectoryKey, u32>) -> Vec<Seeded> {
        let mut gone = Vec::new();
        for place in 0..self.places as usize {
            let value = self.words.word(place * WORDS + VALUE);
            let Some(seeded) = Seeded::of(value) else { continue };
            let key = [0, 1, 2].map(|word| self.words.word(place * WORDS + word));
            match alive.get_mut(&key) {
                Some(left) if *left > 0 => *left -= 1,
                _ if self.words.exchange(place * WORDS + VALUE, value, 0) => gone.push(seeded),
                _ => {}
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use conntrack_common::Tuple;
    use conntrack_common::directory::seed_key;

    use super::*;

    fn seeds(places: u32) -> Seeds<Vec<AtomicU64>> {
        let words = places as usize * WORDS;
        Seeds::new((0..words).map(|_| AtomicU64::new(0)).collect(), places)
    }

    fn key(n: u32) -> DirectoryKey {
        let tuple = Tuple {
            saddr: [n.into(), 0],
            daddr: [9, 0],
            sport: n as u16,
            dport: 80,
            l3num: 2,
            ..Tuple::default()
        };
        seed_key(1, &tuple)
    }

    const SEEDED: Seeded = Seeded { owner: 1030, responder: Some(2000) };

    #[test]
    fn a_hundred_thousand_find_room() {
        let seeds = seeds(places(100_000));
        assert_eq!(seeds.places, 262_144);
        let without = (0..100_000).filter(|n| !seeds.add(key(*n), SEEDED)).count();
        assert_eq!(without, 0);
    }

    #[test]
    fn what_was_freed_before_is_taken_out_and_the_rest_kept() {
        let seeds = seeds(places(0));
        for n in [1, 2, 2, 3] {
            assert!(seeds.add(key(n), Seeded { owner: n, responder: None }));
        }
        let alive = HashMap::from([(key(1), 1), (key(2), 1)]);
        let mut gone: Vec<_> = seeds.keep(alive.clone()).into_iter().map(|seeded| seeded.owner).collect();
        gone.sort_unstable();
        assert_eq!(gone, [2, 3]);
        assert!(seeds.keep(alive).is_empty());
    }

    #[test]
    fn values_are_the_probes() {
        assert_eq!(SEEDED.value(), 1031 | 2001 << 32);
        assert_eq!(Seeded::of(SEEDED.value()), Some(SEEDED));
        assert_eq!(Seeded::of(1), Some(Seeded { owner: 0, responder: None }));
        assert_eq!(Seeded::of(0), None);
    }
}

//! The directory of owners, as the daemon writes it and the probes read it.

use std::collections::HashMap;

use conntrack_common::directory::{CHAIN, DIRECTORY_PLACES, DirectoryEntry, DirectoryKey, hash};

use super::mapping::Mapping;
use super::words::Words;

/// Words of an entry: three of the key, and the value.
const WORDS: usize = size_of::<DirectoryEntry>() / size_of::<u64>();
const VALUE: usize = WORDS - 1;
/// Keys are told to at most this part of the places, so that chains stay short.
const MAX_KEYS: usize = DIRECTORY_PLACES as usize / 4;

/// What is told: key → value, as in [`DirectoryEntry`].
pub type Told = HashMap<DirectoryKey, u64>;

/// The writer; there is one.
pub struct Directory<W = Mapping> {
    words: W,
    told: Told,
}

impl<W: Words> Directory<W> {
    /// Over an array of [`DIRECTORY_PLACES`] entries that are all zero.
    pub fn new(words: W) -> Self {
        Self { words, told: Told::new() }
    }

    /// What the probes find now.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Makes the probes find this and nothing else. Returns for how many keys there was no room: to the probes,
    /// nothing is known of those.
    pub fn tell(&mut self, wanted: &Told) -> usize {
        let gone: Vec<_> = self.told.keys().filter(|key| !wanted.contains_key(*key)).copied().collect();
        for key in gone {
            self.put(key, 0);
            self.told.remove(&key);
        }
        let mut untold = 0;
        for (&key, &value) in wanted {
            if self.told.get(&key) == Some(&value) {
                continue;
            }
            if (self.told.len() < MAX_KEYS || self.told.contains_key(&key)) && self.put(key, value) {
                self.told.insert(key, value);
            } else {
                untold += 1;
            }
        }
        untold
    }

    fn put(&self, key: DirectoryKey, value: u64) -> bool {
        let mut room = None;
        for place in chain(key, CHAIN, DIRECTORY_PLACES) {
            let found = self.key(place);
            if found == key {
                self.words.set(place * WORDS + VALUE, value);
                return true;
            }
            if self.words.word(place * WORDS + VALUE) == 0 {
                room.get_or_insert(place);
            }
            if found[0] == 0 {
                break;
            }
        }
        let Some(place) = room else { return false };
        // The value is 0 until the key is whole: who reads meanwhile finds nothing, or another key.
        for word in [1, 2, 0] {
            self.words.set(place * WORDS + word, key[word]);
        }
        self.words.set(place * WORDS + VALUE, value);
        true
    }

    fn key(&self, place: usize) -> DirectoryKey {
        [0, 1, 2].map(|word| self.words.word(place * WORDS + word))
    }
}

/// The places of a key's chain, among a power of two of them.
pub(super) fn chain(key: DirectoryKey, length: u32, places: u32) -> impl Iterator<Item = usize> {
    let start = hash(key);
    (0..length).map(move |step| (start.wrapping_add(step) & (places - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use conntrack_common::directory::{address_key, device_key, table_key};

    use super::*;

    type Array = Vec<AtomicU64>;

    fn directory() -> Directory<Array> {
        let words = DIRECTORY_PLACES as usize * WORDS;
        Directory::new((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// As the probes do (`search` in conntrack-ebpf).
    fn look_up(directory: &Directory<Array>, key: DirectoryKey) -> u64 {
        for place in chain(key, CHAIN, DIRECTORY_PLACES) {
            let found = directory.key(place);
            if found[0] == 0 {
                break;
            }
            if found == key {
                return directory.words.word(place * WORDS + VALUE);
            }
        }
        0
    }

    #[test]
    fn the_probes_find_what_was_told_last() {
        let mut directory = directory();
        let (table, device) = (table_key(7), device_key(7, 3));
        assert_eq!(directory.tell(&Told::from([(table, 5), (device, 6)])), 0);
        assert_eq!((look_up(&directory, table), look_up(&directory, device)), (5, 6));
        assert_eq!(directory.tell(&Told::from([(table, 9)])), 0);
        assert_eq!((look_up(&directory, table), look_up(&directory, device)), (9, 0));
        directory.tell(&Told::from([(device, 8)]));
        assert_eq!((look_up(&directory, table), look_up(&directory, device)), (0, 8));
    }

    #[test]
    fn a_thousand_pods_that_come_and_go_leave_room() {
        let mut directory = directory();
        for round in 0..200_u32 {
            let keys = (0..110).map(|pod| address_key(1, 2, [u64::from(round * 110 + pod) << 8 | 10, 0]));
            let wanted: Told = keys.map(|key| (key, u64::from(round) + 1)).collect();
            assert_eq!(directory.tell(&wanted), 0, "round {round}");
            assert!(wanted.iter().all(|(key, value)| look_up(&directory, *key) == *value));
        }
    }

    #[test]
    fn a_directory_as_full_as_allowed_has_room_for_nearly_all() {
        let mut directory = directory();
        let wanted: Told =
            (0..MAX_KEYS as u32).map(|n| (address_key(1, 2, [u64::from(n) << 8 | 10, 0]), 1)).collect();
        let untold = directory.tell(&wanted);
        assert!(untold <= MAX_KEYS / 1_000, "{untold} of {MAX_KEYS} have no place");
        assert_eq!(wanted.keys().filter(|key| look_up(&directory, **key) == 0).count(), untold);
        let further = (0..=untold as u32).map(|n| (table_key(n), 1));
        let more: Told = wanted.into_iter().chain(further).collect();
        assert!(directory.tell(&more) > untold);
    }
}

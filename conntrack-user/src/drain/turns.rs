//! What the twins of probes tell of each other.

use aya::maps::{HashMap, Map, MapData};
use conntrack_common::turn::{TURN_UNPLACED, TURNS, Twin};

use super::mapping::Mapping;

/// The mapped words, and the signs that programs leave for their twins.
pub struct Turns {
    words: Mapping,
    signs: HashMap<MapData, u64, u64>,
}

impl Turns {
    /// Maps the words.
    ///
    /// # Errors
    /// If the maps are of another kind.
    pub fn new(words: Map, signs: Map) -> anyhow::Result<Self> {
        Ok(Self { words: Mapping::new(words, TURNS as usize * size_of::<u64>())?, signs: signs.try_into()? })
    }

    /// Takes away the signs that a program left while its twin was not attached yet.
    pub fn clear_signs(&mut self) {
        let left: Vec<u64> = self.signs.keys().filter_map(Result::ok).collect();
        for sign in left {
            // Taken away by a twin meanwhile: as well.
            let _: Result<(), aya::maps::MapError> = self.signs.remove(&sign);
        }
    }

    /// Runs that the kernel skipped of one program and its twin made good.
    #[must_use]
    pub fn caught(&self, twin: Twin) -> u64 {
        self.words.word(twin as usize)
    }

    /// The number, 1 or 2, of the program of each pair that runs first; None: not seen yet.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        Some(self.words.word(0)).filter(|first| *first != 0)
    }

    /// Entries that found no place, so that they are in their table's own account.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.words.word(TURN_UNPLACED as usize)
    }
}

/// Runs lost, at most: both programs of a pair were skipped in the same call. `runs` are the skipped ones of the
/// programs 1 and 2.
#[must_use]
pub fn lost(runs: [u64; 2], first: Option<u64>, caught: u64) -> u64 {
    let [one, two] = runs;
    match first {
        Some(1) => one.saturating_sub(caught).min(two),
        Some(2) => two.saturating_sub(caught).min(one),
        _ => one.min(two),
    }
}

#[cfg(test)]
mod tests {
    use super::lost;

    #[test]
    fn lost_is_what_no_twin_made_good() {
        assert_eq!(lost([5, 0], None, 0), 0);
        assert_eq!(lost([5, 3], Some(1), 5), 0);
        assert_eq!(lost([5, 3], Some(1), 4), 1);
        assert_eq!(lost([5, 3], Some(2), 1), 2);
        assert_eq!(lost([5, 3], None, 0), 3);
    }
}

//! Places of entries, as the daemon audits them: which are still there though their entry is gone.

use conntrack_common::place::{
    AUDIT_ADOPTED, AUDIT_BUSY, AUDIT_WORDS, PLACE_CONFIRMED, PLACE_SUSPECT, Place, STATE_MASK,
};

use super::mapping::Mapping;
use super::words::Words;

/// Words of a place: entry and state, accounts.
const WORDS: usize = size_of::<Place>() / size_of::<u64>();

/// Bytes of the map `AUDIT`.
pub const AUDIT_BYTES: usize = AUDIT_WORDS as usize * size_of::<u64>();

/// The accounts of a place that was swept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// The account that held the entry.
    pub owner: u32,
    /// The account that answered it, if one did.
    pub responder: Option<u32>,
}

/// The mapped places, and what dumps did for entries without one.
pub struct Places<W = Mapping> {
    words: W,
    places: usize,
    audit: W,
}

impl<W: Words> Places<W> {
    /// Over so many places, and the words of the map `AUDIT`.
    pub fn new(words: W, places: usize, audit: W) -> Self {
        Self { words, places, audit }
    }

    /// Suspects every confirmed entry, until a dump shows it.
    pub fn suspect(&self) {
        for place in 0..self.places {
            let is = self.words.word(place * WORDS);
            if is & STATE_MASK == PLACE_CONFIRMED {
                // Not exchanged: the probes freed it just now.
                self.words.exchange(place * WORDS, is, is & !STATE_MASK | PLACE_SUSPECT);
            }
        }
    }

    /// Takes out what no dump has shown since [`Self::suspect`], and that is there still. Returns whose it was.
    pub fn sweep(&self) -> Vec<Swept> {
        let mut swept = Vec::new();
        for place in 0..self.places {
            let is = self.words.word(place * WORDS);
            if is & STATE_MASK != PLACE_SUSPECT {
                continue;
            }
            let accounts = self.words.word(place * WORDS + 1);
            if self.words.exchange(place * WORDS, is, 0) {
                let responder = (accounts >> 32) as u32 & 0xffff;
                swept.push(Swept { owner: accounts as u32 & 0xffff, responder: responder.checked_sub(1) });
            }
        }
        swept
    }

    /// Entries without a place that dumps have shown, and that have one since.
    #[must_use]
    pub fn adopted(&self) -> u64 {
        self.audit.word(AUDIT_ADOPTED as usize)
    }

    /// How often an entry was not given one because another dump was just giving one.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.audit.word(AUDIT_BUSY as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use conntrack_common::place::PLACE_FREED;

    use super::*;

    const ENTRY: u64 = 0xffff_8880_0400_0000;

    fn places(of: &[[u64; 2]]) -> Places<Vec<AtomicU64>> {
        let words = of.as_flattened().iter().copied().map(AtomicU64::new).collect();
        Places::new(words, of.len(), (0..AUDIT_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn what_no_dump_shows_is_swept_and_whatever_moves_stays() {
        let accounts = 0x0002_0407 | 2_001 << 32 | 0xabcd << 48;
        let confirmed = |n: u64| [(ENTRY + n * 256) | PLACE_CONFIRMED, accounts];
        let new = [ENTRY + 0x9000, 7];
        let freed = [(ENTRY + 0xa000) | (PLACE_FREED + 1), 7];
        let places = places(&[confirmed(1), new, confirmed(2), freed, [0, 0], confirmed(3), confirmed(4)]);
        assert_eq!(places.sweep(), [], "nothing was suspected");
        places.suspect();
        places.words.set(0, (ENTRY + 256) | PLACE_CONFIRMED); // shown
        places.words.set(5 * WORDS, 0); // freed
        places.words.set(6 * WORDS, ENTRY + 0xb000); // freed, and its place taken by another
        assert_eq!(places.sweep(), [Swept { owner: 0x407, responder: Some(2_000) }]);
        assert_eq!(places.sweep(), []);
        assert_eq!((places.words.word(WORDS), places.words.word(3 * WORDS)), (new[0], freed[0]));
    }
}

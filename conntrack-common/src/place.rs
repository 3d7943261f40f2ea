//! Places: which account each live entry is in, by the address of its `struct nf_conn`, so that whatever became of
//! addresses and pods meanwhile, an entry leaves the account that it came into.
//!
//! Buckets of four places, one cache line each; an entry is in one of two buckets. The loader makes as many as
//! hold twice the limit in force. What finds no place is in its table's own account.

/// Places of a bucket.
pub const WAYS: usize = 4;

/// Bits of a place's first word that are its state; the rest is the entry's address, which the slab aligns.
pub const STATE_MASK: u64 = 7;

/// One place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Address of the entry and a `PLACE_*` state; 0: free.
    pub entry: u64,
    /// From the lowest, 16 bits each: account; `OWNER_*` flags of the directory; account of the responder plus one, 0:
    /// nobody's known; a fingerprint of the entry's original tuple.
    pub accounts: u64,
}

/// Where in [`Place::accounts`] the fingerprint begins.
pub const PLACE_PRINT_SHIFT: u32 = 48;

/// State: allocated, not confirmed. Add the number (0, 1, 2) of the program that placed it.
pub const PLACE_NEW: u64 = 0;
/// State: confirmed.
pub const PLACE_CONFIRMED: u64 = 3;
/// State: confirmed, and not shown by the dump that is under way. The daemon sets it before an audit, a dump that
/// shows the entry takes it back; what keeps it was freed and nobody saw it.
pub const PLACE_SUSPECT: u64 = 4;
/// State: freed. Add the number (1, 2) of the program that counted it: the other clears the place.
pub const PLACE_FREED: u64 = 5;

/// Words of the map `AUDIT`, which the daemon maps.
pub const AUDIT_WORDS: u32 = 3;
/// Word of `AUDIT`: 1 while a program gives an entry a place; one at a time, or an entry could get two.
pub const AUDIT_LOCK: u32 = 0;
/// Word of `AUDIT`: entries that a dump showed, without a place, and that were given one.
pub const AUDIT_ADOPTED: u32 = 1;
/// Word of `AUDIT`: entries that would have been, had nobody else held the lock.
pub const AUDIT_BUSY: u32 = 2;

/// A bucket.
pub type Bucket = [Place; WAYS];

/// The two buckets of an entry, of any number that is a power of two; take them modulo that.
#[inline(always)]
#[must_use]
pub const fn buckets(entry: u64) -> [u32; 2] {
    // Two multiplications: after one, neighbours in the slab have both buckets in common far too often.
    let mixed = (entry >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    [(mixed >> 40) as u32, (mixed >> 16) as u32]
}

const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(PLACE_FREED + 2 <= STATE_MASK);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;

    use super::*;

    /// Entries lie one behind the other in the slab. In the bucket with more room next to all find one, up to the limit; in
    /// the first with any, hundreds would not.
    #[test]
    fn up_to_the_limit_next_to_every_entry_finds_a_place() {
        let mask = 262_144 * 2 / WAYS as u32 - 1;
        for (entries, size, at_most) in [(100_000, 256, 0), (200_000, 320, 0), (262_144, 256, 10)] {
            let without = unplaced(entries, size, mask);
            assert!(without <= at_most, "{without} of {entries} entries find none");
        }
    }

    fn unplaced(entries: u64, size: u64, mask: u32) -> usize {
        let mut used = vec![0; mask as usize + 1];
        let mut without = 0;
        for number in 0..entries {
            let [first, second] =
                buckets(0xffff_8880_0400_0000 + number * size).map(|bucket| (bucket & mask) as usize);
            let emptier = if used[first] <= used[second] { first } else { second };
            if used[emptier] < WAYS {
                used[emptier] += 1;
            } else {
                without += 1;
            }
        }
        without
    }
}

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
    /// Account in the low 16 bits, `OWNER_*` flags of the directory shifted right by 16, and the account of the
    /// responder, plus one, in the high half; 0 there: nobody's known.
    pub accounts: u64,
}

/// State: allocated, not confirmed. Add the number (0, 1, 2) of the program that placed it.
pub const PLACE_NEW: u64 = 0;
/// State: confirmed.
pub const PLACE_CONFIRMED: u64 = 3;
/// State: freed. Add the number (1, 2) of the program that counted it: the other clears the place.
pub const PLACE_FREED: u64 = 4;

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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;

    use super::*;

    /// Entries lie one behind the other in the slab.
    #[test]
    fn of_a_hundred_thousand_neighbours_nearly_all_find_a_place() {
        let mask = 262_144 / WAYS as u32 * 2 - 1;
        let mut used = vec![0; mask as usize + 1];
        let mut without = 0;
        for number in 0..100_000_u64 {
            let room = buckets(0xffff_8880_0400_0000 + number * 256).map(|bucket| (bucket & mask) as usize);
            match room.into_iter().find(|bucket| used[*bucket] < WAYS) {
                Some(bucket) => used[bucket] += 1,
                None => without += 1,
            }
        }
        assert!(without <= 10, "{without} found none");
    }
}

//! Where an entry's account is kept while it lives.

use core::arch::asm;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use conntrack_common::place::{
    AUDIT_BUSY, AUDIT_LOCK, Bucket, PLACE_CONFIRMED, PLACE_FREED, PLACE_NEW, PLACE_PRINT_SHIFT,
    PLACE_SUSPECT, Place, STATE_MASK, WAYS, buckets,
};

use crate::{
    maps::{AUDIT, PLACES, PLACES_BY_HASH, places_mask},
    table::add_one,
    turn::Turn,
};

/// What placing an entry came to.
pub(crate) enum Placed {
    /// It is placed now.
    Now,
    /// The twin has placed it.
    Already,
    /// It is placed now, where one of the same address was whose end nobody saw: its accounts.
    Over(u64),
    /// No room.
    Nowhere,
}

/// What became of a confirmed entry.
pub(crate) enum Confirmed {
    /// It was new until now; its accounts can be changed there.
    Now(*mut u64),
    /// It was confirmed before: by the twin, or another packet's entry took its place.
    Before,
    /// It has no place.
    Unplaced,
}

/// What taking an entry out came to.
pub(crate) enum Taken {
    /// It was in these accounts.
    From(u64),
    /// The twin has taken it out.
    Already,
    /// It has no place.
    Unplaced,
}

/// What showing an entry came to.
pub(crate) enum Adopted {
    /// It had a place, or there is no room for it.
    No,
    /// It is placed now.
    Now,
    /// It is placed now where another was, in these accounts, which ended and nobody saw it.
    Over(u64),
}

/// A way to keep places.
pub(crate) trait Places {
    /// Places a new entry in the accounts that `accounts` finds; asked only if it is this program's to place.
    fn place(entry: u64, turn: Turn, accounts: impl FnOnce() -> u64) -> Placed;
    /// Confirms it, once.
    fn confirm(entry: u64) -> Confirmed;
    /// Takes it out.
    fn take(entry: u64, turn: Turn) -> Taken;
    /// A dump shows a confirmed entry with this fingerprint, which nobody can free meanwhile. Gives it a place in the
    /// accounts that `accounts` finds, if it has none.
    fn adopt(entry: u64, print: u64, accounts: impl FnOnce() -> u64) -> Adopted;
}

/// The accounts of an entry, wherever this kernel keeps them; 0: it has no place.
#[inline(never)]
pub(crate) fn accounts_of(entry: u64) -> u64 {
    if let Some(place) = find(entry) {
        // SAFETY: a live value of an array.
        return unsafe { core::ptr::read_volatile(&raw const (*place).accounts) };
    }
    // SAFETY: a live map value.
    unsafe { PLACES_BY_HASH.get(entry) }.map_or(0, |place| place[1])
}

/// In buckets of one cache line.
pub(crate) struct ByBucket;

impl Places for ByBucket {
    #[inline(always)]
    fn place(entry: u64, turn: Turn, accounts: impl FnOnce() -> u64) -> Placed {
        let is = entry | PLACE_NEW + turn.me;
        let Some(place) = find(entry) else {
            return match claim(entry, is) {
                Some(place) => {
                    // SAFETY: a live value of an array; the entry is this call's alone until it is confirmed.
                    unsafe { (*place).accounts = accounts() };
                    Placed::Now
                }
                None => Placed::Nowhere,
            };
        };
        // SAFETY: as above.
        let (was, before) = unsafe { ((*place).entry & STATE_MASK, (*place).accounts) };
        if turn.me != 0 && was == PLACE_NEW + 3 - turn.me {
            return Placed::Already;
        }
        // SAFETY: as above.
        unsafe {
            (*place).accounts = accounts();
            core::ptr::write_volatile(&raw mut (*place).entry, is);
        }
        if was > PLACE_FREED { Placed::Now } else { Placed::Over(before) }
    }

    #[inline(always)]
    fn confirm(entry: u64) -> Confirmed {
        let Some(place) = find(entry) else { return Confirmed::Unplaced };
        // SAFETY: a live value of an array.
        let is = unsafe { core::ptr::read_volatile(&raw const (*place).entry) };
        if is & STATE_MASK >= PLACE_CONFIRMED {
            return Confirmed::Before;
        }
        // The packet that lost a race to this entry can come here at the same time, on another processor.
        // SAFETY: as above.
        if unsafe { exchange(&raw mut (*place).entry, is, entry | PLACE_CONFIRMED) } != is {
            return Confirmed::Before;
        }
        // SAFETY: as above.
        Confirmed::Now(unsafe { &raw mut (*place).accounts })
    }

    #[inline(always)]
    fn take(entry: u64, turn: Turn) -> Taken {
        let Some(place) = find(entry) else { return Taken::Unplaced };
        // SAFETY: a live value of an array; the entry is this call's alone, nobody else has a reference.
        let (was, accounts) = unsafe { ((*place).entry & STATE_MASK, (*place).accounts) };
        let freed = was > PLACE_FREED;
        let other = turn.me != 0 && was == PLACE_FREED + 3 - turn.me;
        let is = if turn.me == 0 || other { 0 } else { entry | PLACE_FREED + turn.me };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*place).entry, is) };
        match (other, freed) {
            (true, _) => Taken::Already,
            // A sign of one's own is old: the twin was skipped then, and this entry never placed since.
            (false, true) => Taken::Unplaced,
            (false, false) => Taken::From(accounts),
        }
    }

    #[inline(always)]
    fn adopt(entry: u64, print: u64, accounts: impl FnOnce() -> u64) -> Adopted {
        if let Some(place) = find(entry)
            && is_of(place, print)
        {
            // SAFETY: a live value of an array.
            unsafe {
                let is = core::ptr::read_volatile(&raw const (*place).entry);
                if is & STATE_MASK == PLACE_SUSPECT {
                    exchange(&raw mut (*place).entry, is, entry | PLACE_CONFIRMED);
                }
            }
            return Adopted::No;
        }
        let (Some(lock), Some(busy)) = (AUDIT.get_ptr_mut(AUDIT_LOCK), AUDIT.get_ptr_mut(AUDIT_BUSY)) else {
            return Adopted::No;
        };
        // SAFETY: a live value of an array.
        if unsafe { exchange(lock, 0, 1) } != 0 {
            // SAFETY: as above.
            unsafe { add_one(busy) };
            return Adopted::No;
        }
        let adopted = take_in(entry, print, accounts);
        // SAFETY: as above; nobody else writes it while it is 1.
        unsafe { core::ptr::write_volatile(lock, 0) };
        adopted
    }
}

/// Is the place this entry's, alive? Else it is another's that was at this address, or an old sign.
#[inline(always)]
fn is_of(place: *mut Place, print: u64) -> bool {
    // SAFETY: a live value of an array.
    unsafe {
        let state = core::ptr::read_volatile(&raw const (*place).entry) & STATE_MASK;
        let is = core::ptr::read_volatile(&raw const (*place).accounts) >> PLACE_PRINT_SHIFT;
        state < PLACE_FREED && is == print
    }
}

/// What `adopt` does alone.
#[inline(always)]
fn take_in(entry: u64, print: u64, accounts: impl FnOnce() -> u64) -> Adopted {
    let (place, adopted) = match find(entry) {
        Some(place) if is_of(place, print) => return Adopted::No,
        Some(place) => {
            // SAFETY: a live value of an array.
            let (state, before) = unsafe { ((*place).entry & STATE_MASK, (*place).accounts) };
            (place, if state < PLACE_FREED { Adopted::Over(before) } else { Adopted::Now })
        }
        None => match claim(entry, entry | PLACE_CONFIRMED) {
            Some(place) => (place, Adopted::Now),
            None => return Adopted::No,
        },
    };
    // SAFETY: as above; the entry is held by the dump, so no other program writes its place.
    unsafe {
        (*place).accounts = accounts();
        core::ptr::write_volatile(&raw mut (*place).entry, entry | PLACE_CONFIRMED);
    }
    adopted
}

#[inline(always)]
fn bucket(number: u32) -> Option<*mut Bucket> {
    PLACES.get_ptr_mut(number & places_mask())
}

#[inline(always)]
fn find(entry: u64) -> Option<*mut Place> {
    let two = buckets(entry);
    for number in two {
        let places = bucket(number)?;
        for way in 0..WAYS {
            // SAFETY: a live value of an array.
            unsafe {
                let place = &raw mut (*places)[way];
                if core::ptr::read_volatile(&raw const (*place).entry) & !STATE_MASK == entry {
                    return Some(place);
                }
            }
        }
    }
    None
}

/// In the bucket with more room: taking the first that has any, one entry in tens of thousands finds both full long
/// before the table is.
#[inline(always)]
fn claim(entry: u64, is: u64) -> Option<*mut Place> {
    let [first, second] = buckets(entry);
    let (first, second) = (bucket(first)?, bucket(second)?);
    let (emptier, fuller) = if room(first) >= room(second) { (first, second) } else { (second, first) };
    match claim_in(emptier, is) {
        None => claim_in(fuller, is),
        claimed => claimed,
    }
}

/// Free places of a bucket.
#[inline(always)]
fn room(places: *mut Bucket) -> u32 {
    let mut free = 0;
    for way in 0..WAYS {
        // SAFETY: a live value of an array.
        free += u32::from(unsafe { core::ptr::read_volatile(&raw const (*places)[way].entry) } == 0);
    }
    free
}

#[inline(always)]
fn claim_in(places: *mut Bucket, is: u64) -> Option<*mut Place> {
    for way in 0..WAYS {
        // SAFETY: a live value of an array.
        unsafe {
            let place = &raw mut (*places)[way];
            if core::ptr::read_volatile(&raw const (*place).entry) == 0
                && exchange(&raw mut (*place).entry, 0, is) == 0
            {
                return Some(place);
            }
        }
    }
    None
}

/// Puts `new` where `old` is, in one step; what was there.
///
/// # Safety
/// `word` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, old: u64, new: u64) -> u64 {
    let was;
    // SAFETY: the caller's. `core` has no atomics for this target; the instruction is BPF_CMPXCHG, from 5.12 on.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new,
             inout("r0") old => was);
    }
    was
}

/// In a hash map, for kernels without compare-and-exchange. They have kprobes only, which have no twins.
pub(crate) struct ByHash;

impl Places for ByHash {
    #[inline(always)]
    fn place(entry: u64, _: Turn, accounts: impl FnOnce() -> u64) -> Placed {
        // SAFETY: the entry is this call's alone.
        let before = unsafe { PLACES_BY_HASH.get(entry) }.map(|place| place[1]);
        match (PLACES_BY_HASH.insert(entry, [PLACE_NEW, accounts()], BPF_ANY.into()), before) {
            (Err(_), _) => Placed::Nowhere,
            (Ok(()), Some(before)) => Placed::Over(before),
            (Ok(()), None) => Placed::Now,
        }
    }

    #[inline(always)]
    fn confirm(entry: u64) -> Confirmed {
        let Some(place) = PLACES_BY_HASH.get_ptr_mut(entry) else { return Confirmed::Unplaced };
        // SAFETY: a live map value. That another packet's entry is meant was ruled out by the entry probe.
        unsafe {
            if (*place)[0] == PLACE_CONFIRMED {
                return Confirmed::Before;
            }
            (*place)[0] = PLACE_CONFIRMED;
            Confirmed::Now(&raw mut (*place)[1])
        }
    }

    #[inline(always)]
    fn take(entry: u64, _: Turn) -> Taken {
        // SAFETY: the entry is this call's alone.
        let Some(accounts) = unsafe { PLACES_BY_HASH.get(entry) }.map(|place| place[1]) else {
            return Taken::Unplaced;
        };
        let _: Result<(), i32> = PLACES_BY_HASH.remove(entry);
        Taken::From(accounts)
    }

    #[inline(always)]
    fn adopt(entry: u64, _: u64, accounts: impl FnOnce() -> u64) -> Adopted {
        if PLACES_BY_HASH.get_ptr(entry).is_none()
            && PLACES_BY_HASH.insert(entry, [PLACE_CONFIRMED, accounts()], BPF_NOEXIST.into()).is_ok()
        {
            Adopted::Now
        } else {
            Adopted::No
        }
    }
}

//! Whose turn it is: of two attached twins, one counts.

use aya_ebpf::bindings::BPF_ANY;
use conntrack_common::turn::Twin;

use crate::{
    maps::{SIGNS, TURNS},
    table::add_one,
};

/// A program's place among twins: 0 has none (kprobe), 1 and 2 are each other's.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) me: u64,
    probe: Twin,
}

impl Turn {
    #[inline(always)]
    pub(crate) const fn alone(probe: Twin) -> Self {
        Self { me: 0, probe }
    }

    #[inline(always)]
    pub(crate) const fn first(probe: Twin) -> Self {
        Self { me: 1, probe }
    }

    #[inline(always)]
    pub(crate) const fn second(probe: Twin) -> Self {
        Self { me: 2, probe }
    }

    /// Whether this call's work is this program's to do, by the sign that the other left, or not, under `key`. `call`
    /// tells this call from the last that left one there: its sign may be there still, if the other was skipped.
    #[inline(always)]
    pub(crate) fn is_mine(self, key: u64, call: impl FnOnce() -> u64) -> bool {
        if self.me == 0 {
            return true;
        }
        let call = call() << 2;
        let sign = |number: u64| call | number;
        // SAFETY: only this call, on this stack, uses the key.
        if unsafe { SIGNS.get(key) }.is_some_and(|found| *found == sign(3 - self.me)) {
            let _: Result<(), i32> = SIGNS.remove(key);
            return false;
        }
        let _: Result<(), i32> = SIGNS.insert(key, sign(self.me), BPF_ANY.into());
        self.does_the_work();
        true
    }

    /// The other has just done the work: so it runs before this one, always. Only what cannot be an old sign
    /// tells: the state of an entry's place.
    #[inline(always)]
    pub(crate) fn other_was_first(self) {
        if let Some(first) = TURNS.get_ptr_mut(0)
            // SAFETY: a live value of an array; both twins write the same.
            && unsafe { *first } == 0
        {
            // SAFETY: as above.
            unsafe { *first = 3 - self.me };
        }
    }

    /// This program does the work. If it is the second of two, the first was skipped.
    #[inline(always)]
    pub(crate) fn does_the_work(self) {
        if self.me == 0 {
            return;
        }
        // SAFETY: a live value of an array.
        let first = TURNS.get_ptr(0).map_or(0, |first| unsafe { *first });
        if first != 0
            && first != self.me
            && let Some(caught) = TURNS.get_ptr_mut(self.probe as u32)
        {
            // SAFETY: as above.
            unsafe { add_one(caught) };
        }
    }
}

//! Arguments kept from the entry of a function, seen by a kprobe, to its return, seen by a kretprobe.
//!
//! The key is the stack pointer, not the task: a softirq borrows whatever task it interrupts.

use aya_ebpf::bindings::BPF_ANY;

use crate::{
    maps::{STASH, STASHES, STASHES_MASK, Stash},
    place::{ByBucket, ByHash, exchange},
};

/// Places looked at for a call.
const CHAIN: u32 = 4;

/// A way to keep arguments.
pub(crate) trait Keeps {
    /// Keeps arguments until the return of this call.
    fn stash(key: u64, value: Stash);
    /// Takes the arguments kept by the function with this tag.
    fn unstash(key: u64, tag: u64) -> Option<Stash>;
}

impl Keeps for ByHash {
    #[inline(always)]
    fn stash(key: u64, value: Stash) {
        let _: Result<(), i32> = STASH.insert(key, value, BPF_ANY.into());
    }

    #[inline(always)]
    fn unstash(key: u64, tag: u64) -> Option<Stash> {
        // SAFETY: only this call, on this stack, writes the value.
        let value = *unsafe { STASH.get(key) }?;
        if value.tag != tag {
            return None;
        }
        let _: Result<(), i32> = STASH.remove(key);
        Some(value)
    }
}

impl Keeps for ByBucket {
    #[inline(always)]
    fn stash(key: u64, value: Stash) {
        for step in 0..CHAIN {
            let Some(place) = STASHES.get_ptr_mut(start(key).wrapping_add(step) & STASHES_MASK) else {
                return;
            };
            // SAFETY: a live value of an array. Who is there already is this call's own, left by a return that was
            // not seen, or another's.
            unsafe {
                let there = core::ptr::read_volatile(&raw const (*place).key);
                if there == key || (there == 0 && exchange(&raw mut (*place).key, 0, key) == 0) {
                    (*place).stash = value;
                    return;
                }
            }
        }
        ByHash::stash(key, value);
    }

    #[inline(always)]
    fn unstash(key: u64, tag: u64) -> Option<Stash> {
        for step in 0..CHAIN {
            let place = STASHES.get_ptr_mut(start(key).wrapping_add(step) & STASHES_MASK)?;
            // SAFETY: a live value of an array; only this call, on this stack, writes what is under its key.
            unsafe {
                if core::ptr::read_volatile(&raw const (*place).key) == key {
                    let value = (*place).stash;
                    if value.tag != tag {
                        return None;
                    }
                    core::ptr::write_volatile(&raw mut (*place).key, 0);
                    return Some(value);
                }
            }
        }
        ByHash::unstash(key, tag)
    }
}

/// Stacks are aligned to 16 KiB and calls of one function are deep in them by much the same.
#[inline(always)]
fn start(key: u64) -> u32 {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
}

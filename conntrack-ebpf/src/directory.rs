//! Looking an owner up in what the daemon wrote.

use conntrack_common::directory::{CHAIN, DIRECTORY_PLACES, DirectoryKey, hash};

use crate::maps::DIRECTORY;

/// The value of a key; 0: the daemon knows nothing of it.
#[inline(always)]
pub(crate) fn look_up(key: DirectoryKey) -> u64 {
    search(key[0], key[1], key[2])
}

#[inline(never)]
fn search(first: u64, second: u64, third: u64) -> u64 {
    let start = hash([first, second, third]);
    for step in 0..CHAIN {
        let Some(entry) = DIRECTORY.get_ptr(start.wrapping_add(step) & (DIRECTORY_PLACES - 1)) else { break };
        // SAFETY: a live value of an array. The daemon writes the key's first word last.
        let found = unsafe { core::ptr::read_volatile(&raw const (*entry).key[0]) };
        if found == 0 {
            break;
        }
        // SAFETY: as above.
        let rest = unsafe {
            [
                core::ptr::read_volatile(&raw const (*entry).key[1]),
                core::ptr::read_volatile(&raw const (*entry).key[2]),
            ]
        };
        if found == first && rest == [second, third] {
            // SAFETY: as above.
            return unsafe { core::ptr::read_volatile(&raw const (*entry).value) };
        }
    }
    0
}

//! Counting: namespace → slot → this CPU's counters.

use core::arch::asm;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_smp_processor_id};
use conntrack_common::{Counter, OVERFLOW_SLOT};

use crate::maps::{COUNTERS, FREE_SLOTS, SLOT_NETNS, TABLES, cpus};

/// The slot of a namespace, taken now if it has none.
#[inline(always)]
pub(crate) fn slot(netns: u32) -> u32 {
    match TABLES.get_ptr(netns) {
        // SAFETY: the map's value, never removed while its namespace lives.
        Some(slot) => unsafe { *slot },
        None => take_slot(netns),
    }
}

#[inline(never)]
fn take_slot(netns: u32) -> u32 {
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        return OVERFLOW_SLOT;
    };
    if TABLES.insert(netns, slot, BPF_NOEXIST.into()).is_err() {
        // Another CPU was first, or the map is full.
        let _: Result<(), i32> = FREE_SLOTS.push(slot, 0);
        return match TABLES.get_ptr(netns) {
            // SAFETY: as above.
            Some(slot) => unsafe { *slot },
            None => OVERFLOW_SLOT,
        };
    }
    if let Some(owner) = SLOT_NETNS.get_ptr_mut(slot) {
        // SAFETY: the slot is this namespace's alone since the insert above.
        unsafe { *owner = u64::from(netns) };
    }
    slot
}

/// Adds one to a counter of a slot, on this CPU.
#[inline(always)]
pub(crate) fn bump(slot: u32, counter: Counter) {
    // SAFETY: no arguments, always allowed.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(counters) = COUNTERS.get_ptr_mut(slot * cpus() + cpu) {
        // SAFETY: the value of an array map lives as long as the map.
        unsafe { add_one(&raw mut (*counters).values[counter as usize]) };
    }
}

/// Adds one, whoever else does so at the same time.
///
/// # Safety
/// `value` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn add_one(value: *mut u64) {
    // SAFETY: the caller's.
    unsafe { add(value, 1) };
}

/// Adds, whoever else does so at the same time.
///
/// # Safety
/// `value` points into a live map value.
#[inline(always)]
pub(crate) unsafe fn add(value: *mut u64, more: u64) {
    // SAFETY: the caller's. `core` has no atomic adds for this target; the instruction is BPF_XADD, which 5.10
    // has, and no result is asked for.
    unsafe { asm!("lock *(u64 *)({value} + 0) += {more}", value = in(reg) value, more = in(reg) more) };
}

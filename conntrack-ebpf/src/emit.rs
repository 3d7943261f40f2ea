//! Rare facts into the ring buffer, limited by source so that no flood silences another source.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use conntrack_common::{
    Counter, Event, EventKind, SHARED_SOURCES, SOURCE_BURST, SOURCE_WINDOW_NS, SourceKey, SourceWindow,
    event::{FLAG_CGROUP, SOURCE_FLAGS},
};

use crate::{
    kernel::{Probed, sk_cgroup},
    maps::{EVENTS, FREE_SOURCES, SOURCE_WINDOWS, SOURCES},
    table::{add_one, bump},
};

/// Which counters tell what became of a record.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    Refusal,
    Eviction,
    Other,
}

/// What became of a record.
enum Outcome {
    Passed,
    Suppressed,
    Lost,
}

#[inline(always)]
fn count(slot: u32, fate: Fate, outcome: Outcome) {
    match (fate, outcome) {
        (Fate::Refusal, Outcome::Passed) => bump(slot, Counter::RefusalEvents),
        (Fate::Refusal, Outcome::Suppressed) => bump(slot, Counter::RefusalSuppressed),
        (Fate::Refusal, Outcome::Lost) => bump(slot, Counter::RefusalLost),
        (Fate::Eviction, Outcome::Suppressed) => bump(slot, Counter::EvictionSuppressed),
        (Fate::Eviction, Outcome::Lost) => bump(slot, Counter::EvictionLost),
        (Fate::Other, Outcome::Suppressed) => bump(slot, Counter::OtherSuppressed),
        (Fate::Other, Outcome::Lost) => bump(slot, Counter::OtherLost),
        (Fate::Eviction | Fate::Other, Outcome::Passed) => {}
    }
}

/// An event of now, all else zero.
#[inline(always)]
pub(crate) fn event(kind: EventKind, netns: u32) -> Event {
    Event {
        // SAFETY: no arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        kind: kind as u32,
        flags: 0,
        netns,
        ifindex: 0,
        cgroup_id: 0,
        status: 0,
        token_netns: 0,
        token_ktime_ns: 0,
        token_kind: 0,
        suppressed: 0,
        orig: Default::default(),
        reply: Default::default(),
        account: 0,
        responder: 0,
    }
}

/// Adds the cgroup of a socket, if it has one.
#[inline(always)]
pub(crate) fn with_cgroup(event: &mut Event, sk: u64) {
    if sk != 0
        && let Some(cgroup) = sk_cgroup::<Probed>(sk)
    {
        event.cgroup_id = cgroup;
        event.flags |= FLAG_CGROUP;
    }
}

/// Sends an event, or counts why not. A function of its own: its caller's event fills half a stack.
#[inline(never)]
pub(crate) fn send(event: &mut Event, slot: u32, fate: Fate) {
    #[cfg(feature = "debug-log")]
    aya_log_ebpf::debug!((), "kind {} netns {} slot {}", event.kind, event.netns, slot);
    let Some(window) = window(event) else { return count(slot, fate, Outcome::Suppressed) };
    // SAFETY: a live value of an array. Two CPUs may race for the last places of a window: it is a limit, not a
    // book. The book, `withheld`, is only ever added to.
    let withheld = unsafe {
        if event.ktime_ns.wrapping_sub((*window).start_ns) >= SOURCE_WINDOW_NS {
            (*window).start_ns = event.ktime_ns;
            (*window).passed = 0;
        }
        if (*window).passed >= SOURCE_BURST {
            add_one(&raw mut (*window).withheld);
            return count(slot, fate, Outcome::Suppressed);
        }
        (*window).passed += 1;
        let withheld = (*window).withheld;
        event.suppressed = withheld.wrapping_sub((*window).told) as u32;
        withheld
    };
    if EVENTS.output::<Event>(&*event, 0).is_ok() {
        // SAFETY: as above.
        unsafe { (*window).told = withheld };
        count(slot, fate, Outcome::Passed);
    } else {
        // SAFETY: as above.
        unsafe { add_one(&raw mut (*window).withheld) };
        count(slot, fate, Outcome::Lost);
    }
}

/// The window of the event's source, taken now if it has none; a shared one when all are taken.
#[inline(always)]
fn window(event: &Event) -> Option<*mut SourceWindow> {
    let mut key = SourceKey {
        saddr: event.orig.saddr,
        cgroup_id: event.cgroup_id,
        netns: event.netns,
        ifindex: event.ifindex,
        kind: event.kind,
        flags: event.flags & SOURCE_FLAGS,
        l3num: event.orig.l3num.into(),
        account: event.account,
        token_kind: event.token_kind,
        pad: 0,
    };
    // Of a reset, whose connection it was: where it is seen may be the other end, a server of many.
    if event.kind == EventKind::ResetSent as u32 || event.kind == EventKind::ResetReceived as u32 {
        // SAFETY: a field of a live event. Volatile, or the compiler would choose between addresses in place of values,
        // which the verifier of 5.10 does not follow.
        key.saddr = unsafe { core::ptr::read_volatile(&raw const event.reply.saddr) };
    }
    let index = match SOURCES.get_ptr(key) {
        // SAFETY: a live map value.
        Some(index) => unsafe { *index },
        None => take(&key),
    };
    SOURCE_WINDOWS.get_ptr_mut(index)
}

#[inline(never)]
fn take(key: &SourceKey) -> u32 {
    let shared = key.kind & (SHARED_SOURCES - 1);
    let Ok(Some(index)) = FREE_SOURCES.pop() else {
        return shared;
    };
    if SOURCES.insert(key, index, BPF_NOEXIST.into()).is_err() {
        // Another CPU was first, or the map is full.
        let _: Result<(), i32> = FREE_SOURCES.push(index, 0);
        return match SOURCES.get_ptr(key) {
            // SAFETY: a live map value.
            Some(index) => unsafe { *index },
            None => shared,
        };
    }
    if let Some(window) = SOURCE_WINDOWS.get_ptr_mut(index) {
        // SAFETY: the window is this source's alone since the insert above; the daemon cleared it.
        unsafe { (*window).key = *key };
    }
    index
}

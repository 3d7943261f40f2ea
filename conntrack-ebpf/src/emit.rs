//! Rare facts into the ring buffer, limited by source so that no flood silences another source.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_ns};
use conntrack_common::{Counter, Event, EventKind, SOURCE_BURST, SOURCE_WINDOW_NS, SourceKey, SourceWindow};

use crate::{
    maps::{EVENTS, SOURCES},
    table::bump,
};

/// Counters of what became of the records of one kind.
pub(crate) struct Fate {
    pub(crate) passed: Option<Counter>,
    pub(crate) suppressed: Counter,
    pub(crate) lost: Counter,
}

/// What becomes of refusals.
pub(crate) const REFUSAL: Fate = Fate {
    passed: Some(Counter::RefusalEvents),
    suppressed: Counter::RefusalSuppressed,
    lost: Counter::RefusalLost,
};

/// What becomes of evictions.
pub(crate) const EVICTION: Fate =
    Fate { passed: None, suppressed: Counter::EvictionSuppressed, lost: Counter::EvictionLost };

/// What becomes of everything else.
pub(crate) const OTHER: Fate =
    Fate { passed: None, suppressed: Counter::OtherSuppressed, lost: Counter::OtherLost };

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
    }
}

/// Sends an event, or counts why not.
#[inline(always)]
pub(crate) fn send(mut event: Event, slot: u32, fate: &Fate) {
    let Some(suppressed) = pass(&event) else {
        bump(slot, fate.suppressed);
        return;
    };
    event.suppressed = suppressed;
    if EVENTS.output::<Event>(&event, 0).is_ok() {
        if let Some(passed) = fate.passed {
            bump(slot, passed);
        }
    } else {
        bump(slot, fate.lost);
    }
}

/// `Some(held back since the last one)` if the event's source may still speak in this window.
#[inline(always)]
fn pass(event: &Event) -> Option<u32> {
    let key = SourceKey { saddr: event.orig.saddr, netns: event.netns, kind: event.kind };
    let Some(window) = SOURCES.get_ptr_mut(key) else {
        let fresh = SourceWindow { start_ns: event.ktime_ns, passed: 1, suppressed: 0 };
        let _: Result<(), i32> = SOURCES.insert(key, fresh, BPF_ANY.into());
        return Some(0);
    };
    // SAFETY: a live map value. Two CPUs may race for the last places of a window: it is a limit, not a book.
    let window = unsafe { &mut *window };
    if event.ktime_ns.wrapping_sub(window.start_ns) >= SOURCE_WINDOW_NS {
        window.start_ns = event.ktime_ns;
        window.passed = 0;
    }
    if window.passed >= SOURCE_BURST {
        window.suppressed += 1;
        return None;
    }
    window.passed += 1;
    let suppressed = window.suppressed;
    window.suppressed = 0;
    Some(suppressed)
}

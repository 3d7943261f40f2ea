//! Packets on their way out of existence: `kfree_skb` shows the packet of a refusal with its socket and
//! device, and, where conntrack itself cannot be probed, is all there is to see.
//!
//! `TP_PROTO(struct sk_buff *skb, void *location[, enum skb_drop_reason reason[, struct sock *rx_sk]])`
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/skb.h#L22>

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use conntrack_common::{
    Counter, Event, EventKind,
    event::{AT_LIMIT_TABLES, FLAG_IFINDEX},
};

use super::frame;
use crate::{
    emit::{self, Fate},
    kernel::{context, member, sk_netns, skb_device, skb_nfct, skb_segment, skb_tuple},
    maps::{AT_LIMIT, PENDING, WAITING, offsets, reason_netfilter_drop},
    table::{add, bump, slot},
    token,
};

#[raw_tracepoint]
fn kfree_skb(ctx: RawTracePointContext) -> i32 {
    // SAFETY: a live value of an array.
    if WAITING.get_ptr(0).is_none_or(|waiting| unsafe { core::ptr::read_volatile(waiting) } == 0) {
        return 0;
    }
    let key = context(frame(&ctx));
    let Some(event) = PENDING.get_ptr_mut(key) else { return 0 };
    // SAFETY: a live map value; only this context writes it.
    let event = unsafe { &mut *event };
    let skb: u64 = ctx.arg(0);
    if skb_tuple(skb).is_none_or(|t| t.saddr != event.orig.saddr || t.daddr != event.orig.daddr) {
        return 0; // another packet, freed on the way
    }
    let slot = slot(event.netns);
    enrich(event, skb);
    bump(slot, Counter::RefusalsEnriched);
    emit::send(event, slot, Fate::Refusal);
    if let Some(segment) = skb_segment(skb)
        && !segment.syn
        && token::seen_again(event, segment.bare)
    {
        event.kind = EventKind::Stalled as u32;
        emit::send(event, slot, Fate::Other);
    }
    if PENDING.remove(key).is_ok() {
        waiting(-1);
    }
    0
}

/// So many refusals more wait for their packet, or, below zero, fewer.
#[inline(always)]
pub(super) fn waiting(more: i64) {
    if let Some(waiting) = WAITING.get_ptr_mut(0) {
        // SAFETY: a live value of an array.
        unsafe { add(waiting, more as u64) };
    }
}

/// Is the table of this namespace at its limit?
#[inline(always)]
fn at_limit(netns: u32) -> bool {
    for index in 0..AT_LIMIT_TABLES {
        // SAFETY: a live value of an array.
        let is = AT_LIMIT
            .get_ptr(index)
            .is_some_and(|full| unsafe { core::ptr::read_volatile(full) } == netns.into());
        if is {
            return netns != 0;
        }
    }
    false
}

/// The tier without probes: netfilter dropped a packet that has no entry where the table is at its limit.
#[raw_tracepoint]
fn kfree_skb_inferred(ctx: RawTracePointContext) -> i32 {
    // The list has no gaps: while its first word is 0 no table is at its limit, and the packet is not looked at.
    // SAFETY: a live value of an array.
    let none = AT_LIMIT.get_ptr(0).is_none_or(|first| unsafe { core::ptr::read_volatile(first) } == 0);
    if none || ctx.arg::<u64>(2) as u32 != reason_netfilter_drop() {
        return 0;
    }
    let skb: u64 = ctx.arg(0);
    // 7 would be "not tracked on purpose"; anything else has an entry.
    if skb_nfct(skb) != Some(0) {
        return 0;
    }
    let sk: u64 = member(skb, offsets().skb_sk()).unwrap_or(0);
    let netns = match (sk, skb_device(skb)) {
        (0, Some((_, netns))) => netns,
        (0, None) => 0,
        (sk, _) => sk_netns(sk),
    };
    if !at_limit(netns) {
        return 0;
    }
    let slot = slot(netns);
    bump(slot, Counter::InferredRefusals);
    let mut event = emit::event(EventKind::InferredRefusal, netns);
    if let Some(tuple) = skb_tuple(skb) {
        event.orig = tuple;
    }
    enrich(&mut event, skb);
    token::refused(&mut event);
    emit::send(&mut event, slot, Fate::Refusal);
    0
}

/// Adds what only the packet knows.
#[inline(always)]
fn enrich(event: &mut Event, skb: u64) {
    let sk: u64 = member(skb, offsets().skb_sk()).unwrap_or(0);
    emit::with_cgroup(event, sk);
    if let Some((index, netns)) = skb_device(skb)
        && netns == event.netns
    {
        event.ifindex = index;
        event.flags |= FLAG_IFINDEX;
    }
}

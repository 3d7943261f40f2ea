//! Packets on their way out of existence: `kfree_skb` shows the packet of a refusal with its socket and
//! device, and, where conntrack itself cannot be probed, is all there is to see.
//!
//! `TP_PROTO(struct sk_buff *skb, void *location[, enum skb_drop_reason reason[, struct sock *rx_sk]])`
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/skb.h#L22>

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use conntrack_common::{
    Counter, Event, EventKind,
    event::{FLAG_CGROUP, FLAG_IFINDEX},
};

use super::frame;
use crate::{
    emit::{self, REFUSAL},
    kernel::{context, member, sk_cgroup, sk_netns, skb_device, skb_nfct, skb_tuple},
    maps::{PENDING, control, offsets, reason_netfilter_drop},
    table::{bump, slot},
};

#[raw_tracepoint]
fn kfree_skb(ctx: RawTracePointContext) -> i32 {
    let key = context(frame(&ctx));
    // SAFETY: only this context writes the value.
    let Some(mut event) = unsafe { PENDING.get(key) }.copied() else { return 0 };
    let _: Result<(), i32> = PENDING.remove(key);
    let slot = slot(event.netns);
    enrich(&mut event, ctx.arg(0));
    bump(slot, Counter::RefusalsEnriched);
    emit::send(event, slot, &REFUSAL);
    0
}

/// The tier without probes: netfilter dropped a packet that has no entry while the table is at its limit.
#[raw_tracepoint]
fn kfree_skb_inferred(ctx: RawTracePointContext) -> i32 {
    if control().at_limit == 0 || ctx.arg::<u64>(2) as u32 != reason_netfilter_drop() {
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
    let slot = slot(netns);
    bump(slot, Counter::InferredRefusals);
    let mut event = emit::event(EventKind::InferredRefusal, netns);
    if let Some(tuple) = skb_tuple(skb) {
        event.orig = tuple;
    }
    enrich(&mut event, skb);
    emit::send(event, slot, &REFUSAL);
    0
}

/// Adds what only the packet knows.
#[inline(always)]
fn enrich(event: &mut Event, skb: u64) {
    let sk: u64 = member(skb, offsets().skb_sk()).unwrap_or(0);
    if sk != 0
        && let Some(cgroup) = sk_cgroup(sk)
    {
        event.cgroup_id = cgroup;
        event.flags |= FLAG_CGROUP;
    }
    if let Some((index, netns)) = skb_device(skb)
        && netns == event.netns
    {
        event.ifindex = index;
        event.flags |= FLAG_IFINDEX;
    }
}

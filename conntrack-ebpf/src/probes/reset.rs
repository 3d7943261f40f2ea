//! TCP resets, and whether an eviction left a token for their flow.
//!
//! `void tcp_v4_send_reset(const struct sock *sk, struct sk_buff *skb, …)`, likewise v6;
//! tracepoints `tcp_send_reset(sk, skb[, reason])` and `tcp_receive_reset(sk)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_ipv4.c#L711>

use aya_ebpf::{
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};
use conntrack_common::{Counter, EventKind, Tuple};

use crate::{
    emit::{self, Fate},
    kernel::{sk_netns, sk_tuple, skb_device, skb_is_reset, skb_tuple},
    table::{bump, slot},
    token,
};

#[kprobe]
fn send_reset_enter(ctx: ProbeContext) -> u32 {
    sending(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0));
    0
}

#[fentry]
fn send_reset_entry(ctx: FEntryContext) -> i32 {
    sending(ctx.arg(0), ctx.arg(1));
    0
}

/// Where the functions cannot be probed. Before 6.12 it shows only resets of sockets.
#[raw_tracepoint]
fn tcp_send_reset(ctx: RawTracePointContext) -> i32 {
    sending(ctx.arg(0), ctx.arg(1));
    0
}

#[raw_tracepoint]
fn tcp_receive_reset(ctx: RawTracePointContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let netns = sk_netns(sk);
    let slot = slot(netns);
    bump(slot, Counter::ResetsReceived);
    if let Some(tuple) = sk_tuple(sk) {
        attribute(EventKind::ResetReceived, netns, slot, tuple, sk);
    }
    0
}

#[inline(always)]
fn sending(sk: u64, skb: u64) {
    // No packet: the application aborted its own connection.
    if skb != 0 && skb_is_reset(skb) {
        return; // a reset is never answered
    }
    let netns = match (sk, skb_device(skb)) {
        (0, Some((_, netns))) => netns,
        (0, None) => 0,
        (sk, _) => sk_netns(sk),
    };
    let slot = slot(netns);
    bump(slot, Counter::ResetsSent);
    let tuple = if skb != 0 { skb_tuple(skb) } else { sk_tuple(sk) };
    if let Some(tuple) = tuple {
        attribute(EventKind::ResetSent, netns, slot, tuple, sk);
    }
}

/// Reports a reset whose flow an eviction left a token for.
#[inline(always)]
fn attribute(kind: EventKind, netns: u32, slot: u32, tuple: Tuple, sk: u64) {
    let mut event = emit::event(kind, netns);
    event.orig = tuple;
    if !token::of_eviction(&mut event) {
        return;
    }
    bump(slot, Counter::ResetsEvicted);
    emit::with_cgroup(&mut event, sk);
    emit::send(&mut event, slot, Fate::Other);
}

//! What becomes of TCP connections whose packets were refused: they come about late, are given up, or stall.
//!
//! Tracepoints `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)` and
//! `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb[, int err])`
//! <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sock.h#L140>

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use conntrack_common::{
    Counter, EventKind,
    event::{FLAG_BY_KERNEL, FLAG_SAME_FLOW},
};

use crate::{
    emit::{self, Fate},
    kernel::{sk_is_in_use, sk_netns, sk_state, sk_tuple, sk_tuple_closed, tcp_error, tcp_never_repeated},
    table::{bump, slot},
    token,
};

const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;
const TCP_CLOSE: u32 = 7;
const TCP_CLOSE_WAIT: u32 = 8;
const ETIMEDOUT: u32 = 110;

#[raw_tracepoint]
fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let (before, after) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    match (before, after) {
        (TCP_SYN_SENT, TCP_CLOSE) => ended(ctx.arg(0)),
        (TCP_SYN_SENT | TCP_SYN_RECV, TCP_ESTABLISHED) if token::pressed() => connected(ctx.arg(0), before),
        _ => {}
    }
    0
}

#[raw_tracepoint]
fn tcp_retransmit_skb(ctx: RawTracePointContext) -> i32 {
    if token::pressed() {
        retransmitted(ctx.arg(0));
    }
    0
}

/// A connection attempt ends. By what sk_err says: 0, the application closed it; ETIMEDOUT, the kernel gave up; else
/// somebody answered, and what the table refused before is not what ended it.
#[inline(always)]
fn ended(sk: u64) {
    match tcp_error(sk) {
        Some(0 | ETIMEDOUT) => given_up(sk),
        Some(_) if token::pressed() => answered(sk),
        _ => {}
    }
}

#[inline(never)]
fn given_up(sk: u64) {
    let netns = sk_netns(sk);
    let slot = slot(netns);
    bump(slot, Counter::ConnectsGivenUp);
    if !token::pressed() {
        return;
    }
    let mut event = emit::event(EventKind::ConnectGivenUp, netns);
    let Some(tuple) = sk_tuple_closed(sk) else { return };
    event.orig = tuple;
    if !token::of_attempt(&mut event, false) {
        return;
    }
    bump(slot, Counter::ConnectsRefused);
    // Read again: see `token`. An application that asks for the error at this moment has taken it already.
    if tcp_error(sk) == Some(ETIMEDOUT) || sk_is_in_use(sk) {
        event.flags |= FLAG_BY_KERNEL;
    }
    emit::with_cgroup(&mut event, sk);
    emit::send(&mut event, slot, Fate::Other);
}

/// What was refused before has no outcome.
#[inline(never)]
fn answered(sk: u64) {
    let mut event = emit::event(EventKind::ConnectGivenUp, 0);
    if let Some(tuple) = sk_tuple_closed(sk) {
        event.orig = tuple;
        token::of_attempt(&mut event, false);
    }
}

/// Either end tells, whichever is first. Functions of their own, or their events would share a stack.
#[inline(never)]
fn connected(sk: u64, before: u32) {
    let netns = sk_netns(sk);
    let mut event = emit::event(EventKind::ConnectedLate, netns);
    let Some(tuple) = sk_tuple(sk) else { return };
    event.orig = tuple;
    if !token::of_attempt(&mut event, true) {
        return;
    }
    // It has lost no SYN: what was refused was the last of an earlier attempt from the same port, under way when that was
    // given up.
    if before == TCP_SYN_SENT && tcp_never_repeated(sk) {
        return;
    }
    if event.flags & FLAG_SAME_FLOW != 0 {
        emit::with_cgroup(&mut event, sk);
    }
    emit::send(&mut event, slot(netns), Fate::Other);
}

/// Of a connection that is open.
#[inline(always)]
fn retransmitted(sk: u64) {
    let state = u32::from(sk_state(sk).unwrap_or(0));
    if state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT {
        return;
    }
    let netns = sk_netns(sk);
    let mut event = emit::event(EventKind::Stalled, netns);
    let Some(tuple) = sk_tuple(sk) else { return };
    event.orig = tuple;
    if !token::of_stall(&mut event) {
        return;
    }
    emit::with_cgroup(&mut event, sk);
    emit::send(&mut event, slot(netns), Fate::Other);
}

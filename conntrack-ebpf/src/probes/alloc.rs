//! `__nf_conntrack_alloc`: every entry that comes to count against the limit, and every refusal.
//!
//! `struct nf_conn *__nf_conntrack_alloc(struct net *net, const struct nf_conntrack_zone *zone,
//! const struct nf_conntrack_tuple *orig, const struct nf_conntrack_tuple *repl, gfp_t gfp, u32 hash)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1650>

use aya_ebpf::{
    bindings::BPF_ANY,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_common::{
    Counter, EventKind,
    turn::{TURN_UNPLACED, Twin},
};

use super::{frame, sp_at_entry, sp_at_return};
use crate::{
    account::{Accounts, Column, add, of_new},
    emit::{self, Fate},
    kernel::{self, Probed, Reader, Typed, context, netns_by},
    maps::{FULL_MARKS, FullMark, PENDING, Stash, TURNS, control},
    place::{ByBucket, ByHash, Placed, Places},
    probes::packet::waiting,
    stash::Keeps,
    table::{add_one, bump, slot},
    token,
    turn::Turn,
};

const TAG: u64 = 1;
/// `IS_ERR`: the last page of addresses. Compared unsigned, since the verifier knows the value as a pointer.
const MAX_ERRNO: u64 = 4095;

#[kprobe]
fn alloc_enter(ctx: ProbeContext) -> u32 {
    entered::<ByBucket>(&ctx);
    0
}

#[kprobe]
fn alloc_enter_old(ctx: ProbeContext) -> u32 {
    entered::<ByHash>(&ctx);
    0
}

#[inline(always)]
fn entered<K: Keeps>(ctx: &ProbeContext) {
    let arg = |n| ctx.arg::<u64>(n).unwrap_or(0);
    K::stash(sp_at_entry(ctx), Stash { tag: TAG, a: arg(0), b: arg(2), c: arg(3), d: arg(5) });
}

#[kretprobe]
fn alloc_return(ctx: RetProbeContext) -> u32 {
    returned_to_kretprobe::<ByBucket>(&ctx);
    0
}

#[kretprobe]
fn alloc_return_old(ctx: RetProbeContext) -> u32 {
    returned_to_kretprobe::<ByHash>(&ctx);
    0
}

#[fexit]
fn alloc_exit(ctx: FExitContext) -> i32 {
    returned_to_fexit(Turn::first(Twin::Alloc), &ctx);
    0
}

#[fexit]
fn alloc_exit_again(ctx: FExitContext) -> i32 {
    returned_to_fexit(Turn::second(Twin::Alloc), &ctx);
    0
}

#[inline(always)]
fn returned_to_kretprobe<P: Places + Keeps>(ctx: &RetProbeContext) {
    let sp = sp_at_return(ctx);
    if let Some(args) = P::unstash(sp, TAG) {
        let call = Call { net: args.a, orig: args.b, repl: args.c, hash: args.d as u32 };
        returned::<Probed, P>(Turn::alone(Twin::Alloc), call, ctx.ret::<u64>(), || sp);
    }
}

#[inline(always)]
fn returned_to_fexit(turn: Turn, ctx: &FExitContext) {
    if let Ok(ret) = ctx.ret::<u64>() {
        let call =
            Call { net: ctx.arg(0), orig: ctx.arg(2), repl: ctx.arg(3), hash: ctx.arg::<u64>(5) as u32 };
        returned::<Typed, ByBucket>(turn, call, ret, || frame(ctx));
    }
}

/// The arguments that tell something.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) net: u64,
    pub(super) orig: u64,
    pub(super) repl: u64,
    pub(super) hash: u32,
}

#[inline(always)]
pub(super) fn returned<R: Reader, P: Places>(
    turn: Turn,
    call: Call,
    ret: u64,
    position: impl FnOnce() -> u64,
) {
    if ret < u64::MAX - MAX_ERRNO + 1 {
        return allocated::<R, P>(turn, call, ret);
    }
    let position = position();
    if !turn.is_mine(position, || call.hash.into()) {
        return;
    }
    let netns = netns_by::<R>(call.net);
    let slot = slot(netns);
    if call.hash == 0 {
        // ctnetlink and the kfuncs pass no hash: a request failed, no packet was dropped.
        bump(slot, Counter::RefusedByRequest);
    } else {
        refused(call, netns, slot, position);
    }
}

#[inline(always)]
pub(super) fn allocated<R: Reader, P: Places>(turn: Turn, call: Call, ct: u64) {
    let mut owner = 0;
    let placed = P::place(ct, turn, || {
        let accounts = of_new::<R>(netns_by::<R>(call.net), call.orig);
        owner = accounts.owner();
        accounts.printed::<R>(call.orig).0
    });
    match placed {
        Placed::Already => return turn.other_was_first(),
        Placed::Now => {}
        // It was freed, and both programs were skipped.
        Placed::Over(before) => add(Accounts(before).owner(), Column::Frees),
        Placed::Nowhere => {
            if !turn.is_mine(ct, || call.hash.into()) {
                return;
            }
            owner = slot(netns_by::<R>(call.net));
            if let Some(unplaced) = TURNS.get_ptr_mut(TURN_UNPLACED) {
                // SAFETY: a live value of an array.
                unsafe { add_one(unplaced) };
            }
        }
    }
    turn.does_the_work();
    add(owner, Column::Allocs);
}

#[inline(always)]
fn refused(call: Call, netns: u32, slot: u32, position: u64) {
    bump(slot, Counter::Refused);
    let control = control();
    let mark = FullMark { net: kernel::number(call.net), hash: call.hash.into() };
    let kind = if FULL_MARKS.get_ptr(mark).is_some() {
        let _: Result<(), i32> = FULL_MARKS.remove(mark);
        EventKind::RefusedTableFull
    } else if control.early_drop != 0 {
        EventKind::RefusedNoMemory
    } else {
        EventKind::Refused
    };
    let mut event = emit::event(kind, netns);
    if let Some(tuple) = kernel::tuple(call.orig) {
        event.orig = tuple;
    }
    if let Some(tuple) = kernel::tuple(call.repl) {
        event.reply = tuple;
    }
    token::refused(&mut event);
    if control.kfree_skb == 0 {
        emit::send(&mut event, slot, Fate::Refusal);
        return;
    }
    // `nf_conntrack_in` returns NF_DROP and its caller frees the packet, in this very context:
    // `packet::freed` adds socket and device and sends the event.
    let key = context(position);
    if let Some(left) = PENDING.get_ptr_mut(key) {
        // The free of an earlier packet was not seen. Its refusal is reported all the same, and its place taken.
        // SAFETY: only this context writes the value.
        let left = unsafe { &mut *left };
        emit::send(left, crate::table::slot(left.netns), Fate::Refusal);
        *left = event;
        return;
    }
    waiting(1);
    if PENDING.insert(key, &event, BPF_ANY.into()).is_err() {
        waiting(-1);
        emit::send(&mut event, slot, Fate::Refusal);
    }
}

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
use conntrack_common::{Counter, EventKind};

use super::{frame, sp_at_entry, sp_at_return, stash, unstash};
use crate::{
    emit::{self, Fate},
    kernel::{self, context, netns},
    maps::{FULL_MARKS, FullMark, PENDING, Stash, control},
    table::{bump, slot},
};

const TAG: u64 = 1;
/// `IS_ERR`: the last page of addresses. Compared unsigned, since the verifier knows the value as a pointer.
const MAX_ERRNO: u64 = 4095;

#[kprobe]
fn alloc_enter(ctx: ProbeContext) -> u32 {
    let arg = |n| ctx.arg::<u64>(n).unwrap_or(0);
    stash(sp_at_entry(&ctx), Stash { tag: TAG, a: arg(0), b: arg(2), c: arg(3), d: arg(5) });
    0
}

#[kretprobe]
fn alloc_return(ctx: RetProbeContext) -> u32 {
    let sp = sp_at_return(&ctx);
    if let Some(args) = unstash(sp, TAG) {
        returned(args.a, args.b, args.c, args.d as u32, ctx.ret::<u64>(), sp);
    }
    0
}

#[fexit]
fn alloc_exit(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        let position = frame(&ctx);
        returned(ctx.arg(0), ctx.arg(2), ctx.arg(3), ctx.arg::<u64>(5) as u32, ret, position);
    }
    0
}

#[inline(always)]
pub(super) fn returned(net: u64, orig: u64, repl: u64, hash: u32, ret: u64, position: u64) {
    let netns = netns(net);
    let slot = slot(netns);
    if ret < u64::MAX - MAX_ERRNO + 1 {
        bump(slot, Counter::Allocs);
    } else if hash == 0 {
        // ctnetlink and the kfuncs pass no hash: a request failed, no packet was dropped.
        bump(slot, Counter::RefusedByRequest);
    } else {
        refused(net, orig, repl, hash, netns, slot, position);
    }
}

#[inline(always)]
fn refused(net: u64, orig: u64, repl: u64, hash: u32, netns: u32, slot: u32, position: u64) {
    bump(slot, Counter::Refused);
    let control = control();
    let mark = FullMark { net, hash: hash.into() };
    let kind = if FULL_MARKS.get_ptr(mark).is_some() {
        let _: Result<(), i32> = FULL_MARKS.remove(mark);
        EventKind::RefusedTableFull
    } else if control.early_drop != 0 {
        EventKind::RefusedNoMemory
    } else {
        EventKind::Refused
    };
    let mut event = emit::event(kind, netns);
    if let Some(tuple) = kernel::tuple(orig) {
        event.orig = tuple;
    }
    if let Some(tuple) = kernel::tuple(repl) {
        event.reply = tuple;
    }
    if control.kfree_skb == 0 {
        emit::send(&mut event, slot, Fate::Refusal);
        return;
    }
    // `nf_conntrack_in` returns NF_DROP and its caller frees the packet, in this very context:
    // `packet::freed` adds socket and device and sends the event.
    let key = context(position);
    if let Some(left) = PENDING.get_ptr_mut(key) {
        // The free of an earlier packet was not seen. Its refusal is reported all the same.
        // SAFETY: only this context writes the value.
        let left = unsafe { &mut *left };
        emit::send(left, crate::table::slot(left.netns), Fate::Refusal);
    }
    if PENDING.insert(key, event, BPF_ANY.into()).is_err() {
        emit::send(&mut event, slot, Fate::Refusal);
    }
}

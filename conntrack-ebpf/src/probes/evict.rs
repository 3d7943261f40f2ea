//! Evictions: `nf_ct_delete` returning true, of an entry that has not expired, inside `early_drop` or
//! `gc_worker`; and `early_drop` finding nothing, which is "table full".
//!
//! `unsigned int|bool early_drop(struct net *net, unsigned int hash)`,
//! `void gc_worker(struct work_struct *work)`,
//! `bool nf_ct_delete(struct nf_conn *ct, u32 portid, int report)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1416>

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::bpf_ktime_get_ns,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_common::{Counter, EventKind, Token, event::FLAG_NAT, event::FLAG_REPLY};

use super::{frame, sp_at_entry, sp_at_return, stash, unstash};
use crate::{
    emit::{self, Fate},
    kernel::{self, IPS_NAT_MASK, context, netns},
    maps::{EVICTORS, Evictor, FULL_MARKS, FullMark, Stash, TOKENS, offsets},
    table::{bump, slot},
};

const DELETE: u64 = 2;

#[kprobe]
fn early_drop_enter(ctx: ProbeContext) -> u32 {
    let arg = |n| ctx.arg::<u64>(n).unwrap_or(0);
    enter(sp_at_entry(&ctx), arg(0), arg(1) as u32, EventKind::EvictedEarlyDrop);
    0
}

#[kretprobe]
fn early_drop_return(ctx: RetProbeContext) -> u32 {
    early_dropped(sp_at_return(&ctx), ctx.ret::<u64>() & 0xff != 0);
    0
}

#[fentry]
fn early_drop_entry(ctx: FEntryContext) -> i32 {
    enter(frame(&ctx), ctx.arg(0), ctx.arg::<u64>(1) as u32, EventKind::EvictedEarlyDrop);
    0
}

#[fexit]
fn early_drop_exit(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        early_dropped(frame(&ctx), ret & 0xff != 0);
    }
    0
}

#[kprobe]
fn gc_enter(ctx: ProbeContext) -> u32 {
    enter(sp_at_entry(&ctx), 0, 0, EventKind::EvictedGc);
    0
}

#[kretprobe]
fn gc_return(ctx: RetProbeContext) -> u32 {
    let _: Result<(), i32> = EVICTORS.remove(context(sp_at_return(&ctx)));
    0
}

#[fentry]
fn gc_entry(ctx: FEntryContext) -> i32 {
    enter(frame(&ctx), 0, 0, EventKind::EvictedGc);
    0
}

#[fexit]
fn gc_exit(ctx: FExitContext) -> i32 {
    let _: Result<(), i32> = EVICTORS.remove(context(frame(&ctx)));
    0
}

#[kprobe]
fn delete_enter(ctx: ProbeContext) -> u32 {
    let sp = sp_at_entry(&ctx);
    let ct: u64 = ctx.arg(0).unwrap_or(0);
    // Most deletions are nobody's eviction: they end here.
    if let Some(kind) = evicting(sp, ct) {
        stash(sp, Stash { tag: DELETE, a: ct, b: kind.into(), c: 0, d: 0 });
    }
    0
}

#[kretprobe]
fn delete_return(ctx: RetProbeContext) -> u32 {
    if let Some(args) = unstash(sp_at_return(&ctx), DELETE)
        && ctx.ret::<u64>() & 0xff != 0
    {
        evicted(args.a, args.b as u32);
    }
    0
}

#[fexit]
fn delete_exit(ctx: FExitContext) -> i32 {
    let ct: u64 = ctx.arg(0);
    if let Some(kind) = evicting(frame(&ctx), ct)
        && ctx.ret::<u64>().is_ok_and(|deleted| deleted & 0xff != 0)
    {
        evicted(ct, kind);
    }
    0
}

#[inline(always)]
pub(super) fn enter(position: u64, net: u64, hash: u32, kind: EventKind) {
    let evictor = Evictor { net, hash, kind: kind as u32 };
    let _: Result<(), i32> = EVICTORS.insert(context(position), evictor, BPF_ANY.into());
}

#[inline(always)]
pub(super) fn early_dropped(position: u64, made_room: bool) {
    let key = context(position);
    // SAFETY: only this context writes the value.
    let Some(evictor) = unsafe { EVICTORS.get(key) }.copied() else { return };
    let _: Result<(), i32> = EVICTORS.remove(key);
    if !made_room {
        bump(slot(netns(evictor.net)), Counter::TableFull);
        // Requests by ctnetlink carry hash 0 and are told apart when `__nf_conntrack_alloc` returns.
        let mark = FullMark { net: evictor.net, hash: evictor.hash.into() };
        let _: Result<(), i32> = FULL_MARKS.insert(mark, 1, BPF_ANY.into());
    }
}

/// The kind of eviction that deleting this entry would be, here and now.
#[inline(always)]
fn evicting(position: u64, ct: u64) -> Option<u32> {
    // SAFETY: only this context writes the value.
    let kind = unsafe { EVICTORS.get(context(position)) }?.kind;
    // Both evictors also reap what has expired: no eviction.
    if kernel::ct_expired(ct) { None } else { Some(kind) }
}

#[inline(always)]
fn evicted(ct: u64, kind: u32) {
    let netns = kernel::ct_netns(ct);
    let slot = slot(netns);
    let (counter, event_kind) = if kind == EventKind::EvictedGc as u32 {
        (Counter::EvictedGc, EventKind::EvictedGc)
    } else {
        (Counter::EvictedEarlyDrop, EventKind::EvictedEarlyDrop)
    };
    bump(slot, counter);

    leave_token(ct, kind, netns);
    report(ct, event_kind, netns, slot);
}

/// Sends the record. This and [`leave_token`] have frames of their own: token and event together pass the 512
/// bytes that a program and what it calls may have on the stack.
#[inline(never)]
fn report(ct: u64, kind: EventKind, netns: u32, slot: u32) {
    let status = kernel::ct_status(ct);
    let mut event = emit::event(kind, netns);
    event.status = status;
    if let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) {
        event.orig = orig;
    }
    if let Some(reply) = kernel::tuple(ct + offsets().ct_reply() as u64) {
        event.reply = reply;
        event.flags = FLAG_REPLY | if status & IPS_NAT_MASK != 0 { FLAG_NAT } else { 0 };
    }
    emit::send(&mut event, slot, Fate::Eviction);
}

/// Leaves a token under both tuples; their inverses share the keys.
#[inline(never)]
fn leave_token(ct: u64, kind: u32, netns: u32) {
    // One after the other: what both reads left in registers, the verifier of 5.10 cannot tell apart.
    let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) else { return };
    let Some(reply) = kernel::tuple(ct + offsets().ct_reply() as u64) else { return };
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_ns() };
    let token = Token { ktime_ns, kind, netns, status: kernel::ct_status(ct), matched: 0, orig, reply };
    let _: Result<(), i32> = TOKENS.insert(orig.flow_key(), &token, BPF_ANY.into());
    let _: Result<(), i32> = TOKENS.insert(reply.flow_key(), &token, BPF_ANY.into());
}

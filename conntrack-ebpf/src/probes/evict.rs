//! Evictions: `nf_ct_delete` returning true, of an entry that has not expired, inside `early_drop` or
//! `gc_worker`; and `early_drop` finding nothing, which is "table full".
//!
//! `unsigned int|bool early_drop(struct net *net, unsigned int hash)`,
//! `void gc_worker(struct work_struct *work)`,
//! `bool nf_ct_delete(struct nf_conn *ct, u32 portid, int report)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1416>

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST},
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_common::{
    Counter, EventKind,
    event::{FLAG_NAT, FLAG_REPLY},
    turn::Twin,
};

use super::{frame, scalar, sp_at_entry, sp_at_return};
use crate::{
    account::Accounts,
    emit::{self, Fate},
    kernel::{self, IPS_NAT_MASK, Probed, Reader, Typed, context, netns},
    maps::{EVICTING, EVICTORS, Evictor, FULL_MARKS, FullMark, Stash, offsets},
    place::{ByHash, accounts_of},
    stash::Keeps,
    table::{add, bump, slot},
    token,
    turn::Turn,
};

const DELETE: u64 = 2;

#[kprobe]
fn early_drop_enter(ctx: ProbeContext) -> u32 {
    let arg = |n| ctx.arg::<u64>(n).unwrap_or(0);
    early_dropping(Turn::alone(Twin::EarlyDrop), sp_at_entry(&ctx), arg(0), arg(1) as u32);
    0
}

#[kretprobe]
fn early_drop_return(ctx: RetProbeContext) -> u32 {
    early_dropped(Turn::alone(Twin::EarlyDrop), sp_at_return(&ctx), ctx.ret::<u64>() & 0xff != 0);
    0
}

#[fentry]
fn early_drop_entry(ctx: FEntryContext) -> i32 {
    early_dropping(Turn::first(Twin::EarlyDrop), frame(&ctx), scalar(&ctx, 0), scalar(&ctx, 1) as u32);
    0
}

#[fentry]
fn early_drop_entry_again(ctx: FEntryContext) -> i32 {
    early_dropping(Turn::second(Twin::EarlyDrop), frame(&ctx), scalar(&ctx, 0), scalar(&ctx, 1) as u32);
    0
}

#[fexit]
fn early_drop_exit(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        early_dropped(Turn::first(Twin::EarlyDrop), frame(&ctx), ret & 0xff != 0);
    }
    0
}

#[fexit]
fn early_drop_exit_again(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        early_dropped(Turn::second(Twin::EarlyDrop), frame(&ctx), ret & 0xff != 0);
    }
    0
}

#[kprobe]
fn gc_enter(ctx: ProbeContext) -> u32 {
    collecting(sp_at_entry(&ctx));
    0
}

#[kretprobe]
fn gc_return(ctx: RetProbeContext) -> u32 {
    ends(context(sp_at_return(&ctx)));
    0
}

#[fentry]
fn gc_entry(ctx: FEntryContext) -> i32 {
    collecting(frame(&ctx));
    0
}

#[fexit]
fn gc_exit(ctx: FExitContext) -> i32 {
    ends(context(frame(&ctx)));
    0
}

#[kprobe]
fn delete_enter(ctx: ProbeContext) -> u32 {
    let sp = sp_at_entry(&ctx);
    let ct: u64 = ctx.arg(0).unwrap_or(0);
    // Most deletions are nobody's eviction: they end here.
    if let Some(kind) = evicting::<Probed>(|| sp, ct) {
        ByHash::stash(sp, Stash { tag: DELETE, a: ct, b: kind.into(), c: 0, d: 0 });
    }
    0
}

#[kretprobe]
fn delete_return(ctx: RetProbeContext) -> u32 {
    // Whoever evicts is still at it when the deletion returns.
    if nobody_evicts() {
        return 0;
    }
    if let Some(args) = ByHash::unstash(sp_at_return(&ctx), DELETE)
        && ctx.ret::<u64>() & 0xff != 0
    {
        evicted(Turn::alone(Twin::Delete), args.a, args.b as u32);
    }
    0
}

#[fexit]
fn delete_exit(ctx: FExitContext) -> i32 {
    deleted(Turn::first(Twin::Delete), &ctx);
    0
}

#[fexit]
fn delete_exit_again(ctx: FExitContext) -> i32 {
    deleted(Turn::second(Twin::Delete), &ctx);
    0
}

#[inline(always)]
fn deleted(turn: Turn, ctx: &FExitContext) {
    if let Some(kind) = evicting::<Typed>(|| frame(ctx), ctx.arg(0))
        && ctx.ret::<u64>().is_ok_and(|deleted| deleted & 0xff != 0)
    {
        evicted(turn, scalar(ctx, 0), kind);
    }
}

/// The one worker cannot interrupt itself: no twin is needed.
#[inline(always)]
fn collecting(position: u64) {
    begins(context(position), Evictor { net: 0, hash: 0, kind: EventKind::EvictedGc as u32 });
}

#[inline(always)]
pub(super) fn early_dropping(turn: Turn, position: u64, net: u64, hash: u32) {
    let key = context(position);
    // SAFETY: only this context writes the value.
    let there = unsafe { EVICTORS.get(key) }.is_some_and(|there| there.net == net && there.hash == hash);
    if turn.me != 0 && there {
        return;
    }
    begins(key, Evictor { net, hash, kind: EventKind::EvictedEarlyDrop as u32 });
    turn.does_the_work();
}

#[inline(always)]
pub(super) fn early_dropped(turn: Turn, position: u64, made_room: bool) {
    let key = context(position);
    // The twin takes it away.
    // SAFETY: only this context writes the value.
    let Some(evictor) = unsafe { EVICTORS.get(key) }.copied() else { return };
    ends(key);
    turn.does_the_work();
    if !made_room {
        bump(slot(netns(evictor.net)), Counter::TableFull);
        // Requests by ctnetlink carry hash 0 and are told apart when `__nf_conntrack_alloc` returns.
        let mark = FullMark { net: evictor.net, hash: evictor.hash.into() };
        let _: Result<(), i32> = FULL_MARKS.insert(mark, 1, BPF_ANY.into());
    }
}

/// What an evictor whose end was not seen left under the same key is overwritten.
#[inline(always)]
fn begins(key: u64, evictor: Evictor) {
    if EVICTORS.insert(key, evictor, BPF_NOEXIST.into()).is_ok() {
        at_work(1);
    } else {
        let _: Result<(), i32> = EVICTORS.insert(key, evictor, BPF_EXIST.into());
    }
}

#[inline(always)]
fn ends(key: u64) {
    if EVICTORS.remove(key).is_ok() {
        at_work(-1);
    }
}

#[inline(always)]
fn at_work(more: i64) {
    if let Some(evicting) = EVICTING.get_ptr_mut(0) {
        // SAFETY: a live value of an array.
        unsafe { add(evicting, more as u64) };
    }
}

/// Is no evictor at work, on any processor?
#[inline(always)]
fn nobody_evicts() -> bool {
    // SAFETY: a live value of an array; what this context added it sees.
    EVICTING.get_ptr(0).is_none_or(|evicting| unsafe { core::ptr::read_volatile(evicting) } == 0)
}

/// The kind of eviction that deleting this entry would be, here and now.
#[inline(always)]
fn evicting<R: Reader>(position: impl FnOnce() -> u64, ct: u64) -> Option<u32> {
    if nobody_evicts() {
        return None;
    }
    // Most deletions are of what has expired, which both evictors reap too: no eviction.
    if kernel::ct_expired::<R>(ct) {
        return None;
    }
    // SAFETY: only this context writes the value.
    Some(unsafe { EVICTORS.get(context(position())) }?.kind)
}

#[inline(always)]
fn evicted(turn: Turn, ct: u64, kind: u32) {
    // No other sign has this key: the slab aligns entries.
    if !turn.is_mine(ct | 2, || kernel::ct_life(ct)) {
        return;
    }
    let netns = kernel::ct_netns(ct);
    let slot = slot(netns);
    let (counter, event_kind) = if kind == EventKind::EvictedGc as u32 {
        (Counter::EvictedGc, EventKind::EvictedGc)
    } else {
        (Counter::EvictedEarlyDrop, EventKind::EvictedEarlyDrop)
    };
    bump(slot, counter);

    token::evicted(ct, kind, netns);
    report(ct, event_kind, netns, slot);
}

/// Sends the record. This and [`token::evicted`] have frames of their own: token and event together pass the 512
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
    let accounts = Accounts(accounts_of(ct));
    if accounts.0 != 0 {
        event.account = accounts.owner() + 1;
        event.responder = accounts.responder().map_or(0, |responder| responder + 1);
    }
    emit::send(&mut event, slot, Fate::Eviction);
}

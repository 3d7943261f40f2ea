//! `__nf_conntrack_confirm`: every entry the packet path inserts, and every one it fails to.
//!
//! `int __nf_conntrack_confirm(struct sk_buff *skb)`,
//! `int nf_ct_resolve_clash(struct sk_buff *skb, struct nf_conntrack_tuple_hash *h, …)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1196>

use aya_ebpf::{
    bindings::BPF_ANY,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_common::{Counter, EventKind, turn::Twin};

use super::{frame, scalar, sp_at_entry, sp_at_return};
use crate::{
    account::{Accounts, Column, add, of_confirmed},
    emit::{self, Fate},
    kernel::{self, Probed, Reader, Typed, ct_netns, skb_ct},
    maps::{CLASH_MARKS, Stash, offsets},
    place::{ByBucket, ByHash, Confirmed, Places},
    stash::Keeps,
    table::{bump, slot},
    token,
    turn::Turn,
};

const CONFIRM: u64 = 3;
const CLASH: u64 = 4;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

#[kprobe]
fn confirm_enter(ctx: ProbeContext) -> u32 {
    confirming::<ByBucket>(sp_at_entry(&ctx), ctx.arg(0).unwrap_or(0));
    0
}

#[kprobe]
fn confirm_enter_old(ctx: ProbeContext) -> u32 {
    confirming::<ByHash>(sp_at_entry(&ctx), ctx.arg(0).unwrap_or(0));
    0
}

#[kretprobe]
fn confirm_return(ctx: RetProbeContext) -> u32 {
    confirmed_after::<ByBucket>(sp_at_return(&ctx), ctx.ret::<u64>() as u32);
    0
}

#[kretprobe]
fn confirm_return_old(ctx: RetProbeContext) -> u32 {
    confirmed_after::<ByHash>(sp_at_return(&ctx), ctx.ret::<u64>() as u32);
    0
}

#[fexit]
fn confirm_exit(ctx: FExitContext) -> i32 {
    confirm_exited(Turn::first(Twin::Confirm), &ctx);
    0
}

#[fexit]
fn confirm_exit_again(ctx: FExitContext) -> i32 {
    confirm_exited(Turn::second(Twin::Confirm), &ctx);
    0
}

#[kprobe]
fn clash_enter(ctx: ProbeContext) -> u32 {
    let skb: u64 = ctx.arg(0).unwrap_or(0);
    ByHash::stash(sp_at_entry(&ctx), Stash { tag: CLASH, a: skb, b: 0, c: 0, d: 0 });
    0
}

#[kretprobe]
fn clash_return(ctx: RetProbeContext) -> u32 {
    if let Some(args) = ByHash::unstash(sp_at_return(&ctx), CLASH) {
        clashed(Turn::alone(Twin::Clash), args.a, ctx.ret::<u64>() as u32);
    }
    0
}

#[fexit]
fn clash_exit(ctx: FExitContext) -> i32 {
    clash_exited(Turn::first(Twin::Clash), &ctx);
    0
}

#[fexit]
fn clash_exit_again(ctx: FExitContext) -> i32 {
    clash_exited(Turn::second(Twin::Clash), &ctx);
    0
}

#[inline(always)]
fn clash_exited(turn: Turn, ctx: &FExitContext) {
    if let Ok(ret) = ctx.ret::<u64>() {
        clashed(turn, scalar(ctx, 0), ret as u32);
    }
}

/// Remembers the entry that a packet of the original direction is about to insert. A REJECT's own packet is
/// of the reply direction: the kernel accepts it without inserting anything.
#[inline(always)]
pub(super) fn confirming<K: Keeps>(key: u64, skb: u64) {
    let (ct, original) = skb_ct::<Probed>(skb);
    if ct != 0 && original {
        K::stash(key, Stash { tag: CONFIRM, a: skb, b: ct, c: 0, d: 0 });
    }
}

/// What kprobe and kretprobe see: a clash merged into the winner leaves the packet with the winner's entry, and
/// nothing was inserted.
#[inline(always)]
pub(super) fn confirmed_after<P: Places + Keeps>(key: u64, verdict: u32) {
    let Some(Stash { a: skb, b: ct, .. }) = P::unstash(key, CONFIRM) else { return };
    let turn = Turn::alone(Twin::Confirm);
    if verdict == NF_DROP {
        failed(turn, skb, ct, || key);
    } else if verdict == NF_ACCEPT && skb_ct::<Probed>(skb).0 == ct {
        inserted::<Probed, P>(turn, skb, ct);
    }
}

#[inline(always)]
fn confirm_exited(turn: Turn, ctx: &FExitContext) {
    if let Ok(verdict) = ctx.ret::<u64>() {
        confirmed::<Typed>(turn, ctx.arg(0), verdict as u32, || frame(ctx));
    }
}

/// What fexit sees, without a look at the entry: of a packet of the original direction that was accepted, the
/// entry is confirmed. After a merged clash that is the winner's, which its own packet, or this one, confirms
/// once: its place tells.
#[inline(always)]
pub(super) fn confirmed<R: Reader>(turn: Turn, skb: u64, verdict: u32, position: impl FnOnce() -> u64) {
    let (ct, original) = skb_ct::<R>(skb);
    if ct == 0 || !original {
        return;
    }
    if verdict == NF_ACCEPT {
        inserted::<R, ByBucket>(turn, skb, ct);
    } else if verdict == NF_DROP {
        failed(turn, kernel::number(skb), ct, position);
    }
}

#[inline(always)]
fn inserted<R: Reader, P: Places>(turn: Turn, skb: u64, ct: u64) {
    match P::confirm(ct) {
        Confirmed::Now(place) => {
            turn.does_the_work();
            token::let_in(ct);
            // SAFETY: a live map value; the packet holds the entry, so nobody takes it out meanwhile.
            let before = Accounts(unsafe { *place });
            let now = of_confirmed::<R>(before, ct, skb);
            if now.0 != before.0 {
                // SAFETY: as above.
                unsafe { *place = now.0 };
                if now.owner() != before.owner() {
                    add(before.owner(), Column::MovedOut);
                    add(now.owner(), Column::MovedIn);
                }
                if let Some(responder) = now.responder() {
                    add(responder, Column::Answers);
                }
            }
            add(now.owner(), Column::Inserts);
        }
        Confirmed::Before => {}
        Confirmed::Unplaced => {
            if turn.is_mine(ct | 1, || kernel::ct_life(ct)) {
                token::let_in(ct);
                add(slot(ct_netns(ct)), Column::Inserts);
            }
        }
    }
}

/// `position` tells this call from others under way.
#[inline(always)]
fn failed(turn: Turn, skb: u64, ct: u64, position: impl FnOnce() -> u64) {
    if !turn.is_mine(position() | 1, || ct >> 6) {
        return;
    }
    if CLASH_MARKS.get_ptr(skb).is_some() {
        let _: Result<(), i32> = CLASH_MARKS.remove(skb);
        return; // counted when it clashed
    }
    let dying = kernel::ct_status(ct) & kernel::IPS_DYING != 0;
    bump(slot(ct_netns(ct)), if dying { Counter::Dying } else { Counter::ChainTooLong });
}

#[inline(always)]
fn clashed(turn: Turn, skb: u64, verdict: u32) {
    if verdict != NF_DROP {
        return;
    }
    // The twin's mark, which the end of `__nf_conntrack_confirm` takes away.
    if turn.me != 0 && CLASH_MARKS.get_ptr(skb).is_some() {
        return;
    }
    turn.does_the_work();
    let (ct, _) = skb_ct::<Probed>(skb);
    let netns = ct_netns(ct);
    let slot = slot(netns);
    bump(slot, Counter::ClashLost);
    let _: Result<(), i32> = CLASH_MARKS.insert(skb, 1, BPF_ANY.into());
    let mut event = emit::event(EventKind::ClashLost, netns);
    if let Some(tuple) = kernel::tuple(ct + offsets().ct_orig() as u64) {
        event.orig = tuple;
    }
    token::refused(&mut event);
    emit::send(&mut event, slot, Fate::Other);
}

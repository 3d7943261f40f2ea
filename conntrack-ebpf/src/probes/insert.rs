//! `__nf_conntrack_confirm`: every entry the packet path inserts, and every one it fails to.
//!
//! `int __nf_conntrack_confirm(struct sk_buff *skb)`,
//! `int nf_ct_resolve_clash(struct sk_buff *skb, struct nf_conntrack_tuple_hash *h, …)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1196>

use aya_ebpf::{
    bindings::BPF_ANY,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use conntrack_common::{Counter, EventKind};

use super::{frame, sp_at_entry, sp_at_return, stash, unstash};
use crate::{
    emit::{self, Fate},
    kernel::{self, ct_netns, skb_ct},
    maps::{CLASH_MARKS, Stash, offsets},
    table::{bump, slot},
};

const CONFIRM: u64 = 3;
const CLASH: u64 = 4;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `IPS_CONFIRMED`.
const IPS_CONFIRMED: u32 = 1 << 3;
/// `IPS_DYING`.
const IPS_DYING: u32 = 1 << 9;

#[kprobe]
fn confirm_enter(ctx: ProbeContext) -> u32 {
    confirming(sp_at_entry(&ctx), ctx.arg(0).unwrap_or(0));
    0
}

#[kretprobe]
fn confirm_return(ctx: RetProbeContext) -> u32 {
    confirmed(sp_at_return(&ctx), ctx.ret::<u64>() as u32);
    0
}

#[fentry]
fn confirm_entry(ctx: FEntryContext) -> i32 {
    confirming(frame(&ctx), ctx.arg(0));
    0
}

#[fexit]
fn confirm_exit(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        confirmed(frame(&ctx), ret as u32);
    }
    0
}

#[kprobe]
fn clash_enter(ctx: ProbeContext) -> u32 {
    let skb: u64 = ctx.arg(0).unwrap_or(0);
    stash(sp_at_entry(&ctx), Stash { tag: CLASH, a: skb, b: 0, c: 0, d: 0 });
    0
}

#[kretprobe]
fn clash_return(ctx: RetProbeContext) -> u32 {
    if let Some(args) = unstash(sp_at_return(&ctx), CLASH) {
        clashed(args.a, ctx.ret::<u64>() as u32);
    }
    0
}

#[fexit]
fn clash_exit(ctx: FExitContext) -> i32 {
    if let Ok(ret) = ctx.ret::<u64>() {
        clashed(ctx.arg(0), ret as u32);
    }
    0
}

/// Remembers the entry that a packet of the original direction is about to insert. A REJECT's own packet is
/// of the reply direction: the kernel accepts it without inserting anything.
#[inline(always)]
pub(super) fn confirming(key: u64, skb: u64) {
    let (ct, original) = skb_ct(skb);
    if ct != 0 && original {
        stash(key, Stash { tag: CONFIRM, a: skb, b: ct, c: 0, d: 0 });
    }
}

#[inline(always)]
pub(super) fn confirmed(key: u64, verdict: u32) {
    let Some(Stash { a: skb, b: ct, .. }) = unstash(key, CONFIRM) else { return };
    if verdict == NF_ACCEPT {
        // A clash merged into the winner leaves the packet with the winner's entry: nothing was inserted.
        if skb_ct(skb).0 == ct && kernel::ct_status(ct) & IPS_CONFIRMED != 0 {
            bump(slot(ct_netns(ct)), Counter::Inserts);
        }
    } else if verdict == NF_DROP {
        failed(skb, ct);
    }
}

#[inline(always)]
fn failed(skb: u64, ct: u64) {
    if CLASH_MARKS.get_ptr(skb).is_some() {
        let _: Result<(), i32> = CLASH_MARKS.remove(skb);
        return; // counted when it clashed
    }
    let dying = kernel::ct_status(ct) & IPS_DYING != 0;
    bump(slot(ct_netns(ct)), if dying { Counter::Dying } else { Counter::ChainTooLong });
}

#[inline(always)]
fn clashed(skb: u64, verdict: u32) {
    if verdict != NF_DROP {
        return;
    }
    let (ct, _) = skb_ct(skb);
    let netns = ct_netns(ct);
    let slot = slot(netns);
    bump(slot, Counter::ClashLost);
    let _: Result<(), i32> = CLASH_MARKS.insert(skb, 1, BPF_ANY.into());
    let mut event = emit::event(EventKind::ClashLost, netns);
    if let Some(tuple) = kernel::tuple(ct + offsets().ct_orig() as u64) {
        event.orig = tuple;
    }
    emit::send(&mut event, slot, Fate::Other);
}

//! `nf_conntrack_free`: every entry that stops counting against the limit.
//!
//! `void nf_conntrack_free(struct nf_conn *ct)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1720>

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_common::{directory::seed_key, turn::Twin};

use super::scalar;
use crate::{
    account::{Accounts, Column, add},
    directory::take_seed,
    kernel::{self, ct_life, ct_netns},
    maps::offsets,
    place::{ByBucket, ByHash, Places, Taken},
    table::slot,
    turn::Turn,
};

#[kprobe]
fn free_enter(ctx: ProbeContext) -> u32 {
    freed::<ByBucket>(Turn::alone(Twin::Free), ctx.arg(0).unwrap_or(0));
    0
}

#[kprobe]
fn free_enter_old(ctx: ProbeContext) -> u32 {
    freed::<ByHash>(Turn::alone(Twin::Free), ctx.arg(0).unwrap_or(0));
    0
}

#[fentry]
fn free_entry(ctx: FEntryContext) -> i32 {
    freed::<ByBucket>(Turn::first(Twin::Free), scalar(&ctx, 0));
    0
}

#[fentry]
fn free_entry_again(ctx: FEntryContext) -> i32 {
    freed::<ByBucket>(Turn::second(Twin::Free), scalar(&ctx, 0));
    0
}

#[inline(always)]
pub(super) fn freed<P: Places>(turn: Turn, ct: u64) {
    match P::take(ct, turn) {
        Taken::From(accounts) => {
            turn.does_the_work();
            let accounts = Accounts(accounts);
            add(accounts.owner(), Column::Frees);
            if let Some(responder) = accounts.responder() {
                add(responder, Column::AnswersFreed);
            }
        }
        Taken::Already => turn.other_was_first(),
        Taken::Unplaced => {
            if turn.is_mine(ct, || ct_life(ct)) {
                unplaced(ct);
            }
        }
    }
}

/// It is older than the probes, or found no place.
#[inline(never)]
fn unplaced(ct: u64) {
    let netns = ct_netns(ct);
    let mut seed = 0;
    if let Some(orig) = kernel::tuple(ct + offsets().ct_orig() as u64) {
        let key = seed_key(netns, &orig);
        seed = take_seed(key[0], key[1], key[2]);
    }
    let account = if seed == 0 { slot(netns) } else { (seed as u32).wrapping_sub(1) };
    add(account, Column::Frees);
    let responder = (seed >> 32) as u32;
    if responder != 0 {
        add(responder - 1, Column::AnswersFreed);
    }
}

//! `nf_conntrack_free`: every entry that stops counting against the limit.
//!
//! `void nf_conntrack_free(struct nf_conn *ct)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1720>

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_common::turn::Twin;

use super::scalar;
use crate::{
    account::{Accounts, Column, add},
    kernel::{ct_life, ct_netns},
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
                // It is older than the probes and no dump has shown it, or found no place.
                add(slot(ct_netns(ct)), Column::Frees);
            }
        }
    }
}

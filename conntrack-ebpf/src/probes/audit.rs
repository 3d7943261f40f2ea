//! `nf_ct_get_id`: each entry that a dump shows, with the dump's reference to it, so that nobody frees it meanwhile.
//!
//! `u32 nf_ct_get_id(const struct nf_conn *ct)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L453>

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_common::place::AUDIT_ADOPTED;

use super::scalar;
use crate::{
    account::{Accounts, Column, add, of_old},
    kernel::{Probed, Reader, ct_netns, ct_status},
    maps::{AUDIT, offsets},
    place::{Adopted, ByBucket, ByHash, Places},
    table::{add_one, slot},
};

/// `IPS_CONFIRMED`.
const IPS_CONFIRMED: u32 = 1 << 3;

#[kprobe]
fn audit_enter(ctx: ProbeContext) -> u32 {
    shown::<ByBucket>(ctx.arg(0).unwrap_or(0));
    0
}

#[kprobe]
fn audit_enter_old(ctx: ProbeContext) -> u32 {
    shown::<ByHash>(ctx.arg(0).unwrap_or(0));
    0
}

#[fentry]
fn audit_entry(ctx: FEntryContext) -> i32 {
    shown::<ByBucket>(scalar(&ctx, 0));
    0
}

/// An entry that is older than the probes, or whose allocation they missed, is in the books of its table as nobody's
/// known. From here on it is in an account, by its addresses: there is no packet to tell more.
#[inline(always)]
fn shown<P: Places>(ct: u64) {
    // Rulesets ask for ids too, of entries that are not confirmed yet.
    if ct == 0 || ct_status(ct) & IPS_CONFIRMED == 0 {
        return;
    }
    let Some(print) = Probed::tuple_print(ct + offsets().ct_orig() as u64) else { return };
    let netns = ct_netns(ct);
    let mut accounts = Accounts(0);
    let adopted = P::adopt(ct, print.into(), || {
        accounts = of_old(netns, ct);
        accounts.0
    });
    let before = match adopted {
        Adopted::No => return,
        Adopted::Now => Accounts(slot(netns).into()),
        Adopted::Over(before) => Accounts(before),
    };
    if let Some(count) = AUDIT.get_ptr_mut(AUDIT_ADOPTED) {
        // SAFETY: a live value of an array.
        unsafe { add_one(count) };
    }
    add(before.owner(), Column::MovedOut);
    add(accounts.owner(), Column::MovedIn);
    if let Some(responder) = before.responder() {
        add(responder, Column::AnswersFreed);
    }
    if let Some(responder) = accounts.responder() {
        add(responder, Column::Answers);
    }
}

//! `nf_conntrack_free`: every entry that stops counting against the limit.
//!
//! `void nf_conntrack_free(struct nf_conn *ct)`
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_core.c#L1720>

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use conntrack_common::Counter;

use crate::{
    kernel::ct_netns,
    table::{bump, slot},
};

#[kprobe]
fn free_enter(ctx: ProbeContext) -> u32 {
    freed(ctx.arg(0).unwrap_or(0));
    0
}

#[fentry]
fn free_entry(ctx: FEntryContext) -> i32 {
    freed(ctx.arg(0));
    0
}

#[inline(always)]
pub(super) fn freed(ct: u64) {
    bump(slot(ct_netns(ct)), Counter::Frees);
}

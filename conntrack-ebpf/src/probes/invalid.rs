//! INVALID packets of translated entries.
//!
//! `void nf_ct_l4proto_log_invalid(const struct sk_buff *skb, const struct nf_conn *ct, [const struct nf_hook_state
//! *state,] const char *fmt, ...)`: called for them whether or not they are to be logged, and for few others. No
//! tracing program can be attached to a variadic function.
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_conntrack_proto.c#L60>

use aya_ebpf::{macros::kprobe, programs::ProbeContext};

use crate::token;

#[kprobe]
fn invalid_enter(ctx: ProbeContext) -> u32 {
    if let (Some(skb), Some(ct)) = (ctx.arg(0), ctx.arg(1)) {
        token::invalid(skb, ct);
    }
    0
}

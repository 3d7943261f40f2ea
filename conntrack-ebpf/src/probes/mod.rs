//! The hooks. Each file holds the handlers of one subject and the programs that call them.

mod alloc;
mod audit;
#[cfg(feature = "bench")]
mod bench;
mod evict;
mod free;
mod insert;
mod invalid;
mod outcome;
mod packet;
mod reset;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_func_arg,
    programs::{ProbeContext, RetProbeContext},
};

/// The stack pointer of a probed function at its entry, as its return will have it.
#[inline(always)]
fn sp_at_entry(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a kprobe is a struct pt_regs. On x86 `ret` pops the return address.
    unsafe { (*ctx.regs).rsp + 8 }
}

/// The stack pointer at return: what `sp_at_entry` said for the same call.
#[inline(always)]
fn sp_at_return(ctx: &RetProbeContext) -> u64 {
    // SAFETY: the context of a kretprobe is a struct pt_regs.
    unsafe { (*ctx.regs).rsp }
}

/// An argument of a tracing program as a plain number, which the verifier lets be calculated with.
#[inline(always)]
fn scalar<C: EbpfContext>(ctx: &C, n: u32) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the context is a tracing program's; the helper writes one word.
    let _: i64 = unsafe { bpf_get_func_arg(ctx.as_ptr(), n, (&raw mut value).cast()) };
    value
}

/// The address of a tracing program's argument array: the same at entry and exit of one call.
#[inline(always)]
fn frame<C: EbpfContext>(ctx: &C) -> u64 {
    crate::kernel::number(ctx.as_ptr() as u64)
}

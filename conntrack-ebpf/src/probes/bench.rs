//! What one connection, and one refusal, cost in the handlers: the same code behind programs that
//! BPF_PROG_TEST_RUN can run a million times, over an entry that is made up. Only in the object that
//! `cargo xtask bench` builds.

use aya_ebpf::{
    macros::{classifier, map},
    maps::Array,
    programs::TcContext,
};
use conntrack_common::EventKind;

use super::{alloc, evict, frame, free, insert, stash, unstash};
use crate::{
    kernel::number,
    maps::{Stash, offsets},
};

const TAG: u64 = 1;
/// Where the made-up namespace is in `Fake`, in bytes.
const NET: u64 = 128;
const HASH: u32 = 1;
const NF_ACCEPT: u32 = 1;
const ENOMEM: u64 = 12;

/// A packet whose first word is its `_nfct`, the entry that points to, and the entry's namespace, all in one:
/// user space sets `OFFSETS` and the tuples accordingly.
type Fake = [u64; 32];

#[map]
static FAKE: Array<Fake> = Array::with_max_entries(1, 0);

/// The address of the made-up entry, as a number.
#[inline(always)]
fn fake() -> Option<u64> {
    Some(number(FAKE.get_ptr(0)? as u64))
}

/// Makes the packet point to its entry, and the entry to its namespace.
#[classifier]
fn bench_setup(_ctx: TcContext) -> i32 {
    let (Some(address), Some(fake)) = (fake(), FAKE.get_ptr_mut(0)) else { return -1 };
    let word = offsets().ct_net() / 8;
    if word >= 32 {
        return -1;
    }
    // SAFETY: inside the only value of the array.
    unsafe {
        (*fake)[0] = address;
        (*fake)[word] = address + NET;
    }
    0
}

/// What the kernel's own test run costs.
#[classifier]
fn bench_empty(_ctx: TcContext) -> i32 {
    0
}

/// What the programs below add to it before they call a handler.
#[classifier]
fn bench_harness(ctx: TcContext) -> i32 {
    let Some(entry) = fake() else { return -1 };
    (entry ^ frame(&ctx)) as i32 & 0
}

/// One connection, from allocation to free, as the fentry and fexit programs run it.
#[classifier]
fn bench_connection_fentry(ctx: TcContext) -> i32 {
    let Some(entry) = fake() else { return -1 };
    let position = frame(&ctx);
    alloc::returned(entry + NET, orig(entry), reply(entry), HASH, entry, position);
    confirm_and_free(entry, position);
    0
}

/// The same as the kprobe and kretprobe programs run it, which have to keep the arguments.
#[classifier]
fn bench_connection_kprobe(ctx: TcContext) -> i32 {
    let Some(entry) = fake() else { return -1 };
    let position = frame(&ctx);
    stash(position, Stash { tag: TAG, a: entry + NET, b: orig(entry), c: reply(entry), d: HASH.into() });
    if let Some(args) = unstash(position, TAG) {
        alloc::returned(args.a, args.b, args.c, args.d as u32, entry, position);
    }
    confirm_and_free(entry, position);
    0
}

/// One refusal of a full table, nearly all of whose records the limiter holds back.
#[classifier]
fn bench_refusal(ctx: TcContext) -> i32 {
    let Some(entry) = fake() else { return -1 };
    let position = frame(&ctx);
    evict::enter(position, entry + NET, HASH, EventKind::EvictedEarlyDrop);
    evict::early_dropped(position, false);
    let refused = 0_u64.wrapping_sub(ENOMEM);
    alloc::returned(entry + NET, orig(entry), reply(entry), HASH, refused, position);
    0
}

#[inline(always)]
fn confirm_and_free(entry: u64, position: u64) {
    insert::confirming(position, entry);
    insert::confirmed(position, NF_ACCEPT);
    free::freed(entry);
}

#[inline(always)]
fn orig(entry: u64) -> u64 {
    entry + offsets().ct_orig() as u64
}

#[inline(always)]
fn reply(entry: u64) -> u64 {
    entry + offsets().ct_reply() as u64
}

//! What one connection, and one refusal, cost in the handlers: the same code behind programs that
//! BPF_PROG_TEST_RUN can run a million times, over an entry that is made up. Only in the object that
//! `cargo xtask bench` builds.

use aya_ebpf::{
    macros::{classifier, map},
    maps::Array,
    programs::TcContext,
};
use conntrack_common::turn::Twin;

use super::{
    alloc::{self, Call},
    evict, frame, free, insert,
};
use crate::{
    kernel::{Probed, Reader, number},
    maps::{Stash, offsets},
    place::ByBucket,
    stash::Keeps,
    turn::Turn,
};

const TAG: u64 = 1;
const HASH: u32 = 1;
const NF_ACCEPT: u32 = 1;
const ENOMEM: u64 = 12;
const WORDS: usize = 32;

/// A packet, the entry its first word points to, its device and their namespace, all in one: user space sets
/// `OFFSETS` and the members accordingly.
type Fake = [u64; WORDS];

#[map]
static FAKE: Array<Fake> = Array::with_max_entries(1, 0);

/// By plain loads from the made-up packet, as fexit programs read a real one.
struct Made;

impl Reader for Made {
    const TAGGED: bool = false;

    #[inline(always)]
    fn read<T: Copy>(address: u64) -> Option<T> {
        // SAFETY: inside the only value of the array, or the verifier refuses the program.
        Some(unsafe { core::ptr::read_volatile(address as *const T) })
    }

    #[inline(always)]
    fn follow(_: u64) -> u64 {
        FAKE.get_ptr(0).map_or(0, |fake| fake as u64)
    }
}

/// The made-up packet, as a pointer that the verifier knows.
#[inline(always)]
fn fake() -> Option<u64> {
    Some(FAKE.get_ptr(0)? as u64)
}

/// Makes the packet point to its entry, its device, and their namespace.
#[classifier]
fn bench_setup(_ctx: TcContext) -> i32 {
    let (Some(address), Some(fake)) = (fake(), FAKE.get_ptr_mut(0)) else { return -1 };
    let address = number(address);
    for offset in [0, offsets().ct_net(), offsets().skb_dev(), offsets().dev_net()] {
        let word = offset / 8;
        if word >= WORDS {
            return -1;
        }
        // SAFETY: inside the only value of the array.
        unsafe { (*fake)[word] = address };
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
    (number(entry) ^ frame(&ctx)) as i32 & 0
}

/// One connection, from allocation to free, as the fentry and fexit programs run it: each and its twin.
#[classifier]
fn bench_connection_fentry(ctx: TcContext) -> i32 {
    let Some(packet) = fake() else { return -1 };
    let (entry, position) = (number(packet), frame(&ctx));
    let turns = |probe| [Turn::first(probe), Turn::second(probe)];
    for turn in turns(Twin::Alloc) {
        // As `returned` does when the kernel had room; both branches at once are too much stack.
        alloc::allocated::<Made, ByBucket>(turn, call(packet), entry);
    }
    for turn in turns(Twin::Confirm) {
        insert::confirmed::<Made>(turn, packet, NF_ACCEPT, || position);
    }
    for turn in turns(Twin::Free) {
        free::freed::<ByBucket>(turn, entry);
    }
    0
}

/// The same as the kprobe and kretprobe programs run it, which have to keep the arguments, and no twins.
#[classifier]
fn bench_connection_kprobe(ctx: TcContext) -> i32 {
    let Some(packet) = fake() else { return -1 };
    let (entry, position) = (number(packet), frame(&ctx));
    let args = call(entry);
    ByBucket::stash(
        position,
        Stash { tag: TAG, a: args.net, b: args.orig, c: args.repl, d: args.hash.into() },
    );
    if let Some(kept) = ByBucket::unstash(position, TAG) {
        let args = Call { net: kept.a, orig: kept.b, repl: kept.c, hash: kept.d as u32 };
        alloc::allocated::<Probed, ByBucket>(Turn::alone(Twin::Alloc), args, entry);
    }
    insert::confirming::<ByBucket>(position, entry);
    insert::confirmed_after::<ByBucket>(position, NF_ACCEPT);
    free::freed::<ByBucket>(Turn::alone(Twin::Free), entry);
    0
}

/// One refusal of a full table, nearly all of whose records the limiter holds back.
#[classifier]
fn bench_refusal(ctx: TcContext) -> i32 {
    let Some(packet) = fake() else { return -1 };
    let (entry, position) = (number(packet), frame(&ctx));
    let alone = |probe| Turn::alone(probe);
    evict::early_dropping(alone(Twin::EarlyDrop), position, entry, HASH);
    evict::early_dropped(alone(Twin::EarlyDrop), position, false);
    let refused = 0_u64.wrapping_sub(ENOMEM);
    alloc::returned::<Probed, ByBucket>(alone(Twin::Alloc), call(entry), refused, || position);
    0
}

#[inline(always)]
fn call(entry: u64) -> Call {
    let (orig, repl) = (entry + offsets().ct_orig() as u64, entry + offsets().ct_reply() as u64);
    Call { net: entry, orig, repl, hash: HASH }
}

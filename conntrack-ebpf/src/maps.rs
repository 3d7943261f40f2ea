//! The maps, and the two values the daemon sets before load.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, Queue, RingBuf},
};
use conntrack_common::{
    AccountCounters, Control, Event, EvictionToken, FlowKey, MAX_ACCOUNTS, MAX_SOURCES, MAX_TABLES, Offsets,
    RING_BYTES, RefusalToken, SourceKey, SourceWindow, TableCounters,
    directory::{DIRECTORY_PLACES, DirectoryEntry},
    event::AT_LIMIT_TABLES,
    place::{AUDIT_WORDS, Bucket},
    token::{MAX_TOKENS, PRESSED_WORDS, TOKEN_WORDS},
    turn::TURNS as TURN_WORDS,
};

/// Where the kernel keeps what is read here; set by the daemon from the kernel's BTF.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = offsets_absent();

/// Number of possible CPUs; set by the daemon.
#[unsafe(no_mangle)]
static CPUS: u32 = 1;

/// Buckets of `PLACES` less one; set by the daemon, which sizes the map.
#[unsafe(no_mangle)]
static PLACES_MASK: u32 = 0;

/// Value of `SKB_DROP_REASON_NETFILTER_DROP` in this kernel; set by the daemon.
#[unsafe(no_mangle)]
static REASON_NETFILTER_DROP: u32 = u32::MAX;

/// inode of a network namespace → slot.
#[map]
pub(crate) static TABLES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TABLES, 0);

/// Slots not in use. The daemon fills it; taking one is atomic in the kernel.
#[map]
pub(crate) static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(MAX_TABLES, 0);

/// slot → inode of its namespace, 0 while free. Mapped by the daemon.
#[map]
pub(crate) static SLOT_NETNS: Array<u64> = Array::with_max_entries(MAX_TABLES, BPF_F_MMAPABLE);

/// slot × CPUs + cpu → counters. Mapped by the daemon, which sets its size before load.
#[map]
pub(crate) static COUNTERS: Array<TableCounters> = Array::with_max_entries(MAX_TABLES, BPF_F_MMAPABLE);

/// cpu × accounts + account → counters. Mapped by the daemon, which sets its size before load.
#[map]
pub(crate) static ACCOUNTS: Array<AccountCounters> = Array::with_max_entries(MAX_ACCOUNTS, BPF_F_MMAPABLE);

/// Owners of addresses, devices, cgroups. Written by the daemon through a mapping.
#[map]
pub(crate) static DIRECTORY: Array<DirectoryEntry> =
    Array::with_max_entries(DIRECTORY_PLACES, BPF_F_MMAPABLE);

/// Entry → account. Mapped by the daemon, which sets its size before load.
#[map]
pub(crate) static PLACES: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The same where the kernel has no compare-and-exchange (before 5.12): `struct nf_conn *` → state, accounts.
#[map]
pub(crate) static PLACES_BY_HASH: HashMap<u64, [u64; 2]> = HashMap::with_max_entries(1, 0);

/// What dumps did for entries without a place: see [`conntrack_common::place::AUDIT_WORDS`]. Mapped by the daemon.
#[map]
pub(crate) static AUDIT: Array<u64> = Array::with_max_entries(AUDIT_WORDS, BPF_F_MMAPABLE);

/// Which twin runs first, and what the second did for it. Mapped by the daemon.
#[map]
pub(crate) static TURNS: Array<u64> = Array::with_max_entries(TURN_WORDS, BPF_F_MMAPABLE);

/// Sign of a twin that has done its work where no entry has a place to leave it: what it was about → its number.
#[map]
pub(crate) static SIGNS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4_096, 0);

/// Records of rare facts.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// Source → index of its window.
#[map]
pub(crate) static SOURCES: HashMap<SourceKey, u32> = HashMap::with_max_entries(MAX_SOURCES, 0);

/// Windows not in use. The daemon fills it.
#[map]
pub(crate) static FREE_SOURCES: Queue<u32> = Queue::with_max_entries(MAX_SOURCES, 0);

/// The limiter's windows. Mapped by the daemon.
#[map]
pub(crate) static SOURCE_WINDOWS: Array<SourceWindow> = Array::with_max_entries(MAX_SOURCES, BPF_F_MMAPABLE);

/// Flow key of either tuple of an evicted entry → token.
#[map]
pub(crate) static EVICTIONS: LruHashMap<FlowKey, EvictionToken> = LruHashMap::with_max_entries(MAX_TOKENS, 0);

/// Flow key of what was refused, or lost an insert race → token.
#[map]
pub(crate) static REFUSALS: LruHashMap<FlowKey, RefusalToken> = LruHashMap::with_max_entries(MAX_TOKENS, 0);

/// How many tokens were left and taken: see [`conntrack_common::token::TOKEN_WORDS`]. Mapped by the daemon.
#[map]
pub(crate) static TOKENS: Array<u64> = Array::with_max_entries(TOKEN_WORDS, BPF_F_MMAPABLE);

/// When the last token of `REFUSALS` was left, and the last of an eviction, `CLOCK_MONOTONIC` nanoseconds; 0: none that
/// matters any more, so that what happens to other connections costs next to nothing. Mapped by the daemon.
#[map]
pub(crate) static PRESSED: Array<u64> = Array::with_max_entries(PRESSED_WORDS, BPF_F_MMAPABLE);

/// What a kprobe saw at entry, for the kretprobe, by a hash of the stack pointer at return.
#[map]
pub(crate) static STASHES: Array<KeyedStash> = Array::with_max_entries(STASHES_MASK + 1, 0);

/// One less than places of `STASHES`, a power of two.
pub(crate) const STASHES_MASK: u32 = 4_095;

/// The same where the kernel has no compare-and-exchange, and what finds no place there: stack pointer at return →
/// arguments.
#[map]
pub(crate) static STASH: HashMap<u64, Stash> = HashMap::with_max_entries(4_096, 0);

/// Execution context → the evictor (`early_drop` or `gc_worker`) it is inside of.
#[map]
pub(crate) static EVICTORS: HashMap<u64, Evictor> = HashMap::with_max_entries(1_024, 0);

/// How many evictors are at work, so that the many deletions while none is cost next to nothing.
#[map]
pub(crate) static EVICTING: Array<u64> = Array::with_max_entries(1, 0);

/// (net, hash) of a refusal by `early_drop`, until `__nf_conntrack_alloc` returns it as an error.
#[map]
pub(crate) static FULL_MARKS: LruHashMap<FullMark, u32> = LruHashMap::with_max_entries(1_024, 0);

/// skb of a clash lost, until `__nf_conntrack_confirm` returns.
#[map]
pub(crate) static CLASH_MARKS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(1_024, 0);

/// Execution context → a refusal whose packet is about to be freed.
#[map]
pub(crate) static PENDING: HashMap<u64, Event> = HashMap::with_max_entries(1_024, 0);

/// How many refusals wait in `PENDING`, so that the many packets freed while none does cost next to nothing.
/// Mapped by the daemon.
#[map]
pub(crate) static WAITING: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The daemon's word to the probes. Mapped by the daemon.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Namespaces whose tables are at their limit: see [`conntrack_common::event::AT_LIMIT_TABLES`]. Mapped by the daemon.
#[map]
pub(crate) static AT_LIMIT: Array<u64> = Array::with_max_entries(AT_LIMIT_TABLES, BPF_F_MMAPABLE);

/// Arguments kept from entry to return.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stash {
    /// Which function: two probes must not take each other's.
    pub(crate) tag: u64,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) d: u64,
}

/// A place of `STASHES`: one cache line.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KeyedStash {
    /// Stack pointer at return; 0: free.
    pub(crate) key: u64,
    pub(crate) stash: Stash,
    pad: [u64; 2],
}

/// An eviction pass under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Evictor {
    /// `struct net *` that wants room; 0 for the garbage collector.
    pub(crate) net: u64,
    /// Bucket hash that `early_drop` was called with.
    pub(crate) hash: u32,
    /// The `EventKind` its evictions get.
    pub(crate) kind: u32,
}

/// Key of `FULL_MARKS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FullMark {
    pub(crate) net: u64,
    pub(crate) hash: u64,
}

/// The offsets of the running kernel.
#[inline(always)]
pub(crate) fn offsets() -> &'static VolatileOffsets {
    // SAFETY: VolatileOffsets is a transparent view of the same static.
    unsafe { &*(&raw const OFFSETS).cast() }
}

/// `OFFSETS` as the loader left it: read volatile, or the compiler would fold the values of this file.
#[repr(transparent)]
pub(crate) struct VolatileOffsets(Offsets);

macro_rules! fields {
    ($($name:ident),* $(,)?) => {
        impl VolatileOffsets {
            $(
                #[inline(always)]
                pub(crate) fn $name(&self) -> usize {
                    // SAFETY: a reference to a field of a live static.
                    unsafe { core::ptr::read_volatile(&raw const self.0.$name) as usize }
                }
            )*
        }

        const fn offsets_absent() -> Offsets {
            Offsets { $($name: Offsets::ABSENT),* }
        }
    };
}

fields!(
    ct_orig,
    ct_reply,
    ct_status,
    ct_timeout,
    ct_tcp_state,
    ct_net,
    net_inum,
    skb_nfct,
    skb_sk,
    skb_dev,
    skb_iif,
    skb_head,
    skb_network_header,
    skb_transport_header,
    dev_ifindex,
    dev_net,
    sk_net,
    sk_family,
    sk_state,
    sk_daddr,
    sk_rcv_saddr,
    sk_dport,
    sk_num,
    sk_v6_daddr,
    sk_v6_rcv_saddr,
    sk_protocol,
    sk_err,
    sk_shutdown,
    tcp_total_retrans,
    sk_sport,
    sk_cgrp_data,
    cgroup_kn,
    kernfs_id,
    task_stack,
);

/// Number of possible CPUs.
#[inline(always)]
pub(crate) fn cpus() -> u32 {
    // SAFETY: a live static; volatile for the reason given at `VolatileOffsets`.
    unsafe { core::ptr::read_volatile(&raw const CPUS) }
}

/// Buckets of `PLACES` less one.
#[inline(always)]
pub(crate) fn places_mask() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const PLACES_MASK) }
}

/// `SKB_DROP_REASON_NETFILTER_DROP`.
#[inline(always)]
pub(crate) fn reason_netfilter_drop() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const REASON_NETFILTER_DROP) }
}

/// The daemon's word; all zero until it has spoken.
#[inline(always)]
pub(crate) fn control() -> Control {
    CONTROL.get(0).copied().unwrap_or_default()
}

//! Counters per table, kept by the probes.

/// What a probe counts, for each table and CPU. The value is the index in [`TableCounters::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Counter {
    /// `__nf_conntrack_alloc` returned an object: one more entry counts against the limit. The sum over the table's
    /// accounts; the map's own stays 0.
    Allocs,
    /// `nf_conntrack_free` ran: one entry fewer counts against the limit. As `Allocs`.
    Frees,
    /// `early_drop` evicted nothing: the table was full and a new connection was refused.
    TableFull,
    /// `__nf_conntrack_alloc` returned an error for a packet, table full included.
    Refused,
    /// `__nf_conntrack_alloc` returned an error to ctnetlink or a kfunc (hash 0): no packet was dropped.
    RefusedByRequest,
    /// Refusals whose event was put in the ring.
    RefusalEvents,
    /// Refusals whose event the per-source limit held back.
    RefusalSuppressed,
    /// Refusals whose event found the ring full.
    RefusalLost,
    /// Entries confirmed, that is inserted by the packet path. As `Allocs`.
    Inserts,
    /// Entries evicted by `early_drop` to make room.
    EvictedEarlyDrop,
    /// Unexpired entries evicted by the garbage collector under pressure.
    EvictedGc,
    /// Evictions whose event the per-source limit held back.
    EvictionSuppressed,
    /// Evictions whose event found the ring full.
    EvictionLost,
    /// Insert races lost: `nf_ct_resolve_clash` dropped the packet.
    ClashLost,
    /// Insert refused because a hash chain was too long (5.15 and later).
    ChainTooLong,
    /// Insert refused because the entry was already dying.
    Dying,
    /// Resets sent by a socket of this namespace, or by the namespace for want of one.
    ResetsSent,
    /// Resets received by a socket of this namespace.
    ResetsReceived,
    /// Resets, sent or received, that matched an eviction token.
    ResetsEvicted,
    /// Packets dropped by netfilter with no entry, while the table was full: the tier without probes.
    InferredRefusals,
    /// Refusals whose packet was seen again at `kfree_skb`, so that socket and device are known.
    RefusalsEnriched,
    /// Other records (races and outcomes) the per-source limit held back.
    OtherSuppressed,
    /// Other records (races and outcomes) that found the ring full.
    OtherLost,
    /// TCP connections given up before they came about, by kernel or application, whatever the cause.
    ConnectsGivenUp,
    /// Those of them that matched the token of a refusal.
    ConnectsRefused,
}

impl Counter {
    /// Number of counters there is room for.
    pub const COUNT: usize = 32;
}

/// One table's counters on one CPU. Only probes on that CPU write it, with atomic adds since a softirq can
/// interrupt a probe; the array is mapped into the daemon, so reading costs no system call (a map system
/// call makes the kernel skip kprobe programs on that CPU).
///
/// The map holds `MAX_TABLES × possible CPUs` of these at index `slot × CPUs + cpu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TableCounters {
    /// Indexed by [`Counter`].
    pub values: [u64; Counter::COUNT],
}

// A multiple of the cache line, so that two CPUs never write the same one.
const _: () = assert!(size_of::<TableCounters>() == 256);
const _: () = assert!((Counter::ConnectsRefused as usize) < Counter::COUNT);

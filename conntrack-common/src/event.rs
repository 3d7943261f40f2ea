//! Records of rare facts, sent through the ring buffer, and the keys and values that limit and match them.

use crate::tuple::Tuple;

/// What a record reports; the value of [`Event::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum EventKind {
    /// A new connection's packet was dropped: the table was full and nothing could be evicted.
    RefusedTableFull = 1,
    /// A new connection's packet was dropped: the kernel had no memory for an entry.
    RefusedNoMemory = 2,
    /// `early_drop` evicted this entry to make room for another.
    EvictedEarlyDrop = 3,
    /// The garbage collector evicted this unexpired entry under pressure.
    EvictedGc = 4,
    /// A reset was sent for a packet of an evicted flow.
    ResetSent = 5,
    /// A reset was received on an evicted flow.
    ResetReceived = 6,
    /// Without probes: netfilter dropped a packet that had no entry, while the table was full.
    InferredRefusal = 7,
    /// A connection lost the race to insert its entry, and its packet was dropped.
    ClashLost = 8,
    /// A packet of a translated entry was found INVALID, and goes on untranslated: a kind of token only.
    Invalid = 9,
    /// A new connection's packet was dropped for want of an entry; whether the table was full was not seen.
    Refused = 10,
    /// A TCP connection came about although its first packets had been refused.
    ConnectedLate = 11,
    /// A TCP connection was given up before it came about, its packets refused and never let in.
    ConnectGivenUp = 12,
    /// A TCP connection had to send again what was refused of it.
    Stalled = 13,
}

impl EventKind {
    /// Is it a TCP reset?
    #[must_use]
    pub const fn is_reset(self) -> bool {
        matches!(self, Self::ResetSent | Self::ResetReceived)
    }

    /// Is it what came of an earlier fact, whose token its record holds?
    #[must_use]
    pub const fn is_outcome(self) -> bool {
        self.is_reset() || matches!(self, Self::ConnectedLate | Self::ConnectGivenUp | Self::Stalled)
    }

    /// The kind of a raw value, if it is one of ours.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::RefusedTableFull,
            2 => Self::RefusedNoMemory,
            3 => Self::EvictedEarlyDrop,
            4 => Self::EvictedGc,
            5 => Self::ResetSent,
            6 => Self::ResetReceived,
            7 => Self::InferredRefusal,
            8 => Self::ClashLost,
            9 => Self::Invalid,
            10 => Self::Refused,
            11 => Self::ConnectedLate,
            12 => Self::ConnectGivenUp,
            13 => Self::Stalled,
            _ => return None,
        })
    }
}

/// [`Event::flags`]: `cgroup_id` was read from the packet's socket.
pub const FLAG_CGROUP: u32 = 1 << 0;
/// [`Event::flags`]: `ifindex` is the device the packet was on.
pub const FLAG_IFINDEX: u32 = 1 << 1;
/// [`Event::flags`]: `reply` holds the entry's reply tuple.
pub const FLAG_REPLY: u32 = 1 << 2;
/// [`Event::flags`]: the token's entry was translated (reply tuple is not the inverse of the original).
pub const FLAG_NAT: u32 = 1 << 3;
/// [`Event::flags`]: the token had already been matched by an earlier reset, which was counted.
pub const FLAG_REPEATED: u32 = 1 << 4;
/// [`Event::flags`]: a refused or raced datagram, the first of its flow for a while: an outcome by itself.
pub const FLAG_DATAGRAM: u32 = 1 << 5;
/// [`Event::flags`]: with [`FLAG_DATAGRAM`], to port 53: somebody waits for a name.
pub const FLAG_LOOKUP: u32 = 1 << 6;
/// [`Event::flags`]: the kernel gave the connection up (`ETIMEDOUT`); else the application did.
pub const FLAG_BY_KERNEL: u32 = 1 << 7;
/// [`Event::flags`], of a connection attempt: it was seen at the end that made it.
pub const FLAG_SAME_FLOW: u32 = 1 << 8;

/// One record of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ktime_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// Inode of the network namespace where it happened.
    pub netns: u32,
    /// Device index in that namespace, with [`FLAG_IFINDEX`].
    pub ifindex: u32,
    /// cgroup v2 id, with [`FLAG_CGROUP`].
    pub cgroup_id: u64,
    /// `nf_conn.status` of the entry (`IPS_*`); of an outcome of refusals, how many there were; else 0.
    pub status: u32,
    /// Inode of the namespace whose table left the token; outcomes only.
    pub token_netns: u32,
    /// When the token was left, `CLOCK_MONOTONIC` nanoseconds; outcomes only.
    pub token_ktime_ns: u64,
    /// The [`EventKind`] that left the token; outcomes only.
    pub token_kind: u32,
    /// How many events of this source were held back or lost since its last one in the ring.
    pub suppressed: u32,
    /// Original tuple of the entry or would-be entry; for an outcome, the tuple of the flow as its end sees it.
    pub orig: Tuple,
    /// Reply tuple, with [`FLAG_REPLY`]; for an outcome, the original tuple of the token.
    pub reply: Tuple,
    /// Evictions: the account that the entry was in, plus one; 0: none.
    pub account: u32,
    /// Evictions: the account that answered the entry, plus one; 0: none.
    pub responder: u32,
}

/// Key of the limiter: who caused the event, by all that can tell one owner from another.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SourceKey {
    /// Source address as in [`Tuple::saddr`]; of a reset, of the entry's original tuple.
    pub saddr: [u64; 2],
    /// As [`Event::cgroup_id`].
    pub cgroup_id: u64,
    /// Namespace inode.
    pub netns: u32,
    /// As [`Event::ifindex`].
    pub ifindex: u32,
    /// The [`EventKind`], so that one kind does not silence another; 0 in a window that is not in use.
    pub kind: u32,
    /// [`SOURCE_FLAGS`] of [`Event::flags`].
    pub flags: u32,
    /// As [`Tuple::l3num`].
    pub l3num: u32,
    /// As [`Event::account`].
    pub account: u32,
    /// As [`Event::token_kind`].
    pub token_kind: u32,
    /// Always zero: the struct is hashed as bytes.
    pub pad: u32,
}

/// The bits of [`Event::flags`] that are part of a [`SourceKey`]: what tells owner and verdict.
pub const SOURCE_FLAGS: u32 = FLAG_CGROUP
    | FLAG_IFINDEX
    | FLAG_NAT
    | FLAG_REPEATED
    | FLAG_DATAGRAM
    | FLAG_LOOKUP
    | FLAG_BY_KERNEL
    | FLAG_SAME_FLOW;

/// One source's window of the limiter, in an array that the daemon maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceWindow {
    /// Whose it is.
    pub key: SourceKey,
    /// Start of the window, `CLOCK_MONOTONIC` nanoseconds.
    pub start_ns: u64,
    /// Events passed in this window.
    pub passed: u64,
    /// Events held back, or lost because the ring was full, since the window was taken. Only grows.
    pub withheld: u64,
    /// `withheld` as the last event that passed told it.
    pub told: u64,
}

const _: () = assert!(size_of::<Event>() == 144);
const _: () = assert!(size_of::<SourceKey>() == 56);
const _: () = assert!(size_of::<SourceWindow>() == 88);

/// Entries of the map `AT_LIMIT`, which the daemon writes through a mapping: inodes of namespaces whose tables are at their
/// limit, 0: none. Without probes, only a packet that is dropped in one of these can be a refusal.
pub const AT_LIMIT_TABLES: u32 = 8;

/// The daemon's word to the probes; the one value of the map `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Not 0: the `kfree_skb` probe runs, so a refusal waits for its packet to be freed to learn its socket.
    pub kfree_skb: u32,
    /// Not 0: the `early_drop` probe runs, so table full is told from want of memory.
    pub early_drop: u32,
    /// How long after a refusal a connection attempt may still be its outcome, nanoseconds.
    pub connect_window_ns: u64,
    /// How long after an eviction a reset of its flow may be blamed on it, nanoseconds.
    pub reset_window_ns: u64,
}

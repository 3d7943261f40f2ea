//! Tokens: what the table did to a flow, kept until the flow shows what came of it.

use crate::tuple::Tuple;

/// What an eviction leaves behind, under the flow keys of both its tuples; and an INVALID packet of a translated entry,
/// under its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EvictionToken {
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub ktime_ns: u64,
    /// The [`EventKind`](crate::EventKind) that left it.
    pub kind: u32,
    /// Inode of the namespace whose table it was.
    pub netns: u32,
    /// `nf_conn.status` of the entry.
    pub status: u32,
    /// Resets matched so far.
    pub matched: u32,
    /// Of an INVALID packet, the entry that it had: `struct nf_conn *`. Else 0.
    pub ct: u64,
    /// Original tuple of the entry.
    pub orig: Tuple,
    /// Reply tuple of the entry.
    pub reply: Tuple,
}

/// What refusals leave behind, and insert races lost: under the flow key of the original tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RefusalToken {
    /// When the first was that no later success made good, `CLOCK_MONOTONIC` nanoseconds.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
    /// The [`EventKind`](crate::EventKind) of the last.
    pub kind: u32,
    /// Inode of the namespace whose table refused it last.
    pub netns: u32,
    /// How many since the first.
    pub refusals: u32,
    /// How many of them carried nothing: their loss hurts nobody.
    pub bare: u32,
    /// `TOKEN_*` bits.
    pub flags: u32,
    /// Explicit padding.
    pub pad: u32,
    /// Original tuple of the would-be entry.
    pub orig: Tuple,
    /// Reply tuple of the entry that was made at last, if it is translated: the token is under that key too. Else zero.
    pub reply: Tuple,
}

/// [`RefusalToken::flags`]: the table has made an entry for the flow since the last refusal.
pub const TOKEN_LET_IN: u32 = 1 << 0;
/// [`RefusalToken::flags`]: its stall has been told.
pub const TOKEN_STALLED: u32 = 1 << 1;

/// How long after an INVALID packet a reset of its flow may be the answer to it, nanoseconds: it is answered at once
/// by who gets it, and a way is not longer.
pub const INVALID_WINDOW_NS: u64 = 5_000_000_000;

/// How long after a refusal a retransmission of an open connection may be of what was refused, nanoseconds:
/// `TCP_RTO_MAX` of include/net/tcp.h.
pub const STALL_WINDOW_NS: u64 = 120_000_000_000;

/// A further packet refused so long after the first is a retransmission, nanoseconds: `TCP_RTO_MIN` of
/// include/net/tcp.h.
pub const RETRANSMIT_NS: u64 = 200_000_000;

/// A datagram refused so long after the first of its flow is another attempt, nanoseconds: what resolvers wait for an
/// answer (`RES_TIMEOUT` of glibc's resolv.h).
pub const LOOKUP_WINDOW_NS: u64 = 5_000_000_000;

/// Words of the map `PRESSED`.
pub const PRESSED_WORDS: u32 = 2;
/// The word that has the time of the last refusal.
pub const PRESSED_BY_REFUSAL: u32 = 0;
/// The word that has the time of the last eviction.
pub const PRESSED_BY_EVICTION: u32 = 1;

/// Tokens that each of the two maps holds.
pub const MAX_TOKENS: u32 = 65_536;
/// Words of the map `TOKENS`, which the daemon maps: how many were left and taken since start.
pub const TOKEN_WORDS: u32 = 4;
/// Word of `TOKENS`: left by refusals and races; the next word: taken.
pub const REFUSALS_LEFT: u32 = 0;
/// Word of `TOKENS`: left by evictions and INVALID packets; the next word: taken.
pub const EVICTIONS_LEFT: u32 = 2;

/// Port of the domain name system.
pub const DNS_PORT: u16 = 53;

const _: () = assert!(size_of::<EvictionToken>() == 112);
const _: () = assert!(size_of::<RefusalToken>() == 120);

//! Accounts: how many entries of a table each owner holds, kept by the probes.

/// How many accounts there are. The first [`crate::MAX_TABLES`] are one for each table slot: what is there is
/// nobody's known. The rest the daemon gives to owners.
pub const MAX_ACCOUNTS: u32 = 4096;

/// One account's counters on one CPU. Only probes on that CPU write it, with atomic adds since a softirq can
/// interrupt a probe. The map is an array of these at index `cpu × MAX_ACCOUNTS + account`, so that no two CPUs
/// share a cache line; the daemon maps it.
///
/// Entries held = `allocs + moved_in − frees − moved_out`, plus those older than the probes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountCounters {
    /// Entries that came to count against the limit.
    pub allocs: u64,
    /// Entries that stopped counting against it.
    pub frees: u64,
    /// Entries whose owner became known when they were confirmed: from another account to this.
    pub moved_in: u64,
    /// From this account to another.
    pub moved_out: u64,
    /// Entries confirmed, that is inserted by the packet path.
    pub inserts: u64,
    /// Entries that this owner answers, which another, or itself, made.
    pub answers: u64,
    /// Of those, freed.
    pub answers_freed: u64,
    /// Explicit padding.
    pub pad: u64,
}

impl AccountCounters {
    /// Words of the structure, in the order of its fields.
    pub const WORDS: usize = 8;
}

const _: () = assert!(size_of::<AccountCounters>() == AccountCounters::WORDS * 8);

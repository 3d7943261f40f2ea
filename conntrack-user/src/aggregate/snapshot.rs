//! Everything known at one instant: the one type that metrics, `snapshot`, `check` and the landing page print.

use std::collections::BTreeMap;

use serde::Serialize;

use super::gaps::Gap;
use crate::attribute::discovery::Discovery;
use crate::attribute::owner::Owner;
use crate::attribute::verdict::Effect;

/// The state of the node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Is conntrack in this kernel? While false there are no tables and no figures about them.
    pub conntrack_loaded: bool,
    /// One for each network namespace that has entries or had any since start.
    pub tables: Vec<Table>,
    /// What the kernel counted before this program started; the host's namespace, since boot.
    pub before_start: Option<KernelStats>,
    /// State of every probe of the table, attached or not.
    pub probes: Vec<ProbeState>,
    /// What is not covered on this node, or only in part: one for each kind, present or not. Empty: not looked yet.
    pub coverage: Vec<Gap>,
    /// What connections suffered so far, by cause.
    pub outcomes: Vec<OutcomeCount>,
    /// How pods are discovered. None: not looked yet.
    pub discovery: Option<Discovery>,
    /// Losses and limits of the tool itself.
    pub honesty: Honesty,
}

/// One conntrack table, that is one network namespace.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Inode of the namespace, as `ls -i /proc/PID/ns/net` prints it.
    pub netns: u32,
    /// Is it the namespace of the host (of PID 1)?
    pub host: bool,
    /// The pod or cgroup whose namespace it is; `Owner::Host` for the host's.
    pub owner: Owner,
    /// Entries, from the kernel (`nf_conntrack_count`). None: the namespace could not be read.
    pub entries: Option<u64>,
    /// The limit in force; None as above, or where 0 means no limit.
    pub limit: Option<u64>,
    /// Hash buckets; host only, since one hash table serves all.
    pub buckets: Option<u64>,
    /// Entries as this program's books have them: seed + allocs − frees. None without probes.
    pub accounted: Option<i64>,
    /// What the probes counted since start; None without probes.
    pub counted: Option<Counted>,
    /// The kernel's own statistics, since the namespace came to be; None: could not be read.
    pub kernel: Option<KernelStats>,
    /// The same statistics when this program first saw the table; differences to it are "since start".
    pub kernel_at_start: Option<KernelStats>,
    /// What each owner has of it; their entries sum up to `accounted` (to the dump, where that is the source).
    /// None: not known yet, or not at all.
    pub owners: Option<Owners>,
    /// When it will be full. None: not filling, or not known.
    pub forecast: Option<Forecast>,
}

/// Who holds a table's entries.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Owners {
    /// "probes": counted one by one. "dump": concluded from the last dump of the table, which is not exact.
    pub source: &'static str,
    /// One for each owner; in the order of owners.
    pub parts: Vec<OwnerPart>,
}

/// One owner's part of one table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnerPart {
    /// Who made the entries.
    #[serde(flatten)]
    pub owner: Owner,
    /// Entries held now. Below zero only if an entry older than the probes was counted elsewhere.
    pub entries: i64,
    /// Entries held now that this owner answers, whoever made them; not part of any sum.
    pub responder_entries: i64,
    /// Entries confirmed since start. None where the source is a dump.
    pub inserts: Option<u64>,
    /// Entries confirmed a second, over the last seconds. None: not known yet.
    pub inserts_per_second: Option<f64>,
}

/// When a table will be full, if it goes on like this.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Seconds until the limit.
    pub seconds_to_full: f64,
    /// Entries a second by which it grows.
    pub growth_per_second: f64,
    /// The owners whose entries grow, most first, at most three: (owner, entries a second).
    pub drivers: Vec<(Owner, f64)>,
}

/// Counters of the probes for one table, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Entries allocated.
    pub allocs: u64,
    /// Entries freed.
    pub frees: u64,
    /// New connections refused because the table was full (`early_drop` returned 0).
    pub table_full: u64,
    /// New connections whose entry could not be made, for whatever reason.
    pub refused: u64,
    /// The same, asked for by ctnetlink or a kfunc: no packet was dropped.
    pub refused_by_request: u64,
    /// Refusals with a record in the ring.
    pub refusal_events: u64,
    /// Refusals whose record was held back by the limit.
    pub refusal_suppressed: u64,
    /// Refusals whose record found the ring full.
    pub refusal_lost: u64,
    /// Entries confirmed.
    pub inserts: u64,
    /// Evictions by `early_drop`.
    pub evicted_early_drop: u64,
    /// Evictions by the garbage collector.
    pub evicted_gc: u64,
    /// Eviction records held back by the limit.
    pub eviction_suppressed: u64,
    /// Eviction records that found the ring full.
    pub eviction_lost: u64,
    /// Insert races lost.
    pub clash_lost: u64,
    /// Inserts refused for a long chain.
    pub chain_too_long: u64,
    /// Inserts refused because the entry was dying.
    pub dying: u64,
    /// Resets sent.
    pub resets_sent: u64,
    /// Resets received.
    pub resets_received: u64,
    /// Resets, of both, that matched a token.
    pub resets_evicted: u64,
    /// TCP connections given up before they came about.
    pub connects_given_up: u64,
    /// Those of them that matched a token.
    pub connects_refused: u64,
    /// Refusals concluded from `kfree_skb` without probes.
    pub inferred_refusals: u64,
    /// Other records held back by the limit.
    pub other_suppressed: u64,
    /// Other records that found the ring full.
    pub other_lost: u64,
}

/// conntrack's statistics of one namespace, summed over CPUs and widened to 64 bits
/// (the kernel keeps u32 per CPU, which wrap). None: this kernel does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelStats {
    /// Packets INVALID.
    pub invalid: Option<u64>,
    /// Inserts that failed: clash, chain too long, dying.
    pub insert_failed: Option<u64>,
    /// Packets dropped: table full, no memory, clash, and others.
    pub drop: Option<u64>,
    /// Entries evicted by `early_drop`.
    pub early_drop: Option<u64>,
    /// Packets with an ICMP error that could not be parsed and kin.
    pub error: Option<u64>,
    /// Lookups restarted.
    pub search_restart: Option<u64>,
    /// Clashes resolved.
    pub clash_resolve: Option<u64>,
    /// Chains too long.
    pub chain_too_long: Option<u64>,
}

/// One row of the probe table, as it turned out on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeState {
    /// Name of the probe: "alloc", "early_drop", ….
    pub probe: &'static str,
    /// What it serves, for people.
    pub purpose: &'static str,
    /// How it is attached: "fentry", "kprobe", "raw_tracepoint"; "none" when it is not.
    pub mechanism: &'static str,
    /// The kernel function or tracepoint, when attached.
    pub target: Option<String>,
    /// Why it is not attached, or not by the first choice; one line.
    pub reason: Option<String>,
    /// Runs lost: the kernel skipped them (recursion, kretprobe instances), and no twin made them good. At most so
    /// many. None: this kernel does not tell.
    pub missed: Option<u64>,
    /// Runs that the kernel skipped of one program and its twin made good; None: the probe has no twins.
    pub caught: Option<u64>,
    /// Runs so far; None: this kernel does not tell.
    pub runs: Option<u64>,
    /// Time spent, nanoseconds; None unless kernel.bpf_stats_enabled.
    pub run_time_ns: Option<u64>,
}

/// What connections suffered, by whom it hurt and by cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutcomeCount {
    /// Who was hurt.
    pub owner: Owner,
    /// What it was.
    pub effect: Effect,
    /// Why; "unrelated": nothing seen here explains it.
    pub cause: &'static str,
    /// How sure.
    pub confidence: &'static str,
    /// Connections.
    pub count: u64,
}

/// What found no room in the books by owner: the sums hold, but its owner is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AccountingOverflow {
    /// Times that an owner found no account.
    pub owners_without_account: u64,
    /// Addresses, devices and cgroups that the probes could not be told of, now.
    pub untold: u64,
    /// Entries that found no place: their table's limit was raised since start. None: without probes.
    pub unplaced: Option<u64>,
}

/// What was done to put the books right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repairs {
    /// Times that the books were compared with the tables entry by entry, because they had drifted.
    pub audits: u64,
    /// Entries that a dump showed and no account held, and that one holds since: those older than the probes, and
    /// those whose allocation the probes missed.
    pub adopted: u64,
    /// Entries that accounts held though they were gone: the probes had missed their end.
    pub swept: u64,
}

/// What the tool itself lost, held back or could not do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Honesty {
    /// Tables that found no slot: what happened there is in the overflow bucket.
    pub tables_in_overflow: u64,
    /// What found no room in the books by owner, and is in a bucket of its own instead.
    pub accounting: AccountingOverflow,
    /// What was put right in them. None: without probes.
    pub repairs: Option<Repairs>,
    /// Tokens pushed out of their full map while they mattered, at most: kind, such as "refusal", → how many. None: without
    /// probes.
    pub tokens_pushed_out: Option<[(&'static str, u64); 2]>,
    /// Log events held back by the writer's own limit, or that could not be written.
    pub log_events_lost: u64,
    /// Did the last reading of each source succeed? Key: source, such as "ctnetlink", "namespaces", "owners".
    pub collectors: BTreeMap<&'static str, bool>,
    /// `|nf_conntrack_count − accounted|` of the host's table at the last reading; None without probes.
    pub drift_entries: Option<u64>,
    /// Maps: name → (entries in use, capacity); entries None where counting would cost more than it tells.
    pub maps: BTreeMap<&'static str, (Option<u64>, u64)>,
}

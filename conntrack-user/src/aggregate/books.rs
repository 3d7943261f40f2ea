//! The books of each table: what the kernel counts beside what the probes counted.

use std::collections::{BTreeMap, BTreeSet};

use conntrack_common::Counter;

use super::seed::{Seed, live};
use super::snapshot::{Counted, KernelStats, Table};
use crate::attribute::owner::Owner;
use crate::drain::counters::Sums;
use crate::drain::ctnetlink::CpuStats;
use crate::drain::kernel_stats::StatsAccumulator;

/// One reading of one namespace. Unknown is None.
pub struct Reading {
    /// `nf_conntrack_count`.
    pub entries: Option<u64>,
    /// The limit in force.
    pub limit: Option<u64>,
    /// The kernel's statistics per CPU.
    pub stats: Option<Vec<CpuStats>>,
    /// The probes' counters just before `entries` was read.
    pub before: Option<Sums>,
    /// And just after.
    pub after: Option<Sums>,
    /// Were the probes of allocations and frees attached before anything of this was read? One that was begun earlier
    /// can end later, and what came between is in neither.
    pub watched: bool,
}

/// All tables.
#[derive(Default)]
pub struct Books {
    tables: BTreeMap<u32, Book>,
}

#[derive(Default)]
struct Book {
    stats: StatsAccumulator,
    at_start: Option<KernelStats>,
    seed: Option<Seed>,
}

impl Books {
    /// Enters a reading. None: the namespace has never had an entry, so it is no table worth a line.
    pub fn enter(&mut self, netns: u32, host: bool, reading: Reading) -> Option<Table> {
        if !host && reading.entries.is_none_or(|e| e == 0) && reading.after.is_none() {
            return None;
        }
        let book = self.tables.entry(netns).or_default();
        let kernel = reading.stats.map(|stats| book.stats.add(&stats));
        book.at_start = book.at_start.or(kernel);
        if let (true, Some(entries), Some(after)) = (reading.watched, reading.entries, reading.after.as_ref())
        {
            let told = Seed::of(entries, reading.before.as_ref(), after);
            book.seed = Some(book.seed.map_or(told, |known| known.and(told)));
        }
        Some(Table {
            netns,
            host,
            owner: Owner::Unknown,
            entries: reading.entries,
            limit: reading.limit,
            buckets: None,
            accounted: book.seed.zip(reading.after).map(|(seed, sums)| seed.value() + live(&sums)),
            counted: reading.after.as_ref().map(counted),
            kernel,
            kernel_at_start: book.at_start,
            owners: None,
            forecast: None,
        })
    }

    /// Learns anew what the books began with: an audit has put right what they missed, and the kernel's count holds.
    pub fn anew(&mut self) {
        self.tables.values_mut().for_each(|book| book.seed = None);
    }

    /// Does the namespace have a table, that is, has it had an entry?
    #[must_use]
    pub fn has(&self, netns: u32) -> bool {
        self.tables.contains_key(&netns)
    }

    /// Forgets namespaces that are gone.
    pub fn keep_only(&mut self, live: impl Iterator<Item = u32>) {
        let live: BTreeSet<u32> = live.collect();
        self.tables.retain(|netns, _| live.contains(netns));
    }
}

fn counted(sums: &Sums) -> Counted {
    let of = |counter: Counter| sums[counter as usize];
    Counted {
        allocs: of(Counter::Allocs),
        frees: of(Counter::Frees),
        table_full: of(Counter::TableFull),
        refused: of(Counter::Refused),
        refused_by_request: of(Counter::RefusedByRequest),
        refusal_events: of(Counter::RefusalEvents),
        refusal_suppressed: of(Counter::RefusalSuppressed),
        refusal_lost: of(Counter::RefusalLost),
        inserts: of(Counter::Inserts),
        evicted_early_drop: of(Counter::EvictedEarlyDrop),
        evicted_gc: of(Counter::EvictedGc),
        eviction_suppressed: of(Counter::EvictionSuppressed),
        eviction_lost: of(Counter::EvictionLost),
        clash_lost: of(Counter::ClashLost),
        chain_too_long: of(Counter::ChainTooLong),
        dying: of(Counter::Dying),
        resets_sent: of(Counter::ResetsSent),
        resets_received: of(Counter::ResetsReceived),
        resets_evicted: of(Counter::ResetsEvicted),
        connects_given_up: of(Counter::ConnectsGivenUp),
        connects_refused: of(Counter::ConnectsRefused),
        inferred_refusals: of(Counter::InferredRefusals),
        other_suppressed: of(Counter::OtherSuppressed),
        other_lost: of(Counter::OtherLost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(entries: u64, allocs: u64, watched: bool) -> Reading {
        let mut sums = [0; Counter::COUNT];
        sums[Counter::Allocs as usize] = allocs;
        Reading {
            entries: Some(entries),
            limit: None,
            stats: None,
            before: Some(sums),
            after: Some(sums),
            watched,
        }
    }

    #[test]
    fn what_was_read_before_the_probes_were_attached_tells_nothing_of_what_they_missed() {
        let mut books = Books::default();
        let accounted = |books: &mut Books, reading| books.enter(1, true, reading).unwrap().accounted;
        assert_eq!(accounted(&mut books, reading(100, 0, false)), None);
        // Fifty more came before the probes did.
        assert_eq!(accounted(&mut books, reading(152, 2, true)), Some(152));
        assert_eq!(accounted(&mut books, reading(160, 10, true)), Some(160));
    }
}

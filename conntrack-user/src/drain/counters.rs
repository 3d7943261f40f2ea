//! The probes' counters, read through a mapping: a map system call would make the kernel skip kprobe programs.

use aya::maps::Map;
use conntrack_common::{Counter, MAX_TABLES, OVERFLOW_SLOT, TableCounters};

use super::mapping::Mapping;
use super::pool::Pool;

/// Slots of dead namespaces are given back only below this many free ones: it costs two map system calls.
const FEW_FREE: usize = MAX_TABLES as usize / 2;

/// Sums over CPUs, indexed by [`Counter`].
pub type Sums = [u64; Counter::COUNT];

/// The mapped counters. Array of `slot × CPUs + cpu`, and slot → namespace.
pub struct Counters {
    counters: Mapping,
    slots: Mapping,
    pool: Pool<u32>,
    cpus: usize,
}

impl Counters {
    /// Maps both arrays.
    ///
    /// # Errors
    /// If a map is not an array or cannot be mapped.
    pub fn map(counters: Map, slots: Map, pool: Pool<u32>, cpus: u32) -> anyhow::Result<Self> {
        let cpus = cpus as usize;
        let tables = MAX_TABLES as usize;
        Ok(Self {
            counters: Mapping::new(counters, tables * cpus * size_of::<TableCounters>())?,
            slots: Mapping::new(slots, tables * size_of::<u64>())?,
            pool,
            cpus,
        })
    }

    /// Sums of one namespace; None while it has no slot.
    #[must_use]
    pub fn table(&self, netns: u32) -> Option<Sums> {
        Some(self.sums(self.slot(netns)?))
    }

    fn slot(&self, netns: u32) -> Option<u32> {
        (OVERFLOW_SLOT + 1..MAX_TABLES).find(|slot| self.slots.word(*slot as usize) == u64::from(netns))
    }

    /// Counts one more, on behalf of a probe.
    pub fn add_one(&self, netns: u32, counter: Counter) {
        let slot = self.slot(netns).unwrap_or(OVERFLOW_SLOT) as usize;
        let words = size_of::<TableCounters>() / size_of::<u64>();
        self.counters.add(slot * self.cpus * words + counter as usize, 1);
    }

    /// As [`Self::table`], and zeros for a namespace in which nothing happened yet. None: it may be among those
    /// that found no slot.
    #[must_use]
    pub fn of(&self, netns: u32) -> Option<Sums> {
        let none_missed = || self.overflow().iter().all(|n| *n == 0).then_some([0; Counter::COUNT]);
        self.table(netns).or_else(none_missed)
    }

    /// Starts a namespace that is gone at zero, should its inode be used again, and gives its slot back when few
    /// are free. `alive` says which namespaces there are.
    pub fn retire(&self, alive: impl Fn(u32) -> bool) {
        self.pool.give_back(|slot| self.clear(slot));
        let taken: Vec<_> = (OVERFLOW_SLOT + 1..MAX_TABLES)
            .filter_map(|slot| Some((slot, u32::try_from(self.slots.word(slot as usize)).ok()?)))
            .filter(|(_, netns)| *netns != 0)
            .collect();
        let few = (MAX_TABLES as usize).saturating_sub(taken.len()) < FEW_FREE;
        for (slot, netns) in taken {
            if !alive(netns) {
                if few {
                    self.pool.forget(&netns, slot);
                } else {
                    self.zero(slot);
                }
            }
        }
    }

    fn clear(&self, slot: u32) {
        self.zero(slot);
        self.slots.set(slot as usize, 0);
    }

    fn zero(&self, slot: u32) {
        let words = self.cpus * size_of::<TableCounters>() / size_of::<u64>();
        for word in slot as usize * words..(slot as usize + 1) * words {
            self.counters.set(word, 0);
        }
    }

    /// What happened in namespaces that found no slot.
    #[must_use]
    pub fn overflow(&self) -> Sums {
        self.sums(OVERFLOW_SLOT)
    }

    fn sums(&self, slot: u32) -> Sums {
        let words = size_of::<TableCounters>() / size_of::<u64>();
        let mut sums = [0; Counter::COUNT];
        for cpu in 0..self.cpus {
            let first = (slot as usize * self.cpus + cpu) * words;
            for (counter, sum) in sums.iter_mut().enumerate() {
                *sum += self.counters.word(first + counter);
            }
        }
        sums
    }
}

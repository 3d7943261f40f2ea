//! The probes' counters, read through a mapping: a map system call would make the kernel skip kprobe programs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use aya::maps::Map;
use conntrack_common::{Counter, MAX_TABLES, OVERFLOW_SLOT, TableCounters};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Sums over CPUs, indexed by [`Counter`].
pub type Sums = [u64; Counter::COUNT];

/// The mapped counters. Array of `slot × CPUs + cpu`, and slot → namespace.
pub struct Counters {
    counters: Mapping,
    slots: Mapping,
    cpus: usize,
}

impl Counters {
    /// Maps both arrays.
    ///
    /// # Errors
    /// If a map is not an array or cannot be mapped.
    pub fn map(counters: Map, slots: Map, cpus: u32) -> anyhow::Result<Self> {
        let cpus = cpus as usize;
        let tables = MAX_TABLES as usize;
        Ok(Self {
            counters: Mapping::new(counters, tables * cpus * size_of::<TableCounters>())?,
            slots: Mapping::new(slots, tables * size_of::<u64>())?,
            cpus,
        })
    }

    /// Sums of every namespace that has a slot.
    #[must_use]
    pub fn tables(&self) -> BTreeMap<u32, Sums> {
        (OVERFLOW_SLOT + 1..MAX_TABLES)
            .filter_map(|slot| {
                let netns = u32::try_from(self.slots.word(slot as usize)).ok()?;
                (netns != 0).then(|| (netns, self.sums(slot)))
            })
            .collect()
    }

    /// Sums of one namespace; None while it has no slot.
    #[must_use]
    pub fn table(&self, netns: u32) -> Option<Sums> {
        let slot = (OVERFLOW_SLOT + 1..MAX_TABLES)
            .find(|slot| self.slots.word(*slot as usize) == u64::from(netns))?;
        Some(self.sums(slot))
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

/// A read-only mapping of an array map; keeps the map open.
struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
    _map: Map,
}

// SAFETY: the mapping is only read, by atomic loads, and unmapped once when dropped.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: Map, bytes: usize) -> anyhow::Result<Self> {
        let Map::Array(data) = &map else { bail!("a map of counters is not an array") };
        let fd = data.fd().as_fd();
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, fd, 0) }
            .map_err(io::Error::from)
            .context("cannot map the counters into memory")?;
        let start = NonNull::new(start.cast()).context("the counters were mapped at address 0")?;
        Ok(Self { start, bytes, _map: map })
    }

    fn word(&self, index: usize) -> u64 {
        assert!(index < self.bytes / size_of::<u64>(), "no such counter");
        // SAFETY: inside the mapping, aligned; the kernel writes whole words.
        unsafe { self.start.add(index).as_ref() }.load(Ordering::Relaxed)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrows from it.
        let _: io::Result<()> = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) }.map_err(Into::into);
    }
}

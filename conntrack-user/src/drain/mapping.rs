//! An array map mapped into memory: read and written without system calls.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use aya::maps::Map;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The values of an array map as one run of words; keeps the map open.
pub struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
    _map: Map,
}

// SAFETY: the mapping is used by atomic loads and stores only, and unmapped once when dropped.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of the values; each is a multiple of 8 bytes.
    ///
    /// # Errors
    /// If the map is not an array, or cannot be mapped.
    pub fn new(map: Map, bytes: usize) -> anyhow::Result<Self> {
        let Map::Array(data) = &map else { bail!("a map to be mapped into memory is not an array") };
        let fd = data.fd().as_fd();
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, rights, MapFlags::SHARED, fd, 0) }
            .map_err(io::Error::from)
            .context("cannot map an array of the probes into memory")?;
        let start = NonNull::new(start.cast()).context("an array of the probes was mapped at address 0")?;
        Ok(Self { start, bytes, _map: map })
    }

    /// One word.
    ///
    /// # Panics
    /// If the mapping has no such word.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.at(index).load(Ordering::Acquire)
    }

    /// Writes one word.
    ///
    /// # Panics
    /// If the mapping has no such word.
    pub fn set(&self, index: usize, value: u64) {
        self.at(index).store(value, Ordering::Release);
    }

    /// Adds to one word, as the probes do.
    ///
    /// # Panics
    /// If the mapping has no such word.
    pub fn add(&self, index: usize, value: u64) {
        self.at(index).fetch_add(value, Ordering::AcqRel);
    }

    /// Puts `new` where `old` is, in one step; whether it was.
    ///
    /// # Panics
    /// If the mapping has no such word.
    pub fn exchange(&self, index: usize, old: u64, new: u64) -> bool {
        self.at(index).compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.bytes / size_of::<u64>(), "no such word");
        // SAFETY: inside the mapping, aligned; the kernel too writes whole words.
        unsafe { self.start.add(index).as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrows from it.
        let _: io::Result<()> = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) }.map_err(Into::into);
    }
}

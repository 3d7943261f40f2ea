//! Indexes that probes take for their keys, and the daemon gives back.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, Queue};

/// A hash map of key → index, and the queue of indexes that no key has. The probes pop from the queue when they
/// meet a new key; giving back is the daemon's.
///
/// Each call is a map system call, during which the kernel skips kprobe programs on that CPU: only used when
/// indexes run short.
pub struct Pool<K: Pod>(Mutex<Inner<K>>);

struct Inner<K: Pod> {
    taken: HashMap<MapData, K, u32>,
    free: Queue<MapData, u32>,
    /// No key has it any more, but a probe that looked just before may still be writing there.
    leaving: Vec<u32>,
}

impl<K: Pod> Pool<K> {
    /// A pool of these indexes.
    ///
    /// # Errors
    /// If the maps are not a hash map and a queue of these types, or the queue is full.
    pub fn new(taken: Map, free: Map, indexes: std::ops::Range<u32>) -> anyhow::Result<Self> {
        let mut free: Queue<MapData, u32> = free.try_into()?;
        for index in indexes {
            free.push(index, 0)?;
        }
        Ok(Self(Mutex::new(Inner { taken: taken.try_into()?, free, leaving: Vec::new() })))
    }

    /// Takes the index from its key. It is free from the next `give_back` on.
    pub fn forget(&self, key: &K, index: u32) {
        let mut inner = self.lock();
        if inner.taken.remove(key).is_ok() {
            inner.leaving.push(index);
        }
    }

    /// Frees what was forgotten before the last call; `clear` makes it as new.
    pub fn give_back(&self, mut clear: impl FnMut(u32)) {
        let mut inner = self.lock();
        for index in std::mem::take(&mut inner.leaving) {
            clear(index);
            // It came from this queue, so there is room.
            let _: Result<(), aya::maps::MapError> = inner.free.push(index, 0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

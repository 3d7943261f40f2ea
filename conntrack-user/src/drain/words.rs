//! Words that the daemon and the probes share: mapped memory, or in tests an array.

use super::mapping::Mapping;

/// A run of words.
pub trait Words {
    /// One word.
    fn word(&self, index: usize) -> u64;
    /// Writes one word; what was written before it is seen before it.
    fn set(&self, index: usize, value: u64);
    /// Puts `new` where `old` is, in one step; whether it was.
    fn exchange(&self, index: usize, old: u64, new: u64) -> bool;
}

impl Words for Mapping {
    fn word(&self, index: usize) -> u64 {
        Mapping::word(self, index)
    }
    fn set(&self, index: usize, value: u64) {
        Mapping::set(self, index, value);
    }
    fn exchange(&self, index: usize, old: u64, new: u64) -> bool {
        Mapping::exchange(self, index, old, new)
    }
}

#[cfg(test)]
impl Words for Vec<std::sync::atomic::AtomicU64> {
    fn word(&self, index: usize) -> u64 {
        self[index].load(std::sync::atomic::Ordering::Relaxed)
    }
    fn set(&self, index: usize, value: u64) {
        self[index].store(value, std::sync::atomic::Ordering::Relaxed);
    }
    fn exchange(&self, index: usize, old: u64, new: u64) -> bool {
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        self[index].compare_exchange(old, new, relaxed, relaxed).is_ok()
    }
}

//! What the limiter of events held back, by source.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::maps::Map;
use conntrack_common::{MAX_SOURCES, SHARED_SOURCES, SourceKey, SourceWindow};

use super::mapping::Mapping;
use super::pool::Pool;

/// Windows are given back only below this many free ones: it costs two map system calls each.
const FEW_FREE: usize = MAX_SOURCES as usize / 4;
/// A source silent for so long may lose its window.
const IDLE: Duration = Duration::from_secs(10);

const WORDS: usize = size_of::<SourceWindow>() / size_of::<u64>();

/// Events of one source that never reached the ring, since the last sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Whose they were; only the kind is known of those that found no window of their own.
    pub key: SourceKey,
    /// How many.
    pub count: u64,
}

/// The mapped windows.
pub struct Sources {
    windows: Mapping,
    pool: Pool<SourceKey>,
    told: BTreeMap<u32, u64>,
}

impl Sources {
    /// Maps the windows.
    ///
    /// # Errors
    /// If the map is not an array or cannot be mapped.
    pub fn map(windows: Map, pool: Pool<SourceKey>) -> anyhow::Result<Self> {
        let windows = Mapping::new(windows, MAX_SOURCES as usize * size_of::<SourceWindow>())?;
        Ok(Self { windows, pool, told: BTreeMap::new() })
    }

    /// What was withheld since the last sweep. `now` is `CLOCK_MONOTONIC`.
    pub fn sweep(&mut self, now: Duration) -> Vec<Withheld> {
        let mut withheld = Vec::new();
        let mut idle = Vec::new();
        let mut taken = 0;
        for index in 0..MAX_SOURCES {
            let Some(window) = self.read(index) else { continue };
            taken += 1;
            let told = self.told.entry(index).or_insert(0);
            if window.withheld > *told {
                withheld.push(Withheld { key: window.key, count: window.withheld - *told });
                *told = window.withheld;
            } else if index >= SHARED_SOURCES && is_idle(&window, now) {
                idle.push((index, window.key));
            }
        }
        let (windows, told) = (&self.windows, &mut self.told);
        self.pool.give_back(|index| {
            told.remove(&index);
            let first = index as usize * WORDS;
            (first..first + WORDS).for_each(|word| windows.set(word, 0));
        });
        if (MAX_SOURCES as usize).saturating_sub(taken) < FEW_FREE {
            for (index, key) in idle {
                // Not what was given back just now: its key may have a new window already.
                if self.read(index).is_some() {
                    self.pool.forget(&key, index);
                }
            }
        }
        withheld
    }

    /// A window in use.
    fn read(&self, index: u32) -> Option<SourceWindow> {
        let first = index as usize * WORDS;
        let word = |n: usize| self.windows.word(first + n);
        let shared = index < SHARED_SOURCES;
        let key = decode([word(0), word(1), word(2), word(3), word(4), word(5), word(6)]);
        let key = if shared { SourceKey { kind: index, ..SourceKey::default() } } else { key };
        let window =
            SourceWindow { key, start_ns: word(7), passed: word(8), withheld: word(9), told: word(10) };
        (if shared { window.start_ns != 0 } else { key.kind != 0 }).then_some(window)
    }
}

fn is_idle(window: &SourceWindow, now: Duration) -> bool {
    now.saturating_sub(Duration::from_nanos(window.start_ns)) > IDLE
}

/// The key as it lies in memory.
fn decode(words: [u64; 7]) -> SourceKey {
    let halves = |word: u64| {
        let bytes = word.to_ne_bytes();
        let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (half(0), half(4))
    };
    let ((netns, ifindex), (kind, flags)) = (halves(words[3]), halves(words[4]));
    let ((l3num, account), (token_kind, pad)) = (halves(words[5]), halves(words[6]));
    SourceKey {
        saddr: [words[0], words[1]],
        cgroup_id: words[2],
        netns,
        ifindex,
        kind,
        flags,
        l3num,
        account,
        token_kind,
        pad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_lies_in_memory() {
        let key = SourceKey {
            saddr: [1, 2],
            cgroup_id: 3,
            netns: 4,
            ifindex: 5,
            kind: 6,
            flags: 7,
            l3num: 8,
            account: 9,
            token_kind: 10,
            pad: 0,
        };
        // SAFETY: both are 56 bytes of integers without padding.
        let words: [u64; 7] = unsafe { std::mem::transmute(key) };
        assert_eq!(decode(words), key);
    }

    #[test]
    fn silence_makes_idle() {
        let window = SourceWindow { start_ns: 5_000_000_000, ..SourceWindow::default() };
        assert!(!is_idle(&window, Duration::from_secs(15)));
        assert!(is_idle(&window, Duration::from_secs(16)));
        assert!(!is_idle(&window, Duration::from_secs(1)));
    }
}

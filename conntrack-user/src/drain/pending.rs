//! Refusals that wait in the kernel for their packet to be freed, and whose packet never came: the kernel skips a
//! tracepoint's program that is already running on that processor.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use conntrack_common::Event;

/// A packet is freed microseconds after its refusal.
const OVERDUE: Duration = Duration::from_secs(2);

/// The map of what waits.
pub struct Pending(HashMap<MapData, u64, Event>);

impl Pending {
    /// Takes the map.
    ///
    /// # Errors
    /// If it is not a hash map of events.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        Ok(Self(map.try_into()?))
    }

    /// Takes out what has waited too long; `now` is `CLOCK_MONOTONIC`. Each step is a map system call, during which
    /// the kernel skips kprobe programs on that CPU: for when something is known to wait.
    pub fn overdue(&mut self, now: Duration) -> Vec<Event> {
        let keys: Vec<u64> = self.0.keys().filter_map(Result::ok).collect();
        keys.into_iter()
            .filter_map(|key| {
                let event = self.0.get(&key, 0).ok()?;
                (is_overdue(&event, now) && self.0.remove(&key).is_ok()).then_some(event)
            })
            .collect()
    }
}

fn is_overdue(event: &Event, now: Duration) -> bool {
    now.saturating_sub(Duration::from_nanos(event.ktime_ns)) > OVERDUE
}

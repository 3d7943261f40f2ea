//! Refusals that wait in the kernel for their packet to be freed, and whose packet never came: the kernel skips a
//! tracepoint's program that is already running on that processor.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use conntrack_common::Event;

use super::mapping::Mapping;

/// A packet is freed microseconds after its refusal.
const OVERDUE: Duration = Duration::from_secs(2);

/// The map of what waits, and the mapped number of them.
pub struct Pending {
    events: HashMap<MapData, u64, Event>,
    waiting: Mapping,
}

impl Pending {
    /// Takes the maps.
    ///
    /// # Errors
    /// If they are not a hash map of events and an array.
    pub fn new(events: Map, waiting: Map) -> anyhow::Result<Self> {
        Ok(Self { events: events.try_into()?, waiting: Mapping::new(waiting, size_of::<u64>())? })
    }

    /// Takes out what has waited too long; `now` is `CLOCK_MONOTONIC`. Each step is a map system call, during which
    /// the kernel skips kprobe programs on that CPU: for when something is known to wait.
    pub fn overdue(&mut self, now: Duration) -> Vec<Event> {
        let keys: Vec<u64> = self.events.keys().filter_map(Result::ok).collect();
        keys.into_iter()
            .filter_map(|key| {
                let event = self.events.get(&key, 0).ok()?;
                if !is_overdue(&event, now) || self.events.remove(&key).is_err() {
                    return None;
                }
                self.waiting.add(0, u64::MAX); // one fewer
                Some(event)
            })
            .collect()
    }
}

fn is_overdue(event: &Event, now: Duration) -> bool {
    now.saturating_sub(Duration::from_nanos(event.ktime_ns)) > OVERDUE
}

//! When the books are audited: compared with the table entry by entry, and put right.
//!
//! Probes that the kernel skipped leave the books wrong for good. What a reading is off by chance comes and goes: a
//! table is audited only when it stays off to the same side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Off by more than this part of the table's entries, and by more than [`MUCH_LEAST`], is much.
const MUCH: f64 = 0.01;
/// See [`MUCH`].
const MUCH_LEAST: u64 = 16;
/// How long a table is much off before it is audited.
const MUCH_FOR: Duration = Duration::from_secs(2);
/// How long it is off by as little as one.
const LITTLE_FOR: Duration = Duration::from_secs(60);
/// Between an audit's two dumps: expired entries that the first one met are gone by the second.
const BETWEEN_DUMPS: Duration = Duration::from_secs(2);
/// Between audits at least; doubled with each that did not help, up to [`MOST_REST`].
const REST: Duration = Duration::from_secs(30);
const MOST_REST: Duration = Duration::from_secs(3_600);
/// An audit helped if none is due for so long after it.
const HELPED_AFTER: Duration = Duration::from_secs(300);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// Suspect all entries and dump the tables.
    Begin,
    /// Dump them again, and sweep out what neither dump has shown.
    Finish,
}

/// Which tables are off, since when, and the audit under way.
#[derive(Debug, Default)]
pub struct Audits {
    off: BTreeMap<u32, Off>,
    begun: Option<Instant>,
    last: Option<Instant>,
    rest: Option<Duration>,
    done: u64,
}

#[derive(Clone, Copy, Debug)]
struct Off {
    above: bool,
    since: Instant,
    much_since: Option<Instant>,
}

impl Audits {
    /// Enters a reading of a table: its entries in the books, and by the kernel's own count.
    pub fn enter(&mut self, netns: u32, accounted: i64, entries: u64, now: Instant) {
        let off = accounted - entries.cast_signed();
        if off == 0 {
            self.off.remove(&netns);
            return;
        }
        let above = off > 0;
        let known = self.off.get(&netns).copied().filter(|known| known.above == above);
        let much = off.unsigned_abs() > MUCH_LEAST.max((entries as f64 * MUCH) as u64);
        let much_since = much.then(|| known.and_then(|known| known.much_since).unwrap_or(now));
        let since = known.map_or(now, |known| known.since);
        self.off.insert(netns, Off { above, since, much_since });
    }

    /// Forgets tables that are gone.
    pub fn keep_only(&mut self, alive: impl Fn(u32) -> bool) {
        self.off.retain(|netns, _| alive(*netns));
    }

    /// What to do now.
    pub fn step(&mut self, now: Instant) -> Step {
        if let Some(begun) = self.begun {
            if now.saturating_duration_since(begun) < BETWEEN_DUMPS {
                return Step::None;
            }
            self.begun = None;
            self.off.clear();
            return Step::Finish;
        }
        let due = self.off.values().any(|off| {
            let long = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
            off.much_since.is_some_and(|since| long(since, MUCH_FOR)) || long(off.since, LITTLE_FOR)
        });
        let since_last = self.last.map(|last| now.saturating_duration_since(last));
        if !due || since_last.is_some_and(|passed| passed < self.rest.unwrap_or(REST)) {
            return Step::None;
        }
        let helped =
            since_last.is_none_or(|passed| passed >= HELPED_AFTER.max(self.rest.unwrap_or(REST) * 2));
        self.rest = Some(if helped { REST } else { (self.rest.unwrap_or(REST) * 2).min(MOST_REST) });
        (self.last, self.begun) = (Some(now), Some(now));
        Step::Begin
    }

    /// Notes that an audit is through.
    pub fn finished(&mut self) {
        self.done += 1;
    }

    /// Audits since start.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one table each second; the seconds at which an audit begins. `off` says how far off at each second.
    fn begins(seconds: u64, off: impl Fn(u64) -> i64) -> Vec<u64> {
        let (mut audits, start) = (Audits::default(), Instant::now());
        let step = |audits: &mut Audits, second: u64| {
            let now = start + Duration::from_secs(second);
            audits.enter(1, 10_000 + off(second), 10_000, now);
            audits.step(now)
        };
        (0..seconds).filter(|second| step(&mut audits, *second) == Step::Begin).collect()
    }

    #[test]
    fn what_is_off_by_chance_is_not_audited() {
        let chance = |second: u64| if second.is_multiple_of(3) { 200 } else { -150 };
        assert_eq!(begins(600, chance), [0_u64; 0]);
        assert_eq!(begins(600, |second| i64::from(second % 7 != 0)), [0_u64; 0]);
    }

    #[test]
    fn much_is_audited_soon_and_little_after_a_minute() {
        assert_eq!(begins(10, |second| if second < 5 { -101 } else { 0 }), [2]);
        assert_eq!(begins(10, |_| -100), [0_u64; 0]);
        assert_eq!(begins(70, |second| i64::from(second < 65)), [60]);
    }

    #[test]
    fn what_no_audit_mends_is_audited_ever_more_seldom() {
        let begins = begins(7_200, |_| 500);
        let rests: Vec<_> = begins.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(rests[0] >= 30 && rests.is_sorted() && begins.len() < 12, "{begins:?}");
    }

    #[test]
    fn an_audit_is_two_dumps() {
        let (mut audits, start) = (Audits::default(), Instant::now());
        let mut step = |second| {
            let now = start + Duration::from_secs(second);
            audits.enter(1, 0, 5_000, now);
            audits.step(now)
        };
        let steps = [0, 2, 3, 4, 5].map(&mut step);
        assert_eq!(steps, [Step::None, Step::Begin, Step::None, Step::Finish, Step::None]);
        assert_eq!(audits.done(), 0);
        audits.finished();
        assert_eq!(audits.done(), 1);
    }
}

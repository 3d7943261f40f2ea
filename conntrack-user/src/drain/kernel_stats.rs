//! conntrack's statistics of one namespace, summed over CPUs and widened to 64 bits.

use std::collections::BTreeMap;

use super::ctnetlink::CpuStats;
use crate::aggregate::snapshot::KernelStats;

/// Adds up successive readings of one namespace's statistics. The kernel's counters are 32 bits wide and wrap;
/// what this gives never goes down.
///
/// Right as long as no counter of one CPU moves by 2³² between two readings, and all readings are of the same
/// namespace: a namespace that went and came again under the same inode needs a new accumulator.
#[derive(Clone, Debug, Default)]
pub struct StatsAccumulator {
    last: BTreeMap<u32, [Option<u32>; FIELDS]>,
    sums: [Option<u64>; FIELDS],
}

const FIELDS: usize = 8;

impl StatsAccumulator {
    /// Takes one reading and gives the sums so far. A CPU's first reading counts as it is.
    pub fn add(&mut self, reading: &[CpuStats]) -> KernelStats {
        for stats in reading {
            let now = fields(stats);
            let last = self.last.entry(stats.cpu).or_insert([None; FIELDS]);
            for ((last, now), sum) in last.iter_mut().zip(now).zip(&mut self.sums) {
                if let Some(delta) = widen(*last, now) {
                    *sum = Some(sum.map_or(delta, |sum| sum + delta));
                }
                *last = now.or(*last);
            }
        }
        self.sums()
    }

    /// The sums so far; all None before the first reading.
    #[must_use]
    pub fn sums(&self) -> KernelStats {
        let [invalid, insert_failed, drop, early_drop, error, search_restart, clash_resolve, chain_too_long] =
            self.sums;
        KernelStats {
            invalid,
            insert_failed,
            drop,
            early_drop,
            error,
            search_restart,
            clash_resolve,
            chain_too_long,
        }
    }
}

/// By how much a wrapping counter moved from `last` to `now`; all of it at its first reading. None: the kernel
/// did not tell this time.
#[must_use]
pub fn widen(last: Option<u32>, now: Option<u32>) -> Option<u64> {
    let now = now?;
    Some(last.map_or(now, |last| now.wrapping_sub(last)).into())
}

/// In the order of [`StatsAccumulator::sums`].
fn fields(stats: &CpuStats) -> [Option<u32>; FIELDS] {
    [
        stats.invalid,
        stats.insert_failed,
        stats.drop,
        stats.early_drop,
        stats.error,
        stats.search_restart,
        stats.clash_resolve,
        stats.chain_toolong,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(cpu: u32, drop: u32) -> CpuStats {
        CpuStats { cpu, drop: Some(drop), ..CpuStats::default() }
    }

    #[test]
    fn first_reading_counts_as_it_is_and_unknown_stays_none() {
        let mut stats = StatsAccumulator::default();
        assert_eq!(stats.sums(), KernelStats::default());
        let sums = stats.add(&[reading(0, 3), reading(1, 4)]);
        assert_eq!(sums, KernelStats { drop: Some(7), ..KernelStats::default() });
    }

    #[test]
    fn wraps_per_cpu() {
        let mut stats = StatsAccumulator::default();
        stats.add(&[reading(0, u32::MAX - 1), reading(1, 10)]);
        let sums = stats.add(&[reading(0, 3), reading(1, 11)]);
        let expected = u64::from(u32::MAX) - 1 + 5 + 11;
        assert_eq!(sums.drop, Some(expected));
        assert_eq!(stats.add(&[reading(0, 3), reading(1, 11)]).drop, Some(expected));
    }

    #[test]
    fn a_cpu_that_appears_late_or_skips_a_reading() {
        let mut stats = StatsAccumulator::default();
        stats.add(&[reading(0, 5)]);
        assert_eq!(stats.add(&[reading(0, 6), reading(7, 100)]).drop, Some(106));
        assert_eq!(stats.add(&[reading(0, 6)]).drop, Some(106));
        assert_eq!(stats.add(&[reading(7, 101)]).drop, Some(107));
    }

    #[test]
    fn fields_are_not_mixed_up() {
        let stats = CpuStats {
            cpu: 0,
            found: Some(90),
            invalid: Some(1),
            insert: Some(91),
            insert_failed: Some(2),
            drop: Some(3),
            early_drop: Some(4),
            error: Some(5),
            search_restart: Some(6),
            clash_resolve: Some(7),
            chain_toolong: Some(8),
        };
        let expected = KernelStats {
            invalid: Some(1),
            insert_failed: Some(2),
            drop: Some(3),
            early_drop: Some(4),
            error: Some(5),
            search_restart: Some(6),
            clash_resolve: Some(7),
            chain_too_long: Some(8),
        };
        assert_eq!(StatsAccumulator::default().add(&[stats]), expected);
    }
}

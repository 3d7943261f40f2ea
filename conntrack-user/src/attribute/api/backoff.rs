//! How long to wait before the next attempt.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The longest an API server may make us wait by `Retry-After`.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// After so many failures in a row: doubling from `floor` to `ceiling`, of which at least half is waited.
/// `random` is in 0..1.
pub(super) fn delay(failures: u32, floor: Duration, ceiling: Duration, random: f64) -> Duration {
    let doubled = floor.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(ceiling).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// The same where the server asked for a pause: never less than that, within reason, and not all at once.
pub(super) fn at_least(delay: Duration, asked: Option<Duration>, random: f64) -> Duration {
    let Some(asked) = asked else { return delay };
    let asked = asked.min(LONGEST_ASKED);
    delay.max(asked + asked.mul_f64(random.clamp(0.0, 1.0) / 4.0))
}

/// Any number in 0..1: enough to keep the daemons of a cluster apart.
pub(super) fn random() -> f64 {
    (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(500);
    const CEILING: Duration = Duration::from_secs(30);

    #[test]
    fn it_doubles_up_to_the_ceiling_and_is_never_nothing() {
        let of = |failures| delay(failures, FLOOR, CEILING, 1.0);
        assert_eq!([of(0), of(1), of(2), of(3)], [FLOOR, FLOOR, FLOOR * 2, FLOOR * 4]);
        for failures in [7, 31, 32, 33, u32::MAX] {
            assert_eq!(of(failures), CEILING, "{failures}");
            assert_eq!(delay(failures, FLOOR, CEILING, 0.0), CEILING / 2);
        }
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_within_reason() {
        let second = Duration::from_secs(1);
        assert_eq!(at_least(second, None, 0.5), second);
        assert_eq!(at_least(second, Some(second * 8), 0.5), second * 9);
        assert_eq!(at_least(second, Some(Duration::MAX), 0.0), LONGEST_ASKED);
        assert_eq!(at_least(CEILING, Some(second), 1.0), CEILING);
    }

    #[test]
    fn random_numbers_differ() {
        let numbers = [random(), random(), random()];
        assert!(numbers.iter().all(|n| (0.0..1.0).contains(n)), "{numbers:?}");
        assert!(numbers[0] != numbers[1] || numbers[1] != numbers[2]);
    }
}

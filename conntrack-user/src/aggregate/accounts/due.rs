//! When an account whose owner is gone is given back, for another owner to have.

use std::cmp::Reverse;
use std::time::Duration;

use super::ACCOUNTS;

/// How long nobody must have asked for an account, and it have held nothing, before another owner may have it: a
/// probe that looked it up just before the directory forgot it is to be done with it, and what the limiter held back
/// of its last entries to be credited. That takes microseconds and a second, but a probe can be preempted; and owners
/// ask anew every five seconds, should one have been missed.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How long an account that was used stays empty before it is given back, so that scrapes see its last figures.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(60);
/// While fewer are free, those that were used are given back sooner, the longest empty first.
pub(super) const FEW_FREE: usize = ACCOUNTS / 6;

/// An account that nobody asks for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) account: u32,
    /// How long nobody has asked for it.
    pub(super) gone: Duration,
    /// How long of that it has held nothing. None: it holds something.
    pub(super) idle: Option<Duration>,
    /// Has it ever counted anything? If not, no scrape has figures of it to see.
    pub(super) used: bool,
}

/// Which to give back, when so many are free.
pub(super) fn due(left: Vec<Left>, free: usize) -> Vec<u32> {
    let ready =
        |left: Left| Some((left.used, left.idle.filter(|idle| left.gone.min(*idle) >= GRACE)?, left.account));
    let mut ready: Vec<_> = left.into_iter().filter_map(ready).collect();
    ready.sort_unstable_by_key(|&(used, idle, account)| (used, Reverse(idle), account));
    let taken = ready
        .iter()
        .enumerate()
        .take_while(|(taken, (used, idle, _))| !used || *idle >= FORGET_AFTER || free + taken < FEW_FREE);
    taken.map(|(_, (.., account))| *account).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(account: u32, used: bool, gone: f64, idle: Option<f64>) -> Left {
        let [gone, idle] = [Some(gone), idle].map(|seconds| seconds.map(Duration::from_secs_f64));
        Left { account, gone: gone.unwrap_or_default(), idle, used }
    }

    #[test]
    fn who_was_never_used_goes_after_the_grace_and_who_was_after_a_while() {
        let all = vec![
            left(1, false, 9.9, Some(9.9)),
            left(2, false, 10.0, Some(10.0)),
            left(3, true, 59.0, Some(59.0)),
            left(4, true, 60.0, Some(60.0)),
            left(5, true, 600.0, None),
            left(6, true, 600.0, Some(59.9)),
        ];
        assert_eq!(due(all, ACCOUNTS), [2, 4]);
    }

    #[test]
    fn when_few_are_free_the_longest_empty_go_first_and_no_more_than_it_takes() {
        let used = |account, idle| left(account, true, 50.0, Some(idle));
        let all =
            || vec![used(1, 20.0), used(2, 40.0), used(3, 9.9), used(4, 30.0), left(5, true, 50.0, None)];
        assert!(due(all(), FEW_FREE).is_empty());
        assert_eq!(due(all(), FEW_FREE - 1), [2]);
        assert_eq!(due(all(), FEW_FREE - 2), [2, 4]);
        assert_eq!(due(all(), 0), [2, 4, 1], "within the grace never, nor what holds something");
        let with_unused = all().into_iter().chain([left(6, false, 11.0, Some(11.0))]).collect();
        assert_eq!(due(with_unused, FEW_FREE - 1), [6], "who has no figures to show makes room first");
    }
}

//! How many tokens were pushed out of their map before their time.
//!
//! The kernel's LRU maps throw out their oldest when they are full, and tell nobody. But the programs count what they leave and
//! what they take; and while fewer are left within a token's time than the map holds, none that matters is thrown out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One map of tokens.
#[derive(Clone, Debug)]
pub struct TokenRoom {
    capacity: u64,
    /// Tokens left less those taken, as last read.
    last: u64,
    /// When, and how many more there were since the reading before.
    recent: VecDeque<(Instant, u64)>,
    pushed_out: u64,
}

impl TokenRoom {
    /// A map with room for so many.
    #[must_use]
    pub const fn new(capacity: u64) -> Self {
        Self { capacity, last: 0, recent: VecDeque::new(), pushed_out: 0 }
    }

    /// Enters a reading: tokens left and taken since start, and how long one matters. Returns how many were pushed out
    /// since start while they mattered.
    pub fn enter(&mut self, left: u64, taken: u64, now: Instant, matters: Duration) -> u64 {
        let is = left.saturating_sub(taken);
        let more = is.saturating_sub(self.last);
        self.last = is;
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > matters) {
            self.recent.pop_front();
        }
        let young: u64 = self.recent.iter().map(|(_, more)| more).sum();
        self.pushed_out += (young.min(self.capacity) + more).saturating_sub(self.capacity);
        if more > 0 {
            self.recent.push_back((now, more));
        }
        self.pushed_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATTERS: Duration = Duration::from_secs(100);

    #[test]
    fn none_is_pushed_out_while_those_that_matter_have_room() {
        let (mut room, start) = (TokenRoom::new(10), Instant::now());
        assert_eq!(room.enter(10, 0, start, MATTERS), 0);
        assert_eq!(room.enter(12, 2, start + MATTERS / 2, MATTERS), 0, "two were taken");
        assert_eq!(room.enter(20, 2, start + MATTERS * 2, MATTERS), 0, "the old ones do not matter");
    }

    #[test]
    fn what_is_beyond_the_room_pushes_out_as_many() {
        let (mut room, start) = (TokenRoom::new(10), Instant::now());
        assert_eq!(room.enter(25, 0, start, MATTERS), 15, "of one second alone");
        assert_eq!(room.enter(28, 0, start + MATTERS / 2, MATTERS), 18);
        assert_eq!(room.enter(38, 0, start + MATTERS * 2, MATTERS), 18);
    }

    #[test]
    fn readings_with_nothing_new_take_no_room() {
        let (mut room, now) = (TokenRoom::new(10), Instant::now());
        for _ in 0..1_000 {
            room.enter(1, 0, now, MATTERS);
        }
        assert_eq!(room.recent.len(), 1);
    }
}

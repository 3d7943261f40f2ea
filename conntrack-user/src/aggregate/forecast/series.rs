//! Readings of one table, laid onto whole seconds.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds kept.
const KEPT: usize = 256;
/// A gap that is bridged by a straight line, in seconds; after a longer one all starts anew.
const BRIDGED: f64 = 10.0;
/// Readings nearer to each other than this, in seconds, are one.
const SAME: f64 = 0.5;

/// What one reading tells: entries, and the counts since start of what came and went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) entries: f64,
    pub(super) came: f64,
    pub(super) went: f64,
}

impl Point {
    fn between(self, to: Self, part: f64) -> Self {
        let at = |a: f64, b: f64| a + (b - a) * part;
        Self {
            entries: at(self.entries, to.entries),
            came: at(self.came, to.came),
            went: at(self.went, to.went),
        }
    }
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It ended a second, or several.
    Second,
    /// It ended none.
    Same,
    /// It does not go on from the last one: all started anew with it.
    Anew,
}

/// One point for each whole second, the newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    last: Option<(f64, Point)>,
    points: VecDeque<Point>,
    /// The second of the newest point.
    newest: f64,
}

impl Series {
    /// Takes a reading in.
    pub(super) fn enter(&mut self, now: Duration, point: Point) -> Taken {
        let now = now.as_secs_f64();
        let Some((before, last)) = self.last else { return self.anew(now, point) };
        let gap = now - before;
        if (0.0..SAME).contains(&gap) {
            return Taken::Same;
        }
        // A count that falls is another table's, or another daemon's.
        if !(0.0..=BRIDGED).contains(&gap) || point.came < last.came || point.went < last.went {
            return self.anew(now, point);
        }
        self.last = Some((now, point));
        let mut taken = Taken::Same;
        while self.newest + 1.0 <= now {
            self.newest += 1.0;
            self.points.push_back(last.between(point, (self.newest - before) / gap));
            taken = Taken::Second;
        }
        while self.points.len() > KEPT {
            self.points.pop_front();
        }
        taken
    }

    fn anew(&mut self, now: f64, point: Point) -> Taken {
        *self = Self { last: Some((now, point)), points: VecDeque::from([point]), newest: now };
        Taken::Anew
    }

    /// The point `ago` seconds before the newest.
    pub(super) fn back(&self, ago: usize) -> Option<Point> {
        self.points.len().checked_sub(ago + 1).map(|i| self.points[i])
    }

    /// What came in the second that ended `ago` seconds before the newest.
    pub(super) fn inserts(&self, ago: usize) -> Option<f64> {
        Some(self.back(ago)?.came - self.back(ago + 1)?.came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64, n: f64) -> (Duration, Point) {
        (Duration::from_secs_f64(seconds), Point { entries: n, came: 2.0 * n, went: n })
    }

    fn enter(series: &mut Series, (now, point): (Duration, Point)) -> Taken {
        series.enter(now, point)
    }

    #[test]
    fn readings_that_are_not_a_second_apart_are_laid_onto_seconds() {
        let mut series = Series::default();
        assert_eq!(enter(&mut series, at(0.5, 10.0)), Taken::Anew);
        assert_eq!(enter(&mut series, at(0.7, 99.0)), Taken::Same, "a scrape right after a round");
        assert_eq!(enter(&mut series, at(1.7, 22.0)), Taken::Second);
        assert_eq!(series.back(0).map(|p| p.entries), Some(20.0));
        assert_eq!(enter(&mut series, at(4.7, 52.0)), Taken::Second, "two readings are missing");
        assert_eq!(series.back(1).map(|p| p.entries), Some(40.0));
        assert_eq!(series.inserts(0), Some(20.0));
    }

    #[test]
    fn what_does_not_go_on_from_the_last_reading_begins_anew() {
        for next in [at(8.0, 5.0), at(30.0, 20.0), at(3.0, 20.0)] {
            let mut series = Series::default();
            for s in 0..8_u32 {
                enter(&mut series, at(f64::from(s), 10.0));
            }
            assert_eq!(enter(&mut series, next), Taken::Anew, "{next:?}");
            assert_eq!((series.back(0), series.back(1)), (Some(next.1), None));
        }
    }

    #[test]
    fn the_oldest_go() {
        let mut series = Series::default();
        for s in 0..2000_u32 {
            enter(&mut series, at(f64::from(s), f64::from(s)));
        }
        assert_eq!(series.points.len(), KEPT);
        assert_eq!(series.back(KEPT - 1).map(|p| p.entries), Some(2000.0 - KEPT as f64));
    }
}

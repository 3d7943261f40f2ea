//! Earlier rises of a table, and how they ended: bursts and saw-teeth come back to where they began.

use std::collections::VecDeque;

use super::plateau::median;

/// Rises remembered.
const KEPT: usize = 8;
/// A change is a rise or a fall from this part of the limit on (or from what chance makes of the entries).
const MARKED: f64 = 0.05;
/// A rise may be so many times longer or higher than those before, and still be called one of them.
const LIKE: f64 = 1.25;
/// So many seconds longer in any case.
const LONGER: f64 = 10.0;
/// A rise is remembered for so many times as long as it and its fall took, and for at least [`AT_LEAST`] seconds.
const REMEMBERED: f64 = 3.0;
const AT_LEAST: f64 = 300.0;
const AT_MOST: f64 = 3600.0;
/// Peaks that climb must be so many.
const CLIMBING: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
struct At {
    time: f64,
    entries: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Rise {
    from: At,
    peak: At,
    /// When it was known to be over.
    over: f64,
}

/// The rises so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Rises {
    low: Option<At>,
    high: Option<At>,
    falling: bool,
    ended: VecDeque<Rise>,
}

/// What earlier rises say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    /// Nothing: this one is not like them, or there are none.
    Nothing,
    /// The table comes back from it.
    ComesBack,
    /// It comes back, but each peak is higher than the last: in so many seconds one reaches the limit, at
    /// so many entries a second from peak to peak.
    Climbs(f64, f64),
}

impl Rises {
    /// Takes a second in.
    pub(super) fn enter(&mut self, time: f64, entries: f64, limit: f64) {
        let marked = (MARKED * limit).max(6.0 * entries.max(1.0).sqrt());
        let now = At { time, entries };
        let low = *self.low.get_or_insert(now);
        let high = *self.high.get_or_insert(now);
        if self.falling {
            if entries <= low.entries + marked / 4.0 {
                // While it stays low no rise has begun.
                self.low = Some(At { time, entries: entries.min(low.entries) });
            } else if entries - low.entries >= marked {
                (self.falling, self.high) = (false, Some(now));
            }
        } else if entries >= high.entries {
            self.high = Some(now);
        } else if high.entries - entries >= marked {
            // From its lowest: what came before the first rise is no part of it.
            self.ended.push_back(Rise { from: low, peak: high, over: time });
            if self.ended.len() > KEPT {
                self.ended.pop_front();
            }
            (self.falling, self.low) = (true, Some(now));
        } else if entries <= low.entries + marked / 4.0 && high.entries - low.entries < marked {
            // Not risen yet: it begins here, if it does.
            (self.low, self.high) = (Some(At { time, entries: entries.min(low.entries) }), Some(high));
        }
    }

    /// Seconds since the rise under way began; None while falling.
    fn lasts(&self, now: f64) -> Option<f64> {
        self.low.filter(|_| !self.falling).map(|low| now - low.time)
    }

    /// Those not too long ago to say something, the newest last.
    fn known(&self, time: f64) -> Vec<&Rise> {
        let mut known: Vec<&Rise> = Vec::new();
        let mut apart = 0.0_f64;
        for rise in self.ended.iter().rev() {
            let later = known.last().map_or(time, |later| later.peak.time);
            // The newest may be as long ago as it took, each other as it took to the next.
            let apart_now = later - rise.peak.time;
            if !known.is_empty() {
                if apart_now > AT_MOST {
                    break;
                }
                apart = apart.max(apart_now);
            }
            known.push(rise);
        }
        let Some(last) = known.first() else { return known };
        let kept = REMEMBERED * (last.over - last.from.time).max(apart);
        if time - last.over > kept.clamp(AT_LEAST, AT_MOST) {
            known.clear();
        }
        known.reverse();
        known
    }

    /// What they say of the present.
    pub(super) fn say(&self, time: f64, entries: f64, limit: f64) -> Said {
        let known = self.known(time);
        let Some(last) = known.last() else { return Said::Nothing };
        let longest = known.iter().map(|r| r.peak.time - r.from.time).fold(0.0, f64::max);
        let highest = known.iter().map(|r| r.peak.entries).fold(0.0, f64::max);
        let lowest = known.iter().map(|r| r.from.entries).fold(f64::INFINITY, f64::min);
        let climb = Climb::of(&known);
        let may_reach = climb.map_or(0.0, |climb| highest + 2.0 * climb.step);
        let may_reach = may_reach.max(lowest + LIKE * (highest - lowest));
        if self.lasts(time).is_some_and(|lasts| lasts > LIKE * longest + LONGER) || entries > may_reach {
            return Said::Nothing;
        }
        let Some(Climb { step, period, peak }) = climb else { return Said::ComesBack };
        let more = ((limit - peak) / step).ceil().max(1.0);
        // It crosses the limit on its way to that peak.
        let steep = (last.peak.entries - last.from.entries) / (last.peak.time - last.from.time).max(1.0);
        let before = (peak + more * step - limit) / steep.max(step / period);
        let seconds = last.peak.time + more * period - before - time;
        if seconds > 0.0 { Said::Climbs(seconds, step / period) } else { Said::ComesBack }
    }
}

/// Rises of which each goes higher than the one before, or begins higher.
#[derive(Clone, Copy, Debug)]
struct Climb {
    /// Entries from one to the next.
    step: f64,
    /// Seconds from one to the next.
    period: f64,
    /// Where the last one's peak is, chance aside.
    peak: f64,
}

impl Climb {
    /// None: they do not, or not steadily.
    fn of(known: &[&Rise]) -> Option<Self> {
        let rises = &known[known.len().saturating_sub(6)..];
        if rises.len() < CLIMBING {
            return None;
        }
        let times: Vec<f64> = rises.iter().map(|r| r.peak.time).collect();
        let period = step(&times, 0.0)?;
        let peaks: Vec<f64> = rises.iter().map(|r| r.peak.entries).collect();
        let chance = 3.0 * peaks[0].max(1.0).sqrt() / (rises.len() - 1) as f64;
        if let Some(step) = step(&peaks, chance) {
            return Some(Self { step, period, peak: peaks[peaks.len() - 1] });
        }
        let lows: Vec<f64> = rises.iter().map(|r| r.from.entries).collect();
        let step = step(&lows, chance)?;
        let mut heights: Vec<f64> = rises.iter().map(|r| r.peak.entries - r.from.entries).collect();
        Some(Self { step, period, peak: lows[lows.len() - 1] + median(&mut heights)? })
    }
}

/// The mean step up from one to the next, if it is more than chance makes and all are much alike.
fn step(values: &[f64], chance: f64) -> Option<f64> {
    let step = (values[values.len() - 1] - values[0]) / (values.len() - 1) as f64;
    let alike = values.windows(2).all(|v| (0.4 * step..=1.8 * step).contains(&(v[1] - v[0])));
    (step > chance && alike).then_some(step)
}

//! When a table will be full, if it goes on like this.
//!
//! Three questions, each a part of its own. Does it grow steadily ([`growth`])? Does it do what it did before and
//! came back from ([`rises`]: bursts, saw-teeth)? Will it level off below the limit, since what goes follows what
//! comes only a lifetime later ([`plateau`])? Only what passes all of them is a forecast.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use self::drivers::Drivers;
use self::growth::{growth, inserts_rise};
use self::plateau::{Plateau, median};
use self::rises::{Rises, Said};
use self::series::{Point, Series, Taken};
use super::snapshot::{Forecast, OwnerPart, Table};

mod drivers;
mod growth;
mod plateau;
mod rises;
mod series;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod shapes_tests;
#[cfg(test)]
mod tests;

/// Farthest ahead that anything is said, in seconds.
const FARTHEST: f64 = 3600.0;
/// Readings in a row that must say the same before it is told.
const AGREEING: usize = 5;

/// One reading of one table. Unknown is None.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading<'a> {
    /// Entries now.
    pub entries: Option<u64>,
    /// The limit in force; None or 0: there is none.
    pub limit: Option<u64>,
    /// Entries allocated so far.
    pub allocs: Option<u64>,
    /// Entries freed so far.
    pub frees: Option<u64>,
    /// What each owner holds.
    pub owners: &'a [OwnerPart],
}

/// The forecast of one table, from its readings.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    series: Series,
    plateau: Plateau,
    rises: Rises,
    drivers: Drivers,
    /// Were allocations and frees known at the last reading?
    counted: bool,
    /// The instants, in seconds, at which the last readings say it will be full, and the growth.
    said: VecDeque<(f64, f64)>,
    told: Option<Forecast>,
}

impl Estimator {
    /// Takes in a reading of the instant `now` (of a clock that only goes forward), about one a second; more do no
    /// harm. Returns when the table will be full. None: it is not filling, or that is not known.
    pub fn enter(&mut self, now: Duration, reading: Reading<'_>) -> Option<Forecast> {
        let Some(entries) = reading.entries else {
            self.quiet();
            return None;
        };
        let counts = reading.allocs.zip(reading.frees);
        if counts.is_some() != self.counted {
            *self = Self { counted: counts.is_some(), ..Self::default() };
        }
        // Without the counts it is judged by entries alone.
        let (came, went) = counts.unwrap_or_default();
        let point = Point { entries: entries as f64, came: came as f64, went: went as f64 };
        match self.series.enter(now, point) {
            Taken::Same => return self.told.clone(),
            Taken::Anew => {
                let series = std::mem::take(&mut self.series);
                *self = Self { series, counted: self.counted, ..Self::default() };
            }
            Taken::Second => {}
        }
        self.drivers.enter(now, reading.owners);
        self.plateau.learn(&self.series);
        let Some(limit) = reading.limit.filter(|limit| *limit > 0).map(|limit| limit as f64) else {
            self.quiet();
            return None;
        };
        self.rises.enter(now.as_secs_f64(), point.entries, limit);
        self.told = self.tell(now, point.entries, limit, reading.owners);
        self.told.clone()
    }

    /// Nothing can be said now.
    fn quiet(&mut self) {
        self.said.clear();
        self.told = None;
    }

    fn tell(&mut self, now: Duration, entries: f64, limit: f64, owners: &[OwnerPart]) -> Option<Forecast> {
        let seconds = now.as_secs_f64();
        let say = self.say(seconds, entries, limit).filter(|(left, _)| *left <= FARTHEST);
        let Some((left, growth_per_second)) = say else {
            self.said.clear();
            return None;
        };
        self.said.push_back((seconds + left, growth_per_second));
        while self.said.len() > AGREEING {
            self.said.pop_front();
        }
        if self.said.len() < AGREEING {
            return None;
        }
        let mut full: Vec<f64> = self.said.iter().map(|(full, _)| *full).collect();
        let seconds_to_full = (median(&mut full)? - seconds).max(0.0);
        let drivers = self.drivers.of(now, owners);
        Some(Forecast { seconds_to_full, growth_per_second, drivers })
    }

    /// Seconds to full, and entries a second by which it grows.
    fn say(&self, now: f64, entries: f64, limit: f64) -> Option<(f64, f64)> {
        if entries >= limit {
            return None;
        }
        match self.rises.say(now, entries, limit) {
            Said::ComesBack => return None,
            Said::Climbs(seconds, growth) => return Some((seconds, growth)),
            Said::Nothing => {}
        }
        let growth = growth(&self.series)?;
        let line = (limit - entries) / growth;
        let Some(level) = self.plateau.level(&self.series) else { return Some((line, growth)) };
        // Beyond the level entries live longer than they did, and while ever more come there is no level.
        if entries > level.at_most || inserts_rise(&self.series) {
            return Some((line, growth));
        }
        // Towards the level the growth becomes less as what is left of it does.
        let level = level.entries;
        let curve = (level - entries) / growth * ((level - entries) / (level - limit)).ln();
        (level > limit).then_some((curve, growth))
    }
}

/// The forecasts of all tables.
#[derive(Clone, Debug, Default)]
pub struct Forecasts {
    tables: BTreeMap<u32, Estimator>,
}

impl Forecasts {
    /// Takes in a table as just read, at the instant `now` of a clock that only goes forward, and sets its forecast.
    /// Call it in each round, after `owners` is set.
    pub fn enter(&mut self, table: &mut Table, now: Duration) {
        let estimator = self.tables.entry(table.netns).or_default();
        table.forecast = estimator.enter(
            now,
            Reading {
                entries: table.entries,
                limit: table.limit,
                allocs: table.counted.map(|counted| counted.allocs),
                frees: table.counted.map(|counted| counted.frees),
                owners: table.owners.as_ref().map_or(&[], |owners| &owners.parts),
            },
        );
    }

    /// Forgets namespaces that are gone.
    pub fn keep_only(&mut self, live: impl Iterator<Item = u32>) {
        let live: BTreeSet<u32> = live.collect();
        self.tables.retain(|netns, _| live.contains(netns));
    }
}

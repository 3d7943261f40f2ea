//! Where entries level off while as many come as now and live as long as they did: `level = inserts a second ×
//! mean life` (Little's law). What goes follows what comes only a lifetime later; until then a table grows as if
//! it would never stop.

use super::growth::rate;
use super::series::Series;

/// Seconds over which it is judged whether a table is at rest.
const REST: [usize; 2] = [120, 60];
/// At rest: the table's growth is less than this part of what comes.
const STILL: f64 = 0.03;
/// What a second at rest weighs in the mean.
const WEIGHT: f64 = 0.05;
/// What the level may be exceeded by before it is no longer believed, besides chance.
const BEYOND: f64 = 1.1;
/// How many times what is usual by chance is certainly none.
const CERTAIN: f64 = 3.0;
/// Seconds over which the rate of inserts is taken.
const RATE_OVER: usize = 32;
/// The part of them, the highest and as much the lowest, that is left out: bursts shorter than it do not show.
const LEFT_OUT: usize = 3;

/// What was learnt at rest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plateau {
    /// Mean life of an entry, in seconds.
    life: Option<f64>,
}

impl Plateau {
    /// Takes the newest second in, if the table is at rest.
    pub(super) fn learn(&mut self, series: &Series) {
        let Some(life) = REST.iter().find_map(|span| at_rest(series, *span)) else { return };
        self.life = Some(self.life.map_or(life, |known| known + WEIGHT * (life - known)));
    }

    /// Where the table will level off. None: it has not been seen at rest, or nothing comes.
    pub(super) fn level(&self, series: &Series) -> Option<Level> {
        let (life, rate) = (self.life?, inserts_now(series)?);
        let entries = life * rate;
        // The mean of the middle of so many counts scatters a fifth more than that of all.
        let scatter = 1.2 * life * (rate / RATE_OVER as f64).sqrt();
        Some(Level { entries, at_most: BEYOND * entries + CERTAIN * (scatter + entries.sqrt()) })
    }
}

/// Where a table will level off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// Entries.
    pub(super) entries: f64,
    /// Beyond so many it is no longer believed.
    pub(super) at_most: f64,
}

/// Mean life, if the table was at rest for `span` seconds.
fn at_rest(series: &Series, span: usize) -> Option<f64> {
    let came = rate(series, 0, span)?;
    let sum: Option<f64> = (0..span).map(|ago| Some(series.back(ago)?.entries)).sum();
    let entries = sum? / span as f64;
    let half = |ago: usize| -> Option<f64> {
        let sum: Option<f64> = (ago..ago + span / 2).map(|ago| Some(series.back(ago)?.entries)).sum();
        Some(sum? / (span / 2) as f64)
    };
    let growth = (half(0)? - half(span / 2)?) / (span / 2) as f64;
    let chance = 2.0 * entries.max(1.0).sqrt() / span as f64;
    (came > 0.0 && growth.abs() <= (STILL * came).max(chance)).then_some(entries / came)
}

/// What comes a second, bursts aside: the mean of what is neither high nor low. (The median of small counts is a whole
/// number, and off by as much as that rounds.)
fn inserts_now(series: &Series) -> Option<f64> {
    let mut rates: Vec<f64> = (0..RATE_OVER).map_while(|ago| series.inserts(ago)).collect();
    rates.sort_by(f64::total_cmp);
    let out = rates.len() / LEFT_OUT;
    let middle = &rates[out..rates.len() - out];
    let mean = middle.iter().sum::<f64>() / middle.len() as f64;
    (mean > 0.0).then_some(mean)
}

/// The middle value; None of none.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

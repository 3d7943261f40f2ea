//! Does a table grow steadily, and by how much a second?

use super::series::Series;

/// Lengths of blocks of seconds that are tried, the shortest first.
const BLOCKS: [usize; 4] = [10, 20, 40, 60];
/// Blocks that are compared.
const COMPARED: usize = 4;
/// A block's growth shows when it is so many times what entries that come and go by chance make it.
const CLEAR: f64 = 3.0;
/// The part of the mean growth that each block must have grown: a burst has it in one block only.
const STEADY: f64 = 1.0 / 3.0;
/// Longest span, in seconds, that the growth is measured over.
const LONGEST: usize = 240;
/// What two spans' growth may differ by and still be called the same.
const ALIKE: f64 = 0.1;

/// Entries a second by which the table grows; None unless it grew clearly, in each of the last blocks.
pub(super) fn growth(series: &Series) -> Option<f64> {
    let clear = CLEAR * series.back(0)?.entries.max(1.0).sqrt();
    for block in BLOCKS {
        let means = blocks(COMPARED, |n| mean_entries(series, n * block, block))?;
        let rise = (means[0] - means[COMPARED - 1]) / (COMPARED - 1) as f64;
        if rise < clear {
            continue;
        }
        return steady(&means).then(|| longest(series, COMPARED * block)).flatten();
    }
    None
}

/// Does what comes a second rise steadily, from each block to the next by more than chance? A step does not: it is in
/// two of them at most.
pub(super) fn inserts_rise(series: &Series) -> bool {
    [30, 60].into_iter().any(|block| {
        let Some(rates) = blocks(COMPARED, |n| rate(series, n * block, block)) else { return false };
        // Of the difference of two means of counts that come by themselves.
        let chance = (2.0 * rates[0].max(1.0 / block as f64) / block as f64).sqrt();
        steady(&rates) && rates.windows(2).all(|pair| pair[0] - pair[1] > CLEAR * chance)
    })
}

/// Newest first.
fn steady(blocks: &[f64]) -> bool {
    let mean = (blocks[0] - blocks[blocks.len() - 1]) / (blocks.len() - 1) as f64;
    blocks.windows(2).all(|pair| pair[0] - pair[1] >= STEADY * mean)
}

fn blocks(count: usize, of: impl Fn(usize) -> Option<f64>) -> Option<Vec<f64>> {
    (0..count).map(of).collect()
}

fn mean_entries(series: &Series, ago: usize, length: usize) -> Option<f64> {
    let sum: Option<f64> = (ago..ago + length).map(|ago| Some(series.back(ago)?.entries)).sum();
    Some(sum? / length as f64)
}

/// What came a second, in the mean.
pub(super) fn rate(series: &Series, ago: usize, length: usize) -> Option<f64> {
    Some((series.back(ago)?.came - series.back(ago + length)?.came) / length as f64)
}

/// The growth over the longest span, of at least `span` seconds, over which it has been the same.
fn longest(series: &Series, mut span: usize) -> Option<f64> {
    let mut growth = slope(series, span)?;
    while span * 3 / 2 <= LONGEST {
        span = span * 3 / 2;
        match slope(series, span) {
            Some(longer) if (longer - growth).abs() <= ALIKE * growth => growth = longer,
            _ => break,
        }
    }
    (growth > 0.0).then_some(growth)
}

/// Slope of the line through the newest `span` points, by least squares.
fn slope(series: &Series, span: usize) -> Option<f64> {
    let middle = (span - 1) as f64 / 2.0;
    let (mut products, mut squares) = (0.0, 0.0);
    for ago in 0..span {
        let time = middle - ago as f64;
        products += time * series.back(ago)?.entries;
        squares += time * time;
    }
    Some(products / squares)
}

//! Forecasts against what simulated tables then did. Prints `figure: ` lines.

use std::time::Duration;

use super::plateau::median;
use super::shapes::{AT_REST, Run, Shape, run};
use super::{Estimator, Reading};

/// The first seed. Not among those the estimator was made with, which would flatter it.
const SEED: u64 = 90_000;
/// The limit of a small table, where chance makes much of what is seen: printed by itself.
const SMALL: f64 = 4096.0;
/// Limits and how many runs of each.
const SIZES: [(f64, u64); 3] = [(SMALL, 12), (65_536.0, 8), (262_144.0, 1)];
/// Readings before which nothing is held against it, in seconds.
const WARM_UP: usize = 60;
/// A forecast below this is an alarm, in seconds.
const ALARM: f64 = 600.0;
/// "One minute ahead".
const AHEAD: usize = 60;
/// Median error allowed.
const ERROR: f64 = 0.15;

/// What was said in each second from [`AT_REST`] on, as if started then.
fn said(run: &Run) -> Vec<(usize, Option<f64>)> {
    let mut estimator = Estimator::default();
    let seconds = run.points.iter().enumerate().skip(AT_REST);
    let said = seconds.map(|(second, point)| {
        let reading = Reading {
            entries: Some(point.entries as u64),
            limit: Some(run.limit as u64),
            allocs: Some(point.came as u64),
            frees: Some(point.went as u64),
            owners: &[],
        };
        let forecast = estimator.enter(Duration::from_secs(second as u64), reading);
        (second, forecast.map(|forecast| forecast.seconds_to_full))
    });
    said.collect()
}

/// Runs, with what was said in each.
type Runs = Vec<(Run, Vec<(usize, Option<f64>)>)>;

fn runs(shape: Shape) -> Runs {
    let runs =
        SIZES.into_iter().flat_map(|(limit, seeds)| (SEED..SEED + seeds).map(move |seed| (limit, seed)));
    let runs = runs.map(|(limit, seed)| run(shape, limit, seed));
    runs.map(|run| {
        let said = said(&run);
        (run, said)
    })
    .collect()
}

/// The median error of what is said `ahead` seconds before the table is full, as a part of `ahead`, and in how many of
/// how many runs nothing was said then, which counts as infinitely wrong. Runs whose shape began less than `known`
/// seconds before are left out.
fn errors(runs: &Runs, small: bool, ahead: usize, known: usize) -> (Option<f64>, usize, usize) {
    let mut errors = Vec::new();
    for (run, said) in runs.iter().filter(|(run, _)| (run.limit <= SMALL) == small) {
        let Some(full) = run.full else { panic!("it never fills the table: the shape is wrong") };
        if full - ahead >= run.begins + known {
            let seconds = said.iter().find(|(second, _)| second + ahead == full).and_then(|said| said.1);
            errors.push(seconds.map_or(f64::INFINITY, |s| (s - ahead as f64).abs() / ahead as f64));
        }
    }
    let unforeseen = errors.iter().filter(|error| error.is_infinite()).count();
    (median(&mut errors), unforeseen, errors.len())
}

fn print(shape: Shape, small: bool, ahead: usize, known: usize, runs: &Runs) -> (Option<f64>, usize, usize) {
    let (median, unforeseen, of) = errors(runs, small, ahead, known);
    let error = match median {
        Some(error) if error.is_finite() => format!("median error {:.1} %", 100.0 * error),
        _ => "no median error".to_owned(),
    };
    let size = if small { "limit 4,096" } else { "limit 65,536 and 262,144" };
    println!(
        "figure: forecast {shape:?}, {size}, {ahead} s ahead: {error}; not foreseen then in {unforeseen} of {of} runs"
    );
    (median, unforeseen, of)
}

fn is_foreseen(shape: Shape) {
    let runs = runs(shape);
    let found = print(shape, false, AHEAD, WARM_UP, &runs);
    print(shape, false, 3 * AHEAD, WARM_UP, &runs);
    print(shape, true, AHEAD, WARM_UP, &runs);
    assert!(found.0.is_some_and(|error| error <= ERROR), "{shape:?}: {found:?}");
    assert!(found.2 >= 8, "{shape:?}: too few runs to tell: {found:?}");
}

/// Seconds of alarm from `from` on, in each run, and how long after `stops` the last was.
fn alarms(runs: &Runs, from: fn(&Run) -> usize) -> (usize, usize) {
    let (mut count, mut last) = (0, 0);
    for (run, said) in runs {
        assert_eq!(run.full, None, "it fills the table: the shape is wrong");
        let from = from(run).max(AT_REST + WARM_UP);
        for (second, seconds) in said.iter().copied() {
            if second >= from && seconds.is_some_and(|seconds| seconds < ALARM) {
                count += 1;
                last = last.max(second.saturating_sub(run.stops));
            }
        }
    }
    (count, last)
}

#[test]
fn linear_growth_is_foreseen() {
    is_foreseen(Shape::Linear);
    is_foreseen(Shape::MoreAndMore);
}

#[test]
fn bursts_are_no_alarm_but_what_they_leave_is() {
    let (count, _) = alarms(&runs(Shape::Bursts), |run| run.begins);
    println!("figure: forecast Bursts: {count} seconds of alarm");
    assert_eq!(count, 0);
    is_foreseen(Shape::LeavingBursts);
}

#[test]
fn a_saw_tooth_that_returns_is_no_alarm_but_one_that_climbs_is() {
    let runs = runs(Shape::SawTooth);
    let (first, _) = alarms(&runs, |run| run.begins);
    let (count, _) = alarms(&runs, |run| run.stops + 1);
    println!("figure: forecast SawTooth: {count} seconds of alarm after the first tooth, {first} in it");
    assert_eq!(count, 0);
    is_foreseen(Shape::ClimbingSawTooth);
}

#[test]
fn a_plateau_is_no_alarm_nor_is_the_way_up_to_it() {
    let (count, _) = alarms(&runs(Shape::Plateau), |_| 0);
    println!("figure: forecast Plateau: {count} seconds of alarm, the way up included");
    assert_eq!(count, 0);
    // It takes about as long as an entry lives, and slows on the way: nobody can be as sure of it.
    let above = print(Shape::PlateauAbove, false, AHEAD / 2, WARM_UP / 2, &runs(Shape::PlateauAbove));
    assert!(above.1 * 4 <= above.2, "one above the limit is foreseen in most runs: {above:?}");
}

#[test]
fn growth_that_stops_is_no_alarm_any_more() {
    let runs = runs(Shape::GrowthThatStops);
    let (count, last) = alarms(&runs, |run| run.stops + 90);
    let (_, late) = alarms(&runs, |run| run.stops);
    println!(
        "figure: forecast GrowthThatStops: {count} seconds of alarm 90 s after it stopped; the last {late} s after"
    );
    assert_eq!((count, last), (0, 0));
    is_foreseen(Shape::GrowthThatPauses);
}

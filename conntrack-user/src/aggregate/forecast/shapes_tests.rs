//! Forecasts against what simulated tables then did. Prints `figure: ` lines.

use std::time::Duration;

use super::plateau::median;
use super::shapes::{AT_REST, Run, Shape, run};
use super::{Estimator, Reading};

/// Limits and how many runs of each.
const SIZES: [(f64, u64); 3] = [(4096.0, 8), (65_536.0, 6), (262_144.0, 1)];
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

fn runs(shape: Shape) -> impl Iterator<Item = Run> {
    SIZES.into_iter().flat_map(move |(limit, seeds)| (1..=seeds).map(move |seed| run(shape, limit, seed)))
}

/// The error of what is said `ahead` seconds before the table is full, as a part of `ahead`; what is not foreseen at
/// all counts as infinitely wrong.
fn errors(shape: Shape) {
    let (mut at_60, mut at_180) = (Vec::new(), Vec::new());
    for run in runs(shape) {
        let full: usize =
            run.full.unwrap_or_else(|| panic!("{shape:?} never fills the table: the shape is wrong"));
        let said = said(&run);
        let error = |ahead: usize, errors: &mut Vec<f64>| {
            // What began a minute before or less could not be known then.
            if full - ahead >= run.begins + WARM_UP {
                let at = said.iter().find(|(second, _)| second + ahead == full);
                let seconds = at.and_then(|(_, seconds)| *seconds);
                errors.push(seconds.map_or(f64::INFINITY, |s| (s - ahead as f64).abs() / ahead as f64));
            }
        };
        error(AHEAD, &mut at_60);
        error(3 * AHEAD, &mut at_180);
    }
    let unforeseen = at_60.iter().filter(|e| e.is_infinite()).count();
    let (runs, one, three) = (at_60.len(), median(&mut at_60), median(&mut at_180));
    let percent = |e: Option<f64>| match e {
        Some(error) if error.is_finite() => format!("{:.1} %", 100.0 * error),
        _ => "-".to_owned(),
    };
    println!(
        "figure: forecast {shape:?}: median error one minute ahead {}, three minutes ahead {}; not foreseen one \
         minute ahead {unforeseen} of {runs}",
        percent(one),
        percent(three)
    );
    if shape != Shape::PlateauAbove {
        assert!(one.is_some_and(|error| error <= ERROR), "{shape:?}: {one:?} one minute ahead");
    }
}

/// Seconds of alarm from `from` on, in each run, and how long after `stops` the last was.
fn alarms(shape: Shape, from: fn(&Run) -> usize) -> (usize, usize) {
    let (mut count, mut last) = (0, 0);
    for run in runs(shape) {
        assert_eq!(run.full, None, "{shape:?} fills the table: the shape is wrong");
        let from = from(&run).max(AT_REST + WARM_UP);
        for (second, seconds) in said(&run) {
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
    errors(Shape::Linear);
    errors(Shape::MoreAndMore);
}

#[test]
fn bursts_are_no_alarm_but_what_they_leave_is() {
    let (count, _) = alarms(Shape::Bursts, |run| run.begins);
    println!("figure: forecast Bursts: {count} seconds of alarm");
    assert_eq!(count, 0);
    errors(Shape::LeavingBursts);
}

#[test]
fn a_saw_tooth_that_returns_is_no_alarm_but_one_that_climbs_is() {
    let (first, _) = alarms(Shape::SawTooth, |run| run.begins);
    let (count, _) = alarms(Shape::SawTooth, |run| run.stops + 1);
    println!("figure: forecast SawTooth: {count} seconds of alarm after the first tooth, {first} in it");
    assert_eq!(count, 0);
    errors(Shape::ClimbingSawTooth);
}

#[test]
fn a_plateau_is_no_alarm_nor_is_the_way_up_to_it() {
    let (count, _) = alarms(Shape::Plateau, |_| 0);
    println!("figure: forecast Plateau: {count} seconds of alarm, the way up included");
    assert_eq!(count, 0);
    errors(Shape::PlateauAbove);
}

#[test]
fn growth_that_stops_is_no_alarm_any_more() {
    let (count, last) = alarms(Shape::GrowthThatStops, |run| run.stops + 90);
    let (_, late) = alarms(Shape::GrowthThatStops, |run| run.stops);
    println!(
        "figure: forecast GrowthThatStops: {count} seconds of alarm 90 s after it stopped; the last {late} s after"
    );
    assert_eq!((count, last), (0, 0));
    errors(Shape::GrowthThatPauses);
}

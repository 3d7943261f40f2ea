//! What is no shape: readings that fail, clocks that jump, limits that change.

use std::time::Duration;

use super::*;
use crate::attribute::owner::Owner;
use crate::export::fixture;

/// A table that grows by `GROWTH` a second, at second `s`.
const GROWTH: u64 = 50;

fn growing(s: u64) -> Reading<'static> {
    Reading {
        entries: Some(1000 + GROWTH * s),
        limit: Some(20_000),
        allocs: Some(5000 + 100 * s),
        frees: Some(4000 + GROWTH * s),
        owners: &[],
    }
}

fn at(s: u64) -> Duration {
    Duration::from_secs(1000 + s)
}

fn seconds(forecast: Option<Forecast>) -> Option<f64> {
    forecast.map(|f| f.seconds_to_full.round())
}

/// After 100 s of it.
fn grown() -> Estimator {
    let mut estimator = Estimator::default();
    for s in 0..100 {
        estimator.enter(at(s), growing(s));
    }
    estimator
}

#[test]
fn a_growing_table_is_full_when_its_growth_fills_it() {
    let forecast = grown().enter(at(100), growing(100)).unwrap();
    assert_eq!(forecast.seconds_to_full.round(), (19_000.0_f64 / 50.0 - 100.0).round());
    assert!((forecast.growth_per_second - 50.0).abs() < 0.1, "{forecast:?}");
}

#[test]
fn it_takes_no_probes() {
    let mut estimator = Estimator::default();
    let without = |s| Reading { allocs: None, frees: None, ..growing(s) };
    let last = (0..=100).map(|s| estimator.enter(at(s), without(s))).last().unwrap();
    assert_eq!(seconds(last), Some(280.0));
    assert_eq!(estimator.enter(at(101), growing(101)), None, "what was counted otherwise is another series");
}

#[test]
fn unknown_entries_and_no_limit_have_no_forecast() {
    for unknown in [
        Reading { entries: None, ..growing(100) },
        Reading { limit: None, ..growing(100) },
        Reading { limit: Some(0), ..growing(100) },
    ] {
        let mut estimator = grown();
        assert_eq!(estimator.enter(at(100), unknown), None, "{unknown:?}");
        assert_eq!(estimator.enter(at(101), growing(101)), None, "not at once again");
        let again = (102..108).map(|s| estimator.enter(at(s), growing(s))).last().unwrap();
        assert_eq!(seconds(again), Some(273.0), "{unknown:?}");
    }
}

#[test]
fn a_new_limit_counts_from_a_few_readings_on() {
    let mut estimator = grown();
    let raised = |s| Reading { limit: Some(40_000), ..growing(s) };
    let last = (100..110).map(|s| estimator.enter(at(s), raised(s))).last().unwrap();
    assert_eq!(seconds(last), Some(39_000.0 / 50.0 - 109.0));
    let lowered = |s| Reading { limit: Some(1000), ..growing(s) };
    assert_eq!(estimator.enter(at(110), lowered(110)), None, "it is full: it does not fill");
}

#[test]
fn what_starts_anew_says_nothing_at_first() {
    let reset = Reading { allocs: Some(3), frees: Some(1), ..growing(100) };
    for (now, reading) in [(at(100), reset), (at(5000), growing(100)), (at(10), growing(100))] {
        let mut estimator = grown();
        assert_eq!(estimator.enter(now, reading), None, "{now:?}");
        assert!(estimator.told.is_none() && estimator.said.is_empty());
    }
}

#[test]
fn a_scrape_between_two_rounds_is_told_the_same() {
    let mut estimator = grown();
    let round = estimator.enter(at(100), growing(100));
    let scrape = estimator.enter(at(100) + Duration::from_millis(200), growing(100));
    assert!(round.is_some());
    assert_eq!(scrape, round);
}

#[test]
fn a_table_names_its_drivers_and_is_forgotten_with_its_namespace() {
    let mut forecasts = Forecasts::default();
    let enter = |forecasts: &mut Forecasts, s: u64| {
        let mut table = fixture::table(7, Owner::Host);
        let reading = growing(s);
        (table.entries, table.limit) = (reading.entries, reading.limit);
        let counted = table.counted.as_mut().unwrap();
        (counted.allocs, counted.frees) = (reading.allocs.unwrap(), reading.frees.unwrap());
        let part = |owner, entries| OwnerPart {
            owner,
            entries,
            responder_entries: 0,
            inserts: None,
            inserts_per_second: None,
        };
        let parts = vec![part(fixture::pod("web"), (GROWTH * s) as i64), part(Owner::Host, 1000)];
        table.owners = Some(crate::aggregate::snapshot::Owners { source: "probes", parts });
        forecasts.enter(&mut table, at(s));
        table.forecast
    };
    let last = (0..100).map(|s| enter(&mut forecasts, s)).last().unwrap().unwrap();
    assert_eq!(last.drivers, [(fixture::pod("web"), 50.0)]);
    forecasts.keep_only([8].into_iter());
    assert!(enter(&mut forecasts, 100).is_none(), "it was forgotten");
}

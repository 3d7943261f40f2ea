//! From single runs to a line for each variant.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::churn::Line;

/// The variant all others are compared with.
pub(crate) const BARE: &str = "bare";

/// A variant over all rounds.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub(crate) struct Variant {
    /// Who watched.
    pub(crate) variant: String,
    /// Why it was not run; None: it was.
    pub(crate) not_run: Option<String>,
    /// Rounds.
    pub(crate) rounds: usize,
    /// Connections per second beside the bare run of the same round: median, least, greatest.
    pub(crate) ratio: Option<[f64; 3]>,
    /// Nanoseconds of the guest's clock a connection, the median.
    pub(crate) ns_a_connection: Option<f64>,
    /// Connections made.
    pub(crate) made: u64,
    /// Connections seen; None: it watches nothing.
    pub(crate) saw: Option<u64>,
    /// Rounds in which it saw every connection and no other.
    pub(crate) exact_rounds: usize,
    /// Runs of its programs that the kernel skipped; None: it does not tell.
    pub(crate) missed: Option<u64>,
}

/// Sums up, in the order in which variants first appear.
///
/// # Errors
/// When a round lacks its bare run.
pub(crate) fn summed_up(lines: &[Line]) -> Result<Vec<Variant>> {
    let mut bare = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for line in lines {
        let (Line::Run { variant, .. } | Line::NotRun { variant, .. }) = line;
        if !names.contains(&variant.as_str()) {
            names.push(variant);
        }
        if let Line::Run { round, variant, ns, .. } = line
            && variant == BARE
        {
            bare.insert(*round, *ns as f64);
        }
    }
    names.into_iter().map(|name| one(name, lines, &bare)).collect()
}

fn one(name: &str, lines: &[Line], bare: &BTreeMap<u64, f64>) -> Result<Variant> {
    let (mut ratios, mut each) = (Vec::new(), Vec::new());
    let mut sum = Variant { variant: name.to_owned(), ..Variant::default() };
    for line in lines {
        match line {
            Line::NotRun { variant, not_run } if variant == name => sum.not_run = Some(not_run.clone()),
            Line::Run { round, variant, connections, ns, saw, missed } if variant == name => {
                let beside = bare.get(round);
                ensure!(beside.is_some(), "round {round} has no bare run");
                ratios.extend(beside.map(|bare| bare / *ns as f64));
                each.push(*ns as f64 / *connections as f64);
                sum.rounds += 1;
                sum.made += connections;
                sum.saw = saw.map(|saw| saw + sum.saw.unwrap_or_default()).or(sum.saw);
                sum.exact_rounds += usize::from(*saw == Some(*connections));
                sum.missed = missed.map(|missed| missed + sum.missed.unwrap_or_default()).or(sum.missed);
            }
            _ => {}
        }
    }
    sum.ratio = spread(ratios);
    sum.ns_a_connection = spread(each).map(|[median, ..]| median);
    Ok(sum)
}

/// Median, least and greatest; None of nothing.
fn spread(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() {
        0 => return None,
        length if length % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    };
    Some([median, *values.first()?, *values.last()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: u64, variant: &str, ns: u64, saw: Option<u64>) -> Line {
        Line::Run { round, variant: variant.to_owned(), connections: 10, ns, saw, missed: saw.map(|_| 0) }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let lines = [
            run(1, "bare", 100, None),
            run(1, "us", 200, Some(10)),
            run(2, "bare", 300, None),
            run(2, "us", 300, Some(9)),
        ];
        let found = summed_up(&lines).unwrap();
        assert_eq!(found[0].ratio, Some([1.0, 1.0, 1.0]));
        assert_eq!(found[1].ratio, Some([0.75, 0.5, 1.0]));
        assert_eq!((found[1].made, found[1].saw, found[1].exact_rounds), (20, Some(19), 1));
        assert_eq!((found[0].saw, found[0].missed, found[1].missed), (None, None, Some(0)));
    }

    #[test]
    fn what_was_not_run_has_no_figure() {
        let lines = [Line::NotRun { variant: "x".to_owned(), not_run: "gone".to_owned() }];
        let found = summed_up(&lines).unwrap();
        assert_eq!((found[0].ratio, found[0].not_run.as_deref()), (None, Some("gone")));
        assert!(summed_up(&[run(1, "us", 1, None)]).is_err());
    }
}

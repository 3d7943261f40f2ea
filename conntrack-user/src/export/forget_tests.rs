//! Pods come and go for good: what is kept of them does not grow, and no counter falls.

use std::collections::BTreeMap;

use super::exporter::Exporter;
use super::fixture;
use super::view::{OwnerCounts, View};
use crate::attribute::owner::Owner;

/// So many pods are here at a time: more than get series of their own.
const HERE: u32 = 40;
const ROOM: usize = 16;

fn pod(number: u32) -> Owner {
    Owner::Pod { namespace: "shop".into(), pod: format!("p{number}"), uid: format!("u{number}") }
}

/// The scrape at which pods up to `last` have come; each one's counter grows by 10 a scrape.
fn view(last: u32) -> View {
    let here = last.saturating_sub(HERE - 1)..=last;
    let counts = |number: u32| OwnerCounts {
        table: "host",
        owner: pod(number),
        held: None,
        drops: u64::from(10 * (last - number + 1)),
        evictions: 0,
    };
    View { owners: here.map(counts).collect(), ..fixture::view() }
}

/// The series of refusals by owner.
fn drops(page: &str) -> BTreeMap<String, f64> {
    let series = page.lines().filter(|line| line.starts_with("conntrack_owner_drops_total{"));
    let split = series.filter_map(|line| line.rsplit_once(' '));
    split.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn a_thousand_pods_come_and_go() {
    let mut exporter = Exporter::new(ROOM, false);
    let mut before = BTreeMap::<String, f64>::new();
    let (mut most, mut size) = (0, 0);
    for last in 0..1_000 {
        let page = exporter.text(&view(last)).unwrap();
        let now = drops(&page);
        for (series, value) in &now {
            assert!(before.get(series).is_none_or(|earlier| earlier <= value), "{series} fell to {value}");
        }
        most = most.max(now.len());
        // Once all are here the exporter holds no more than it did.
        let held = format!("{exporter:?}").len();
        if last == 100 {
            size = held;
        }
        assert!(last < 100 || held < size + size / 10, "{held} bytes of state, {size} after 100 pods");
        before = now;
    }
    println!("figure: {most} series of refusals by pod at most while 1,000 pods came and went");
    // Those with series of their own, those that were here two scrapes ago, and what stands for the rest.
    assert!(most <= ROOM + 3, "{most} series");
    let other = before.iter().find(|(series, _)| series.contains("pod=\"_other\"")).unwrap();
    assert!(*other.1 > 0.0);
    let empty = View { owners: Vec::new(), ..fixture::view() };
    for _ in 0..3 {
        exporter.text(&empty).unwrap();
    }
    let last = drops(&exporter.text(&empty).unwrap());
    assert!(last.keys().all(|series| !series.contains("pod=\"p")), "{last:?}");
    assert_eq!(last.iter().find(|(series, _)| series == &other.0), Some(other), "the rest keeps its counts");
}

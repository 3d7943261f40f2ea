//! The page as a whole: golden text, absence, budget.

use std::collections::BTreeSet;

use super::descriptors;
use super::exporter::Exporter;
use super::view::{OwnerCounts, View};
use super::{coverage, fixture, golden};
use crate::aggregate::snapshot::{OutcomeCount, Snapshot, Table};
use crate::attribute::owner::Owner;
use crate::attribute::verdict::Effect;

fn page(view: &View) -> String {
    Exporter::new(128, false).text(view).unwrap()
}

fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|l| l.strip_prefix(series)?.trim().parse().ok())
}

#[test]
fn the_page_of_the_fixture() {
    golden::assert_file("conntrack-user/src/export/testdata/metrics.prom", &page(&fixture::view()));
}

#[test]
fn every_series_is_there_once_and_documented() {
    let view = fixture::view();
    let text = Exporter::new(128, true).text(&view).unwrap();
    let mut seen = BTreeSet::new();
    let series = text.lines().filter(|l| !l.starts_with('#'));
    for s in series.map(|l| l.rsplit_once(' ').unwrap().0) {
        assert!(seen.insert(s.to_owned()), "{s} twice");
        let (name, labels) = s.split_once('{').unwrap_or((s, "}"));
        let metric =
            descriptors::all().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} undocumented"));
        let documented: BTreeSet<&str> = metric.labels.iter().map(|l| l.split('=').next().unwrap()).collect();
        let printed: BTreeSet<&str> =
            labels.trim_end_matches('}').split("\",").filter_map(|p| Some(p.split_once('=')?.0)).collect();
        assert_eq!(printed, documented, "{name}");
    }
    for m in descriptors::all().filter(|m| m.name != "conntrack_inferred_drops_total") {
        assert!(seen.iter().any(|s| s.split('{').next() == Some(m.name)), "{} never printed", m.name);
    }
}

#[test]
fn a_probe_that_is_not_attached_takes_its_counts_along() {
    let mut view = fixture::view();
    let refuse = |view: &mut View, name| {
        for p in view.snapshot.probes.iter_mut().filter(|p| p.probe == name) {
            p.mechanism = coverage::NOT_ATTACHED;
        }
    };
    refuse(&mut view, coverage::EARLY_DROP);
    let text = page(&view);
    assert!(!text.contains("conntrack_table_full_drops_total"));
    assert!(!text.contains("cause=\"early_drop\""));
    assert!(text.contains("cause=\"gc\"") && text.contains("conntrack_inserts_total{"));
    let host = "table=\"host\",namespace=\"\",pod=\"\",netns=\"\"}";
    assert!(!text.contains("conntrack_inferred_drops_total"), "nothing infers beside alloc: no 0 either");
    assert_eq!(value(&text, "conntrack_probe_attached{probe=\"early_drop\",mechanism=\"none\"}"), Some(0.0));
    assert!(text.contains("mode=\"full\""));
    refuse(&mut view, coverage::ALLOC);
    let text = page(&view);
    assert_eq!(value(&text, &format!("conntrack_inferred_drops_total{{{host}")), Some(29.0));
    assert!(text.contains("mode=\"inferred\""));
}

#[test]
fn without_conntrack_there_is_no_series_about_tables() {
    let mut exporter = Exporter::new(128, false);
    exporter.text(&fixture::view()).unwrap();
    let text = exporter.text(&View { snapshot: Snapshot::default(), owners: vec![] }).unwrap();
    assert_eq!(value(&text, "conntrack_loaded"), Some(0.0));
    assert!(!text.contains("table=") && !text.contains("conntrack_entries"), "{text}");
}

#[test]
fn unreadable_is_absent() {
    let mut view = fixture::view();
    let host = &mut view.snapshot.tables[0];
    (host.entries, host.kernel, host.counted) = (None, None, None);
    let text = page(&view);
    assert!(!text.contains("conntrack_entries{table=\"host\""));
    assert!(!text.contains("conntrack_inserts_total{table=\"host\""));
    assert!(!text.contains("conntrack_invalid_total{table=\"host\""));
    assert!(text.contains("conntrack_entries{table=\"pod\""));
}

/// A node where every limit is passed.
fn crowd(pods: u32) -> View {
    let mut view = fixture::view();
    for i in 10..10 + pods {
        let owner = if i % 3 == 0 { Owner::Unknown } else { fixture::pod(&format!("p{i}")) };
        let forecast = view.snapshot.tables[0].forecast.clone();
        view.snapshot.tables.push(Table { forecast, ..fixture::table(i, owner) });
        let owner = fixture::pod(&format!("p{i}"));
        view.owners.push(OwnerCounts {
            table: "host",
            owner: owner.clone(),
            held: None,
            drops: 1,
            evictions: 1,
        });
        for (effect, cause) in [
            (Effect::Reset, "evicted"),
            (Effect::Reset, "unrelated"),
            (Effect::ConnectTimeout, "table_full"),
            (Effect::ConnectTimeout, "unrelated"),
            (Effect::SlowConnect, "table_full"),
            (Effect::Stall, "table_full"),
            (Effect::DnsStall, "table_full"),
        ] {
            view.snapshot.outcomes.push(OutcomeCount {
                owner: owner.clone(),
                effect,
                cause,
                confidence: "exact",
                count: 1,
            });
        }
    }
    view
}

#[test]
fn a_crowded_node_stays_below_a_thousand_series() {
    let text = page(&crowd(400));
    let series = text.lines().filter(|l| !l.starts_with('#')).count();
    assert!((500..=1000).contains(&series), "{series}");
    assert!(text.contains("pod=\"_other\"") && text.contains("netns=\"_other\""));
    assert!(!text.contains("conntrack_entries_limit{table=\"pod\",namespace=\"\",pod=\"_other\""));
}

#[test]
fn the_sum_over_all_tables_does_not_depend_on_the_room() {
    let view = crowd(100);
    let sum = |room| -> f64 {
        let text = Exporter::new(room, false).text(&view).unwrap();
        let lines = text.lines().filter(|l| l.starts_with("conntrack_inserts_total{"));
        lines.map(|l| l.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    assert_eq!(sum(0), sum(1000));
    assert_eq!(sum(128), 103.0 * 4900.0);
}

#[test]
fn no_counter_falls_while_pods_come_and_go() {
    let mut exporter = Exporter::new(16, false);
    let mut last: std::collections::BTreeMap<String, f64> = Default::default();
    let full = crowd(60);
    for round in 0_usize..12 {
        let mut view = full.clone();
        view.snapshot.tables.retain(|t| t.host || !(t.netns as usize + round).is_multiple_of(4));
        view.owners.retain(|o| !format!("{:?}", o.owner).contains(&format!("p{}", 10 + round)));
        let text = exporter.text(&view).unwrap();
        let mut now = std::collections::BTreeMap::new();
        for line in text.lines().filter(|l| l.split('{').next().is_some_and(|n| n.ends_with("_total"))) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            now.insert(series.to_owned(), value.parse().unwrap());
        }
        for (series, value) in &now {
            assert!(last.get(series).is_none_or(|l| l <= value), "{series} fell in round {round}");
        }
        last = now;
    }
}

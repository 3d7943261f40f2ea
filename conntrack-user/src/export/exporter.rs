//! The metrics page, from a view. Keeps what makes counters monotonic from one scrape to the next.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Proto, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::book::{Book, Reading};
use super::coverage::Coverage;
use super::descriptors::{self, Kind, Metric, Read, Sample, Samples, TableSample};
use super::labels::{Admission, Labels, OwnerLabels, TableLabels, owner_labels, table_labels};
use super::view::{HeldCounts, View};
use crate::aggregate::snapshot::Table;
use crate::attribute::owner::Owner;
use crate::attribute::verdict::{CAUSE_UNRELATED, Effect};

/// Tables, beside the host's, that get the detailed metrics.
pub const DETAILED_TABLES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Node;

impl Labels for Node {
    fn is_rest(&self) -> bool {
        true
    }
    fn is_few(&self) -> bool {
        true
    }
}

type OwnerKey = (&'static str, OwnerLabels);
type OutcomeKey = (OwnerLabels, Effect, &'static str, &'static str);

impl Labels for OwnerKey {
    fn is_rest(&self) -> bool {
        self.1.is_rest()
    }
    fn is_few(&self) -> bool {
        self.1.is_few()
    }
}

impl Labels for OutcomeKey {
    fn is_rest(&self) -> bool {
        self.0.is_rest()
    }
    fn is_few(&self) -> bool {
        self.0.is_few()
    }
}

/// Makes the metrics page. One for the daemon's life: label sets keep their series from scrape to scrape.
#[derive(Debug)]
pub struct Exporter {
    process: Option<ProcessCollector>,
    tables_admitted: Admission<TableLabels>,
    detailed: Admission<TableLabels>,
    owners_admitted: Admission<OwnerLabels>,
    elsewhere_admitted: Admission<OwnerKey>,
    hurt_admitted: Admission<OwnerLabels>,
    unrelated_admitted: Admission<OwnerLabels>,
    tables: Book<TableLabels, u32>,
    node: Book<Node, u32>,
    owners: Book<OwnerKey, (&'static str, Owner)>,
    outcomes: Book<OutcomeKey, (Owner, Effect, &'static str, &'static str)>,
    /// Of the last scrape.
    held: BTreeMap<OwnerKey, HeldCounts>,
}

/// The tables of one scrape that share a label set.
type Members<'a> = BTreeMap<TableLabels, Vec<&'a Table>>;

impl Exporter {
    /// With series of their own for at most `max_pods` pods and cgroups, a quarter as many tables, an eighth as
    /// many pods and cgroups in tables other than the host's: there the table's own series tell the same. What
    /// the table did is told of an eighth as many, and what it did not of half as many.
    /// `process`: print what the process itself uses?
    #[must_use]
    pub fn new(max_pods: usize, process: bool) -> Self {
        Self {
            process: process.then(ProcessCollector::for_self),
            tables_admitted: Admission::new(max_pods / 4),
            detailed: Admission::new(DETAILED_TABLES.min(max_pods / 4)),
            owners_admitted: Admission::new(max_pods),
            elsewhere_admitted: Admission::new(max_pods / 8),
            hurt_admitted: Admission::new(max_pods / 8),
            unrelated_admitted: Admission::new(max_pods / 2),
            tables: Book::default(),
            node: Book::default(),
            owners: Book::default(),
            outcomes: Book::default(),
            held: BTreeMap::new(),
        }
    }

    /// The page, in Prometheus' text format 0.0.4. Counts as one scrape.
    ///
    /// # Errors
    /// If the text cannot be made from the families.
    pub fn text(&mut self, view: &View) -> anyhow::Result<String> {
        let families = self.families(view);
        let mut out = Vec::with_capacity(64 << 10);
        TextEncoder::new().encode(&families, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    fn families(&mut self, view: &View) -> Vec<MetricFamily> {
        if !view.snapshot.conntrack_loaded {
            // What was counted went with the module: nothing is known of tables that come later.
            (self.tables, self.node, self.owners) = Default::default();
        }
        let coverage = Coverage::of(&view.snapshot.probes);
        let members = self.enter(view, &coverage);
        let mut families: Vec<MetricFamily> = descriptors::all()
            .filter_map(|metric| family(metric, self.samples(metric, view, &coverage, &members)))
            .collect();
        families.extend(self.process.iter().flat_map(Collector::collect));
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }

    /// Enters the readings of one scrape; returns the tables by label set.
    fn enter<'a>(&mut self, view: &'a View, coverage: &Coverage) -> Members<'a> {
        let mut members = Members::new();
        let (mut tables, mut node) = (Vec::new(), Vec::new());
        for table in &view.snapshot.tables {
            let own = table_labels(table);
            let labels = if self.tables_admitted.admits(&own) { own } else { own.rest() };
            members.entry(labels.clone()).or_default().push(table);
            tables.push(Reading { member: table.netns, labels, counters: read(false, table, coverage) });
            node.push(Reading { member: table.netns, labels: Node, counters: read(true, table, coverage) });
        }
        self.tables.update(&tables);
        self.node.update(&node);
        self.enter_owners(view);
        let own: BTreeSet<TableLabels> = view.snapshot.tables.iter().map(table_labels).collect();
        self.tables_admitted.retain(|l| self.tables.has(l) || own.contains(l));
        self.detailed.retain(|l| self.tables.has(l));
        members
    }

    fn enter_owners(&mut self, view: &View) {
        let mut seen = BTreeSet::new();
        let mut admitted = |owner: &Owner| {
            let own = owner_labels(owner);
            seen.insert(own.clone());
            if self.owners_admitted.admits(&own) { own } else { own.rest() }
        };
        let mut elsewhere = BTreeSet::new();
        let mut admitted_to = |table: &'static str, owner: &Owner| {
            if table == "host" {
                return (table, admitted(owner));
            }
            let own = (table, owner_labels(owner));
            elsewhere.insert(own.clone());
            if self.elsewhere_admitted.admits(&own) { own } else { (table, own.1.rest()) }
        };
        let owners = view.owners.iter().map(|o| Reading {
            member: (o.table, o.owner.clone()),
            labels: admitted_to(o.table, &o.owner),
            counters: vec![Some(o.drops), Some(o.evictions), o.held.and_then(|held| held.inserts)],
        });
        let owners: Vec<_> = owners.collect();
        self.held.clear();
        for (reading, counts) in owners.iter().zip(&view.owners) {
            if let Some(now) = counts.held {
                let sum = self.held.entry(reading.labels.clone()).or_default();
                sum.entries += now.entries;
                sum.responder_entries += now.responder_entries;
            }
        }
        let mut admitted_for = |owner: &Owner, cause| {
            let own = owner_labels(owner);
            let by_table = cause != CAUSE_UNRELATED;
            let admitted = if by_table { &mut self.hurt_admitted } else { &mut self.unrelated_admitted };
            if admitted.admits(&own) { own } else { own.rest() }
        };
        let outcomes: Vec<_> = view
            .snapshot
            .outcomes
            .iter()
            .map(|o| Reading {
                member: (o.owner.clone(), o.effect, o.cause, o.confidence),
                labels: (admitted_for(&o.owner, o.cause), o.effect, o.cause, o.confidence),
                counters: vec![Some(o.count)],
            })
            .collect();
        self.owners.update(&owners);
        self.outcomes.update(&outcomes);
        let keys: BTreeSet<&OwnerKey> = self.owners.sums().map(|(l, _)| l).collect();
        self.elsewhere_admitted.retain(|l| elsewhere.contains(l) || keys.contains(l));
        let told: BTreeSet<&OwnerLabels> = self.outcomes.sums().map(|(l, _)| &l.0).collect();
        let printed: BTreeSet<&OwnerLabels> = self.owners.sums().map(|(l, _)| &l.1).collect();
        self.owners_admitted.retain(|l| seen.contains(l) || printed.contains(l));
        self.hurt_admitted.retain(|l| told.contains(l));
        self.unrelated_admitted.retain(|l| told.contains(l));
    }

    fn samples(
        &mut self,
        m: &Metric,
        view: &View,
        coverage: &Coverage,
        members: &Members<'_>,
    ) -> Vec<Sample> {
        match m.samples {
            Samples::Table { detail, samples } => self.table_samples(m, detail, samples, coverage, members),
            Samples::AllTables(samples) => {
                let sums: Vec<_> = self.node.sums().map(|(_, c)| c).collect();
                let from = offset(m, true);
                let all = sums.iter().flat_map(|c| samples.iter().zip(&c[from..]));
                all.filter_map(|(s, n)| Some(Sample::new(s.label.as_slice(), (*n)? as f64))).collect()
            }
            Samples::Node(read) => read(view),
            Samples::OwnerEntries => self.held_samples(|held| Some(held.entries)),
            Samples::OwnerResponderEntries => {
                self.held_samples(|held| Some(held.responder_entries).filter(|answered| *answered != 0))
            }
            Samples::OwnerInserts => self.owner_samples(2),
            Samples::OwnerDrops => self.owner_samples(0),
            Samples::OwnerEvictions => self.owner_samples(1),
            Samples::Outcomes(wanted) => {
                let sums = self.outcomes.sums().filter(|((_, effect, ..), _)| *effect == wanted);
                let sums = sums.filter_map(|((owner, _, cause, confidence), c)| {
                    let mut labels = owner_pairs(owner);
                    labels.push(("cause", (*cause).to_owned()));
                    labels.push(("confidence", (*confidence).to_owned()));
                    Some(Sample { labels, value: c[0]? as f64 })
                });
                sums.collect()
            }
            Samples::Process => Vec::new(),
        }
    }

    fn held_samples(&self, read: fn(&HeldCounts) -> Option<i64>) -> Vec<Sample> {
        let samples = self.held.iter().filter_map(|((table, owner), held)| {
            let mut labels = vec![("table", (*table).to_owned())];
            labels.extend(owner_pairs(owner));
            Some(Sample { labels, value: read(held)? as f64 })
        });
        samples.collect()
    }

    fn owner_samples(&self, index: usize) -> Vec<Sample> {
        let sums = self.owners.sums().filter_map(|((table, owner), c)| {
            let mut labels = vec![("table", (*table).to_owned())];
            labels.extend(owner_pairs(owner));
            Some(Sample { labels, value: c[index]? as f64 })
        });
        sums.collect()
    }

    fn table_samples(
        &mut self,
        metric: &Metric,
        detail: bool,
        samples: &[TableSample],
        coverage: &Coverage,
        members: &Members<'_>,
    ) -> Vec<Sample> {
        let mut out = Vec::new();
        let from = offset(metric, false);
        for (labels, counts) in self.tables.sums() {
            if detail && (labels.is_rest() || !self.detailed.admits(labels)) {
                continue;
            }
            let tables = members.get(labels).map_or(&[][..], Vec::as_slice);
            for (sample, count) in samples.iter().zip(&counts[from..]) {
                let value = match sample.read {
                    Read::Counter(_) => count.map(|n| n as f64),
                    Read::Gauge(read) | Read::GaugeOfOne(read) if coverage.has(sample.needs) => {
                        let one = matches!(sample.read, Read::GaugeOfOne(_));
                        gauge(tables, read).filter(|_| !one || tables.len() == 1)
                    }
                    _ => None,
                };
                let Some(value) = value else { continue };
                let mut pairs = table_pairs(labels);
                pairs.extend(sample.label.map(|(k, v)| (k, v.to_owned())));
                out.push(Sample { labels: pairs, value });
            }
        }
        out
    }
}

/// The sum over the tables; None if there are none or one of them is not known.
fn gauge(tables: &[&Table], read: fn(&Table) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = tables.iter().map(|t| read(t)).collect();
    values.filter(|v| !v.is_empty()).map(|v| v.iter().sum())
}

/// The samples kept in the books, in their order: those of each table, or (`node`) those of all together.
fn booked(node: bool) -> impl Iterator<Item = (&'static Metric, &'static [TableSample])> {
    descriptors::all().filter_map(move |m| match m.samples {
        Samples::Table { samples, .. } if !node => Some((m, samples)),
        Samples::AllTables(samples) if node => Some((m, samples)),
        _ => None,
    })
}

/// Where a metric's samples begin in the books.
fn offset(metric: &Metric, node: bool) -> usize {
    booked(node).take_while(|(m, _)| m.name != metric.name).map(|(_, s)| s.len()).sum()
}

/// One table's counters, in the books' order; gauges are not kept and take up an empty place.
fn read(node: bool, table: &Table, coverage: &Coverage) -> Vec<Option<u64>> {
    let samples = booked(node).flat_map(|(_, samples)| samples);
    let counters = samples.map(|s| match s.read {
        Read::Counter(read) if coverage.has(s.needs) => read(table),
        _ => None,
    });
    counters.collect()
}

fn table_pairs(l: &TableLabels) -> Vec<(&'static str, String)> {
    vec![
        ("table", l.table.to_owned()),
        ("namespace", l.namespace.clone()),
        ("pod", l.pod.clone()),
        ("netns", l.netns.clone()),
    ]
}

fn owner_pairs(l: &OwnerLabels) -> Vec<(&'static str, String)> {
    vec![
        ("owner", l.owner.to_owned()),
        ("namespace", l.namespace.clone()),
        ("pod", l.pod.clone()),
        ("cgroup", l.cgroup.clone()),
    ]
}

/// The family, or None when it has no samples: what is not known is absent, help and type included.
fn family(metric: &Metric, samples: Vec<Sample>) -> Option<MetricFamily> {
    if samples.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(samples.into_iter().map(|s| proto(metric.kind, s)).collect());
    Some(family)
}

fn proto(kind: Kind, sample: Sample) -> Proto {
    let labels = sample.labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    });
    let mut metric = Proto::from_label(labels.collect());
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(sample.value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(sample.value);
            metric.set_gauge(gauge);
        }
    }
    metric
}

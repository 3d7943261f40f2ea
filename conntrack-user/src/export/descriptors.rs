//! Every metric there is, as data: the exporter and docs/metrics.md are both made from [`all`].

use super::node_metrics::NODE_METRICS;
use super::table_metrics::TABLE_METRICS;
use super::view::View;
use crate::aggregate::snapshot::Table;
use crate::attribute::verdict::Effect;

/// What Prometheus calls the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, since this program's start unless said otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its unit.
    pub unit: &'static str,
    /// Its labels; for some of them the values it can have.
    pub labels: &'static [&'static str],
    /// What it says; one sentence, also the HELP line.
    pub help: &'static str,
    /// When it is absent.
    pub absent: &'static str,
    /// Where its samples come from.
    pub samples: Samples,
}

/// Where samples come from.
#[derive(Clone, Copy, Debug)]
pub enum Samples {
    /// One set for each table; `detail` ones only for the host's and the first few other tables.
    Table {
        /// Printed only for the host's table and the first few others?
        detail: bool,
        /// The samples.
        samples: &'static [TableSample],
    },
    /// Read from the whole view.
    Node(fn(&View) -> Vec<Sample>),
    /// Of owners by table: entries held.
    OwnerEntries,
    /// Of owners by table: entries answered.
    OwnerResponderEntries,
    /// Of owners by table: entries confirmed.
    OwnerInserts,
    /// Of owners by table: refusals.
    OwnerDrops,
    /// Of owners by table: evictions.
    OwnerEvictions,
    /// From what connections suffered: this.
    Outcomes(Effect),
    /// From the whole view, but kept monotonic while tables come and go.
    AllTables(&'static [TableSample]),
    /// From the process collector of the Prometheus crate, whose help it keeps.
    Process,
}

/// One sample of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableSample {
    /// The label beside those of the table.
    pub label: Option<(&'static str, &'static str)>,
    /// Probes without which nobody counts it.
    pub needs: &'static [&'static str],
    /// Its value; None: not known.
    pub read: Read,
}

/// How a value is read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// A counter.
    Counter(fn(&Table) -> Option<u64>),
    /// A gauge that may be summed over tables.
    Gauge(fn(&Table) -> Option<f64>),
    /// A gauge that means nothing when summed: absent where a label set stands for several tables.
    GaugeOfOne(fn(&Table) -> Option<f64>),
}

/// One sample with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Labels, in the order of [`Metric::labels`].
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: f64,
}

impl Sample {
    /// A sample with no labels.
    #[must_use]
    pub fn bare(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// A sample with these labels.
    #[must_use]
    pub fn new(labels: &[(&'static str, &str)], value: f64) -> Self {
        Self { labels: labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(), value }
    }
}

/// All metrics, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    TABLE_METRICS.iter().chain(NODE_METRICS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_conventions() {
        let mut seen = std::collections::BTreeSet::new();
        for m in all() {
            assert!(seen.insert(m.name), "{} twice", m.name);
            assert!(m.name.starts_with("conntrack_") || m.name.starts_with("process_"), "{}", m.name);
            assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
            assert!(m.help.ends_with('.') && !m.help.contains('|'), "{}", m.name);
            for label in m.labels {
                let name = label.split('=').next().unwrap();
                let forbidden = ["type", "src", "dst", "saddr", "daddr", "sport", "dport", "tuple"];
                assert!(!forbidden.contains(&name), "{}: {name}", m.name);
            }
        }
        for fixed in [
            "conntrack_entries",
            "conntrack_entries_limit",
            "conntrack_inserts_total",
            "conntrack_table_full_drops_total",
            "conntrack_evictions_total",
            "conntrack_owner_drops_total",
            "conntrack_owner_evictions_total",
            "conntrack_tcp_resets_total",
            "conntrack_tcp_connect_timeouts_total",
            "conntrack_tcp_stalls_total",
            "conntrack_probe_attached",
            "conntrack_probe_missed_total",
        ] {
            assert!(seen.contains(fixed), "{fixed}");
        }
    }
}

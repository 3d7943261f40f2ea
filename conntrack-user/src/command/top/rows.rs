//! What is shown of a table: its line, and a row for each owner.

use std::collections::BTreeMap;

use super::history::History;
use super::numbers::name;
use super::wire::{Document, Forecast, Losses, Table};
use crate::attribute::owner::Owner;

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableView {
    /// Inode of its namespace.
    pub netns: u32,
    /// Its name for people.
    pub name: String,
    /// Entries now; None: not known.
    pub entries: Option<u64>,
    /// The limit; None: not known, or there is none.
    pub limit: Option<u64>,
    /// Entries a second by which it grows (below 0: shrinks); None: not known yet.
    pub growth: Option<f64>,
    /// When it will be full; None: not filling.
    pub forecast: Option<Forecast>,
    /// Refusals so far, and a second.
    pub refused: (Option<u64>, Option<f64>),
    /// Evictions so far, and a second.
    pub evicted: (Option<u64>, Option<f64>),
    /// Are owners counted one by one, or concluded from dumps? None: nobody knows who holds the entries.
    pub owners_from: Option<String>,
    /// One for each owner, in the order of owners.
    pub rows: Vec<Row>,
}

/// One owner in one table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its name, harmless to a terminal.
    pub name: String,
    /// Entries held; None: not known.
    pub entries: Option<i64>,
    /// The same as a part of the limit.
    pub of_limit: Option<f64>,
    /// Entries confirmed a second.
    pub inserts: Option<f64>,
    /// Refusals so far, and a second; None: nobody counts them.
    pub refused: (Option<u64>, Option<f64>),
    /// Evictions so far, and a second.
    pub evicted: (Option<u64>, Option<f64>),
    /// Holds the most entries.
    pub culprit: bool,
}

impl Row {
    /// Was it refused, or did it lose entries?
    #[must_use]
    pub fn victim(&self) -> bool {
        [self.refused.0, self.evicted.0].iter().any(|n| n.is_some_and(|n| n > 0))
    }
}

/// Namespaces of the tables in the order of `t`: the host's, then the fullest first.
#[must_use]
pub fn order(document: &Document) -> Vec<u32> {
    let fill = |t: &Table| Some(t.entries? as f64 / t.limit.filter(|limit| *limit > 0)? as f64);
    let mut tables: Vec<&Table> = document.tables.iter().collect();
    tables.sort_by(|a, b| {
        let fuller = fill(b).unwrap_or(-1.0).total_cmp(&fill(a).unwrap_or(-1.0));
        b.host.cmp(&a.host).then(fuller).then(a.netns.cmp(&b.netns))
    });
    tables.iter().map(|table| table.netns).collect()
}

/// The view of one table, from the last documents; None: there is no such table any more.
#[must_use]
pub fn view(history: &History, netns: u32) -> Option<TableView> {
    let document = history.latest()?;
    let table = document.tables.iter().find(|table| table.netns == netns)?;
    let change = |read: fn(&Table) -> Option<u64>| history.change(netns, read);
    let refused = |t: &Table| t.counted.map(|counted| counted.refused());
    let evicted = |t: &Table| t.counted.map(|counted| counted.evicted());
    let growth = table.forecast.as_ref().map(|forecast| forecast.growth_per_second);
    Some(TableView {
        netns,
        name: table_name(table),
        entries: table.entries,
        limit: table.limit.filter(|limit| *limit > 0),
        growth: growth.or_else(|| change(|t| t.entries)),
        forecast: table.forecast.clone(),
        refused: (refused(table), change(refused).filter(|rate| *rate >= 0.0)),
        evicted: (evicted(table), change(evicted).filter(|rate| *rate >= 0.0)),
        owners_from: table.owners.as_ref().map(|owners| owners.source.clone()),
        rows: rows(history, document, table),
    })
}

fn rows(history: &History, document: &Document, table: &Table) -> Vec<Row> {
    let limit = table.limit.filter(|limit| *limit > 0);
    // Without probes nobody would have counted what an owner suffered.
    let nothing = table.counted.map(|_| 0);
    // Where owners are known, whoever is not among them holds nothing.
    let known = table.owners.as_ref();
    let counted = known.filter(|owners| owners.source == "probes");
    let mut rows: BTreeMap<&Owner, Row> = BTreeMap::new();
    let row = |owner: &Owner| Row {
        name: name(owner),
        entries: known.map(|_| 0),
        of_limit: known.and(limit).map(|_| 0.0),
        inserts: counted.map(|_| 0.0),
        refused: (nothing, nothing.and(history.losses(kind(table), owner).0)),
        evicted: (nothing, nothing.and(history.losses(kind(table), owner).1)),
        culprit: false,
    };
    for part in table.owners.iter().flat_map(|owners| &owners.parts) {
        let row = rows.entry(&part.owner).or_insert_with(|| row(&part.owner));
        row.entries = Some(part.entries);
        row.of_limit = limit.map(|limit| part.entries as f64 / limit as f64);
        row.inserts = part.inserts_per_second;
    }
    for losses in document.owner_losses.iter().filter(|losses| belongs(losses, table, document)) {
        let row = rows.entry(&losses.owner).or_insert_with(|| row(&losses.owner));
        let rates = history.losses(&losses.table, &losses.owner);
        (row.refused, row.evicted) = ((Some(losses.drops), rates.0), (Some(losses.evictions), rates.1));
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    let most = rows.iter().filter_map(|row| row.entries).max().filter(|most| *most > 0);
    if let Some(culprit) = rows.iter_mut().find(|row| most.is_some() && row.entries == most) {
        culprit.culprit = true;
    }
    rows
}

/// Losses are told by kind of table: outside the host's they are this one's only if no other could be meant.
fn belongs(losses: &Losses, table: &Table, document: &Document) -> bool {
    let same = |other: &&Table| kind(other) == losses.table && other.owner == losses.owner;
    losses.table == kind(table)
        && (table.host || (losses.owner == table.owner && document.tables.iter().filter(same).count() == 1))
}

/// What kind of table it is, as losses name it.
fn kind(table: &Table) -> &'static str {
    match &table.owner {
        _ if table.host => "host",
        Owner::Pod { .. } => "pod",
        _ => "netns",
    }
}

fn table_name(table: &Table) -> String {
    match &table.owner {
        _ if table.host => "host".to_owned(),
        Owner::Pod { .. } => name(&table.owner),
        Owner::Cgroup { .. } => format!("netns {} {}", table.netns, name(&table.owner)),
        _ => format!("netns {}", table.netns),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::command::top::example;
    use crate::export::fixture::pod;

    fn of(document: Document) -> History {
        let mut history = History::default();
        history.enter(Instant::now(), document);
        history
    }

    fn row<'a>(view: &'a TableView, name: &str) -> &'a Row {
        view.rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no row {name}: {view:?}"))
    }

    #[test]
    fn culprit_and_victims() {
        let view = view(&of(example::document()), example::HOST).unwrap();
        let marked = |of: fn(&Row) -> bool| -> Vec<&str> {
            view.rows.iter().filter(|row| of(row)).map(|row| row.name.as_str()).collect()
        };
        assert_eq!(marked(|row| row.culprit), ["batch/crawler-7d9f"]);
        assert_eq!(marked(Row::victim), ["shop/web-0", "system.slice/ntp.service"]);
        assert_eq!(row(&view, "batch/crawler-7d9f").of_limit, Some(0.75));
        assert_eq!(row(&view, "shop/web-0").refused, (Some(1200), None), "one document has no rate");
        assert_eq!(row(&view, "host").refused.0, Some(0));
    }

    #[test]
    fn rates_need_two_documents() {
        let mut history = of(example::document());
        let mut later = example::document();
        later.owner_losses[0].drops += 50;
        later.tables[0].counted.as_mut().unwrap().table_full += 60;
        later.tables[0].forecast = None;
        later.tables[0].entries = later.tables[0].entries.map(|n| n + 20);
        history.enter(history.received().unwrap() + Duration::from_secs(2), later);
        let view = view(&history, example::HOST).unwrap();
        assert_eq!((view.growth, view.refused.1), (Some(10.0), Some(30.0)));
        assert_eq!(row(&view, "shop/web-0").refused, (Some(1250), Some(25.0)));
        assert_eq!(row(&view, "host").refused, (Some(0), Some(0.0)));
    }

    #[test]
    fn unknown_is_not_zero() {
        let mut document = example::document();
        document.owner_losses.clear();
        let table = &mut document.tables[0];
        (table.counted, table.owners, table.limit) = (None, None, Some(0));
        let history = of(document.clone());
        let unknown = view(&history, example::HOST).unwrap();
        assert!(unknown.rows.is_empty() && unknown.owners_from.is_none() && unknown.limit.is_none());
        document.tables[0].owners = example::document().tables[0].owners.clone();
        let dump = view(&of(document), example::HOST).unwrap();
        assert_eq!(row(&dump, "host").refused, (None, None));
        assert_eq!(row(&dump, "host").of_limit, None);
    }

    #[test]
    fn another_namespaces_losses_are_not_this_ones() {
        let mut document = example::document();
        document.owner_losses.push(Losses {
            table: "pod".into(),
            owner: pod("web-0"),
            drops: 7,
            evictions: 0,
        });
        let own = view(&of(document.clone()), example::POD).unwrap();
        assert_eq!((own.name.as_str(), row(&own, "shop/web-0").refused.0), ("shop/web-0", Some(7)));
        document.tables.iter_mut().find(|t| t.netns == example::POD).unwrap().owner = pod("web-1");
        let other = view(&of(document), example::POD).unwrap();
        assert!(other.rows.iter().all(|row| row.refused.0 == Some(0)), "{other:?}");
    }

    #[test]
    fn the_hosts_table_is_first_and_then_the_fullest() {
        let mut document = example::document();
        document.tables.reverse();
        assert_eq!(order(&document), [example::HOST, example::POD, example::OTHER]);
    }
}

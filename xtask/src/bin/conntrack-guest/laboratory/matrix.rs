//! The daemon's word against the truth.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::case::{Case, Kind, UDP};
use super::told::{Counted, Told, counted_as};
use crate::lab::attempt::Fate;

/// Bounds.
const RECALL: f64 = 0.99;
const PRECISION: f64 = 0.999;
const RIGHT_POD: f64 = 0.999;
const NOTHING: &str = "-";
/// Mistakes of a kind that are shown.
const SHOWN: usize = 2;

/// The comparison.
#[derive(Debug, Default)]
pub(super) struct Matrix {
    cells: BTreeMap<String, BTreeMap<String, u64>>,
    /// What sockets said, by row.
    sockets: BTreeMap<String, BTreeMap<String, u64>>,
    /// Cases that the table hurt; of those told with confidence, and by counters only.
    hurt: u64,
    found: u64,
    counted_only: u64,
    /// What was blamed on the table, and rightly.
    blamed: u64,
    rightly: u64,
    right_pod: u64,
    /// Came to something else than they were begun as.
    otherwise: u64,
    /// Events that the limiter held back, by the events themselves.
    suppressed: u64,
    /// Pods' counters, and those of them that are as the truth.
    counters: u64,
    counters_right: u64,
    /// By what they are.
    mistakes: BTreeMap<String, Vec<String>>,
}

impl Matrix {
    /// Compares; `truths` are cases with what came of them.
    pub(super) fn new(truths: &[(Case, Option<&'static str>)], told: &[Told], counters: &Counted) -> Self {
        let mut matrix =
            Self { suppressed: told.iter().map(|told| told.suppressed).sum(), ..Self::default() };
        let mut by_end = HashMap::<(u8, SocketAddr), Vec<usize>>::new();
        for (index, (case, _)) in truths.iter().enumerate() {
            by_end.entry((case.proto, case.from)).or_default().push(index);
        }
        let mut said = vec![Vec::<&Told>::new(); truths.len()];
        for told in told {
            matrix.blamed += 1;
            let of = |end| by_end.get(&(told.proto, end));
            let Some(indices) = of(told.from).or_else(|| of(told.to)).or_else(|| of(told.maker?)) else {
                matrix.cell("of no case", &told.what);
                matrix.mistake(format!("of no case, told as {}", told.what), told.event.to_string());
                continue;
            };
            // A tuple that is used again has two cases: each effect is the one's that has it and was not told of yet.
            let fits = |index: &&usize| truths[**index].1 == Some(&told.what) && said[**index].is_empty();
            let index = indices.iter().find(fits).or_else(|| indices.last()).copied().unwrap_or_default();
            said[index].push(told);
        }
        let mut missed = Counted::new();
        for ((case, truth), said) in truths.iter().zip(&said) {
            matrix.judge(case, *truth, said, &mut missed);
        }
        matrix.hold_against(truths, told, counters, &missed);
        matrix
    }

    fn judge(&mut self, case: &Case, truth: Option<&'static str>, said: &[&Told], missed: &mut Counted) {
        let row = row(case.kind, truth);
        let said_by_socket = socket(case);
        *self.sockets.entry(row.clone()).or_default().entry(said_by_socket).or_default() += 1;
        self.otherwise += u64::from(!case.kind.is_control() && truth != Some(case.kind.name()));
        self.hurt += u64::from(truth.is_some());
        if said.is_empty() {
            self.cell(&row, NOTHING);
        }
        let mut is_found = false;
        for told in said {
            self.cell(&row, &told.what);
            if truth != Some(&told.what) || is_found {
                self.mistake(format!("{row}, told as {}", told.what), format!("{case:?}: {}", told.event));
                continue;
            }
            self.rightly += 1;
            if !told.is_sure {
                continue;
            }
            is_found = true;
            self.found += 1;
            if told.pod == case.pod {
                self.right_pod += 1;
            } else {
                self.mistake(format!("{row} is another pod's"), format!("{case:?}: {}", told.event));
            }
        }
        if let Some(truth) = truth
            && !is_found
        {
            *missed.entry((case.pod.clone(), counted_as(truth))).or_default() += 1;
            self.mistake(format!("{row} not told"), format!("{case:?}"));
        }
    }

    /// The counters count what the limiter holds back.
    fn hold_against(
        &mut self,
        truths: &[(Case, Option<&'static str>)],
        told: &[Told],
        counters: &Counted,
        missed: &Counted,
    ) {
        let mut events = Counted::new();
        for told in told {
            *events.entry((told.pod.clone(), counted_as(&told.what))).or_default() += 1;
        }
        for (key, missed) in missed {
            let beyond = counters.get(key).unwrap_or(&0).saturating_sub(*events.get(key).unwrap_or(&0));
            self.counted_only += beyond.min(*missed);
        }
        let mut wanted = Counted::new();
        for (case, truth) in truths {
            if let Some(truth) = truth {
                *wanted.entry((case.pod.clone(), counted_as(truth))).or_default() += 1;
            }
        }
        let blamed =
            counters.iter().filter(|((_, what), count)| !what.starts_with("unrelated") && **count > 0);
        let keys: std::collections::BTreeSet<_> = wanted.keys().chain(blamed.map(|(key, _)| key)).collect();
        for key in keys {
            let (truth, count) = (wanted.get(key).unwrap_or(&0), counters.get(key).unwrap_or(&0));
            self.counters += 1;
            if truth == count {
                self.counters_right += 1;
            } else {
                let what = format!("{key:?} says {count}, the truth is {truth}");
                self.mistakes.entry("a counter".to_owned()).or_default().push(what);
            }
        }
    }

    fn cell(&mut self, row: &str, column: &str) {
        *self.cells.entry(row.to_owned()).or_default().entry(column.to_owned()).or_default() += 1;
    }

    fn mistake(&mut self, what: String, of: String) {
        self.mistakes.entry(what).or_default().push(of);
    }

    /// Of what the table hurt, the part that was told.
    fn recall(&self) -> f64 {
        part(self.found + self.counted_only, self.hurt)
    }

    /// Of what was blamed on the table, the part that was its doing, and so.
    fn precision(&self) -> f64 {
        part(self.rightly, self.blamed)
    }

    fn pods(&self) -> f64 {
        part(self.right_pod, self.found)
    }

    /// Is it within the bounds?
    pub(super) fn is_good(&self) -> bool {
        self.hurt > 0
            && self.recall() >= RECALL
            && holds(self.rightly, self.blamed, PRECISION)
            && holds(self.right_pod, self.found, RIGHT_POD)
    }

    /// Is nothing told as sure; and, if refusals are inferred, anything rightly? How much of it is so the printout tells.
    pub(super) fn is_inferred(&self, infers: bool) -> bool {
        self.found == 0 && if infers { self.rightly > 0 } else { self.blamed == 0 }
    }

    /// The table, and the figures.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("truth -> told (- is nothing, or unrelated)\n");
        for (row, cells) in &self.cells {
            let all: u64 = cells.values().sum();
            let list = |counts: &BTreeMap<String, u64>| {
                let counts = counts.iter().map(|(what, count)| format!("{what}: {count}"));
                counts.collect::<Vec<_>>().join(", ")
            };
            let sockets = self.sockets.get(row).map(list).unwrap_or_default();
            _ = writeln!(text, "{row:<56} {all:>5} -> {} ({sockets})", list(cells));
        }
        _ = writeln!(
            text,
            "figure: lab: true {}, told {} and by counters only {}, recall {:.5}; blamed {}, rightly {}, precision {:.5}; \
             right pod {} of {}, {:.5}",
            self.hurt,
            self.found,
            self.counted_only,
            self.recall(),
            self.blamed,
            self.rightly,
            self.precision(),
            self.right_pod,
            self.found,
            self.pods()
        );
        _ = writeln!(
            text,
            "figure: lab: came to something else than begun as {}; events held back {}; pods' counters as the truth {} of {}",
            self.otherwise, self.suppressed, self.counters_right, self.counters
        );
        for (what, of) in &self.mistakes {
            _ = writeln!(text, "mistake: {what}: {}", of.len());
            for of in of.iter().take(SHOWN) {
                _ = writeln!(text, "    {of}");
            }
        }
        text
    }
}

/// What a case's socket said.
fn socket(case: &Case) -> String {
    match case.said.fate {
        _ if case.proto == UDP => "sent".to_owned(),
        Fate::Connected => "connected".to_owned(),
        Fate::UnderWay => "given up".to_owned(),
        Fate::Failed(libc::ECONNREFUSED) => "ECONNREFUSED".to_owned(),
        Fate::Failed(libc::ECONNRESET) => "ECONNRESET".to_owned(),
        Fate::Failed(libc::ETIMEDOUT) => "ETIMEDOUT".to_owned(),
        Fate::Failed(error) => format!("error {error}"),
    }
}

fn row(kind: Kind, truth: Option<&'static str>) -> String {
    match truth {
        Some(truth) => truth.to_owned(),
        None if kind.is_control() => format!("control: {}", kind.name()),
        None => format!("nothing came of: {}", kind.name()),
    }
}

/// Does the part keep to the bound? One mistake of a few hundred is no sign that it does not.
fn holds(some: u64, all: u64, bound: f64) -> bool {
    all - some <= 1 || part(some, all) >= bound
}

fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 1.0 } else { some as f64 / all as f64 }
}

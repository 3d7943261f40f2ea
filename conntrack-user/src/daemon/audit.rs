//! Shows the probes the entries that are there, and puts the books right where they have drifted.

use std::sync::Arc;
use std::time::Instant;

use super::{Daemon, lock};
use crate::aggregate::audit::{Audits, Step};
use crate::aggregate::snapshot::{Repairs, Snapshot};
use crate::drain::netns::{self, Namespace};
use crate::drain::netns_enter::in_namespace;
use crate::drain::places::Places;
use crate::drain::whole_dump;

/// How often the tables are dumped again because another program's dump was in the way.
const ATTEMPTS: usize = 3;

/// The places of entries, and when they are audited.
pub(super) struct Audit {
    places: Arc<Places>,
    audits: Audits,
    /// Before 5.12 nothing can be swept out, and what is off stays so, and is seen.
    sweeps: bool,
    swept: u64,
    /// What was repaired before the audit that is under way.
    before: Repairs,
}

impl Audit {
    pub(super) fn new(places: Places, sweeps: bool) -> Self {
        let audits = Audits::default();
        Self { places: Arc::new(places), audits, sweeps, swept: 0, before: Repairs::default() }
    }

    pub(super) fn repairs(&self) -> Repairs {
        Repairs { audits: self.audits.done(), adopted: self.places.adopted(), swept: self.swept }
    }
}

impl Daemon {
    /// Shows the probes every entry there is.
    pub(super) fn adopt(&self, namespaces: &[Namespace]) {
        let places = lock(&self.audit).as_ref().map(|audit| audit.places.clone());
        if let Some(places) = places {
            show(&places, namespaces);
        }
    }

    /// Compares the books with the tables entry by entry, once they have drifted.
    pub(super) fn audit(&self, snapshot: &Snapshot) {
        let Some((step, places)) = self.next_step(snapshot) else { return };
        if step == Step::Begin {
            places.suspect();
        }
        let Ok(scan) = netns::scan_namespaces(&self.system.procfs) else { return };
        let all_shown = show(&places, &scan.namespaces);
        if step == Step::Begin {
            return;
        }
        // Entries of a table that could not be dumped are not gone.
        let swept = if all_shown { places.sweep() } else { Vec::new() };
        if let Some(counters) = &self.counters {
            swept.iter().for_each(|swept| counters.add_free(*swept));
        }
        lock(&self.books).anew();
        let mut audit = lock(&self.audit);
        let Some(audit) = audit.as_mut() else { return };
        audit.swept += swept.len() as u64;
        audit.audits.finished();
        let adopted = audit.repairs().adopted - audit.before.adopted;
        self.log.warn(
            "the books had drifted from the kernel's count, for the kernel skipped runs of probes: they were \
             compared with the tables entry by entry, and put right",
            &[("adopted", adopted.into()), ("swept", (swept.len() as u64).into())],
        );
    }

    /// What is to be done now, if anything.
    fn next_step(&self, snapshot: &Snapshot) -> Option<(Step, Arc<Places>)> {
        let now = Instant::now();
        let mut audit = lock(&self.audit);
        let audit = audit.as_mut().filter(|audit| audit.sweeps)?;
        for table in &snapshot.tables {
            if let (Some(accounted), Some(entries)) = (table.accounted, table.entries) {
                audit.audits.enter(table.netns, accounted, entries, now);
            }
        }
        audit.audits.keep_only(|netns| snapshot.tables.iter().any(|table| table.netns == netns));
        let step = audit.audits.step(now);
        if step == Step::Begin {
            audit.before = audit.repairs();
        }
        (step != Step::None).then(|| (step, audit.places.clone()))
    }
}

/// Dumps the tables, so that each entry passes the probe `audit`. Whether all of them could be, of namespaces that are
/// there still.
fn show(places: &Places, namespaces: &[Namespace]) -> bool {
    let mut whole = true;
    for _ in 0..ATTEMPTS {
        let busy = places.busy();
        whole = namespaces.iter().filter(|namespace| !dump(namespace)).count() == 0;
        if places.busy() == busy {
            break;
        }
    }
    whole
}

fn dump(namespace: &Namespace) -> bool {
    let dump = || whole_dump::fold(None, || (), |(), _| ());
    match in_namespace(&namespace.path, namespace.inum, dump) {
        Ok(read) => read.is_ok(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

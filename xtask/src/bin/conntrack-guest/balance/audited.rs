//! Probes that miss what happens: the daemon notices, and puts its books right.
//!
//! All kprobes of the kernel are switched off for a while. Entries that go meanwhile are held by nobody any more, but
//! the books have them; those that come are held, but the books do not have them.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{LOG, must_balance};
use crate::daemon::{Daemon, value};
use crate::lab::books::labels;
use crate::lab::connect::plus;
use crate::lab::holdings::{Holdings, other, pod};
use crate::lab::kernel;
use crate::lab::node::{Node, VOIDS};
use crate::lab::workload::{Wiring, Workload};

/// After so many, each a page, the books are sure of what they began with, and take nothing for older than the probes.
const READINGS: usize = 10;
const SWITCH: &str = "/sys/kernel/debug/kprobes/enabled";
/// Of the first pod: entries, and those of them that are deleted unseen.
const FIRST: u64 = 1_000;
const UNSEEN_FREES: u64 = 400;
/// Of the second pod: entries that come unseen, and those of them whose end is seen.
const UNSEEN_ALLOCS: u64 = 300;
const SEEN_FREES: u64 = 100;

pub(crate) fn test() -> anyhow::Result<()> {
    let node = Node::build()?;
    kernel::set(&node.host, "udp_timeout", 3_600)?;
    let mut first = Workload::start(&node, Wiring::Bridged, 2, "first")?;
    let mut second = Workload::start(&node, Wiring::Bridged, 3, "second")?;
    let mut daemon = Daemon::start_by(LOG, "confirm", "kprobe")?;
    spray(&mut first, FIRST, UNSEEN_FREES)?;
    let held = must_balance(&mut daemon, &node.host, "host")?;
    ensure!(held.of(&pod("host", "first")).entries.cast_unsigned() == FIRST, "the first pod is not known");
    for _ in 0..READINGS {
        daemon.page()?;
    }

    switch(false)?;
    delete(&node, &first)?;
    spray(&mut second, UNSEEN_ALLOCS, SEEN_FREES)?;
    let count = kernel::count(&node.host)?;
    ensure!(count == FIRST - UNSEEN_FREES + UNSEEN_ALLOCS, "the kernel counts {count}");
    switch(true)?;
    delete(&node, &second)?;
    let off = Holdings::read(&daemon.page()?)?.sum("host") - kernel::count(&node.host)?.cast_signed();
    let unseen = UNSEEN_FREES.cast_signed() - UNSEEN_ALLOCS.cast_signed();
    println!("figure: audited: kprobes switched off for a while, the sum over owners is off by {off}");
    ensure!(off == unseen, "it should be off by {unseen}, or the switch switches nothing");

    if kernel::older_than(5, 12)? {
        // Nothing can be put right, but it is told.
        let series = format!("conntrack_accounting_drift_entries{}", labels(&node.host, None));
        let told = value(&daemon.page()?, &series);
        println!("figure: audited: before 5.12: the drift told is {told:?}");
        ensure!(told == Some(off.unsigned_abs() as f64), "the drift told is {told:?}");
        return daemon.stop();
    }
    let begun = Instant::now();
    let page =
        daemon.until("audited", |page| value(page, "conntrack_accounting_audits_total") == Some(1.0))?;
    println!("figure: audited: put right after {:.1} s", begun.elapsed().as_secs_f64());
    // `conntrack -D` lists the entries first, and so shows them too. Where one of the first pod's was, one of the
    // second may be now: adopted, and nothing is left to sweep.
    let repaired = ["adopted", "swept"]
        .map(|how| value(&page, &format!("conntrack_accounting_repaired_total{{how=\"{how}\"}}")));
    println!("figure: audited: adopted, swept: {repaired:?}");
    ensure!(repaired[0] == Some(UNSEEN_ALLOCS as f64), "not what came unseen: {repaired:?}");
    ensure!(repaired[1].is_some_and(|swept| swept > 0.0), "nothing was swept out");
    let held = must_balance(&mut daemon, &node.host, "host")?;
    let holders = [pod("host", "first"), pod("host", "second"), other("unknown")];
    let entries = holders.map(|holder| held.of(&holder).entries);
    println!("figure: audited: held by the first pod, the second, nobody known: {entries:?}");
    let wanted = [FIRST - UNSEEN_FREES, UNSEEN_ALLOCS - SEEN_FREES, 0].map(u64::cast_signed);
    ensure!(entries == wanted, "they hold {entries:?}, not {wanted:?}");

    // And from here on all is seen again, the adopted entries' ends too.
    kernel::empty(&node.host)?;
    let held = must_balance(&mut daemon, &node.host, "host")?;
    let left: Vec<_> = held.0.iter().filter(|(_, held)| held.entries != 0 || held.answers != 0).collect();
    ensure!(left.is_empty(), "the table is empty, but not the books: {left:?}");
    daemon.stop()
}

/// Makes so many entries, some of which are to be deleted: those to the second address.
fn spray(workload: &mut Workload, all: u64, to_go: u64) -> anyhow::Result<()> {
    workload.process.ask(&format!("spray - {} 0 {}", VOIDS[0], all - to_go))?;
    workload.process.ask(&format!("spray - {} 0 {to_go}", plus(VOIDS[0], 1)))?;
    Ok(())
}

/// Deletes those.
fn delete(node: &Node, workload: &Workload) -> anyhow::Result<()> {
    let [from, to] = [workload.addresses[0], plus(VOIDS[0], 1)].map(|address| address.to_string());
    node.host.output("conntrack", &["-D", "-f", "ipv4", "-s", &from, "-d", &to])?;
    Ok(())
}

/// Switches every kprobe of the kernel off or on.
fn switch(on: bool) -> anyhow::Result<()> {
    std::fs::write(SWITCH, if on { "1" } else { "0" }).with_context(|| format!("cannot write {SWITCH}"))
}

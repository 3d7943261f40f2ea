//! In the fastest churn that the guest makes, by pods, a service and the outside at once.

use std::time::Instant;

use anyhow::ensure;

use super::{LOG, must_balance};
use crate::daemon::Daemon;
use crate::lab::books::{figure, tell_missed_runs};
use crate::lab::holdings::{Holdings, pod};
use crate::lab::kernel;
use crate::lab::nft;
use crate::lab::node::{NODE_PORT, NODES, Node, PORT, SERVICES, STRANGERS};
use crate::lab::process::Process;
use crate::lab::workload::{Wiring, Workload};
use crate::options::size_or;

/// The table is flushed between so many samples, so that the count swings from nothing to the limit.
const FLUSH_EVERY: u64 = 20;
const LIMIT: u64 = 4_096;
const TRACKED: &str =
    "table inet tracked { chain in { type filter hook input priority 0; ct state new counter; }; }";

/// How far off the sum over owners was.
#[derive(Debug, Default)]
struct Worst {
    /// Against the count that the daemon read for the same page, and that count.
    on_page: (u64, i64),
    /// Against the count that this test read after it had the page.
    read_later: (u64, i64),
    /// Least and greatest count seen.
    range: Option<(i64, i64)>,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let mut node = Node::build()?;
    let mut bridged = Workload::start(&node, Wiring::Bridged, 2, "bridged")?;
    let mut routed = Workload::start(&node, Wiring::Routed, 3, "routed")?;
    nft::load(&routed.process.netns, TRACKED)?;
    node.serve(bridged.addresses)?;
    let mut service = Process::on_the_node("/system.slice/backup.service")?;
    kernel::set_size(LIMIT, Some(1_024))?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let before = daemon.page()?;
    bridged.process.ask(&format!("churn udp - {}", socket(STRANGERS[0], PORT)))?;
    routed.process.ask(&format!("churn udp - {}", socket(STRANGERS[1], PORT)))?;
    service.ask(&format!("churn tcp - {}", socket(SERVICES[0], PORT)))?;
    node.outside.ask(&format!("churn tcp {} {}", STRANGERS[1], socket(NODES[1], NODE_PORT)))?;
    let started = Instant::now();
    let samples = size_or(120);
    let worst = sample(&mut daemon, &node, samples)?;
    for process in [&mut bridged.process, &mut routed.process, &mut service, &mut node.outside] {
        process.ask("stop")?;
    }
    let took = started.elapsed().as_secs_f64();
    let page = daemon.page()?;
    let inserts = figure(&page, &node.host, "conntrack_inserts_total", None)?
        - figure(&before, &node.host, "conntrack_inserts_total", None)?;
    println!(
        "figure: balance: {samples} samples during {inserts} inserts ({:.0}/s), counts {:?}: worst off by {} of {}; \
         against the count read after the page by {} of {}",
        inserts as f64 / took,
        worst.range,
        worst.on_page.0,
        worst.on_page.1,
        worst.read_later.0,
        worst.read_later.1
    );
    ensure!(inserts > 4_000, "only {inserts} inserts: no churn");
    ensure!(worst.range.is_some_and(|(least, most)| most - least > 500), "the count hardly changed");
    bridged.process.close()?;
    let held = must_balance(&mut daemon, &node.host, "host")?;
    must_balance(&mut daemon, &routed.process.netns, "pod")?;
    ensure!(held.of(&pod("host", "bridged")).inserts > 100, "the bridged pod made nothing: {:#?}", held.0);
    let by_owner: i64 =
        held.0.iter().filter(|(holder, _)| holder.contains("\"host\"")).map(|(_, held)| held.inserts).sum();
    let page = daemon.page()?;
    let all = figure(&page, &node.host, "conntrack_inserts_total", None)?;
    ensure!(by_owner == all, "inserts by owner {by_owner}, all {all}");
    emptied(&mut daemon, &node)?;
    tell_missed_runs(&page);
    daemon.stop()
}

/// Takes the samples; fails at the first that is off too far.
fn sample(daemon: &mut Daemon, node: &Node, samples: u64) -> anyhow::Result<Worst> {
    let mut worst = Worst::default();
    for sample in 1..=samples {
        let page = daemon.page()?;
        let later = kernel::count(&node.host)?.cast_signed();
        let entries = figure(&page, &node.host, "conntrack_entries", None)?;
        let held = Holdings::read(&page)?;
        let sum = held.sum("host");
        let off = sum.abs_diff(entries);
        worst.on_page = worst.on_page.max((off, entries));
        worst.read_later = worst.read_later.max((sum.abs_diff(later), later));
        let (least, most) = worst.range.unwrap_or((entries, entries));
        worst.range = Some((least.min(entries), most.max(entries)));
        let allowed = (entries.unsigned_abs() / 100).max(64);
        ensure!(
            off <= allowed,
            "sample {sample}: the owners hold {sum}, the kernel counts {entries}: {:#?}",
            held.0
        );
        if sample % FLUSH_EVERY == 0 {
            node.host.output("conntrack", &["-F"])?;
        }
    }
    Ok(worst)
}

/// Nobody holds anything of an empty table.
fn emptied(daemon: &mut Daemon, node: &Node) -> anyhow::Result<()> {
    kernel::empty(&node.host)?;
    let held = must_balance(daemon, &node.host, "host")?;
    let left: Vec<_> = held.0.iter().filter(|(holder, held)| in_host(holder) && held.entries != 0).collect();
    ensure!(left.is_empty(), "the table is empty, but these hold entries: {left:?}");
    let left: Vec<_> = held.0.iter().filter(|(holder, held)| in_host(holder) && held.answers != 0).collect();
    ensure!(left.is_empty(), "the table is empty, but these answer entries: {left:?}");
    Ok(())
}

fn in_host(holder: &str) -> bool {
    holder.starts_with("{table=\"host\"")
}

fn socket(address: std::net::IpAddr, port: u16) -> std::net::SocketAddr {
    (address, port).into()
}

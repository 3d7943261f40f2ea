//! Killed and started again with a full table: who held what is known again, by the addresses of the entries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{LOG, must_balance};
use crate::daemon::Daemon;
use crate::lab::books::tell_missed_runs;
use crate::lab::entries;
use crate::lab::holdings::{Holdings, cgroup, other, pod};
use crate::lab::kernel;
use crate::lab::node::{NODES, Node, PORT, STRANGERS, VOIDS};
use crate::lab::process::Process;
use crate::lab::workload::{Wiring, Workload};
use crate::options::size_or;

const UNIT: &str = "/system.slice/backup.service";

/// Who fills the table.
struct Fillers {
    bridged: Workload,
    routed: Workload,
    service: Process,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let size = size_or(100_000);
    let mut node = Node::build()?;
    let mut fillers = Fillers {
        bridged: Workload::start(&node, Wiring::Bridged, 2, "bridged")?,
        routed: Workload::start(&node, Wiring::Routed, 3, "routed")?,
        service: Process::on_the_node(UNIT)?,
    };
    kernel::set_size(262_144, Some(65_536))?;
    kernel::set(&node.host, "udp_timeout", 3_600)?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    fill(&mut node, &mut fillers, size)?;
    let counted = must_balance(&mut daemon, &node.host, "host")?;
    by_address(&node, &fillers, &counted)?;
    let unit = counted.of(&cgroup(UNIT)).entries.cast_unsigned();
    ensure!(unit == size / 10, "the service holds {unit}, it made {}", size / 10);

    // SIGKILL. While nobody watches, entries come and go.
    drop(daemon);
    let gone = node.host.output("conntrack", &["-D", "-f", "ipv6", "-p", "udp", "--dport", "10007"])?;
    ensure!(!gone.is_empty(), "nothing was deleted");
    fillers.bridged.process.ask(&format!("spray - {} 200000 500", VOIDS[0]))?;
    let started = Instant::now();
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let took = started.elapsed();
    let held = must_balance(&mut daemon, &node.host, "host")?;
    by_address(&node, &fillers, &held)?;
    println!(
        "figure: restart: killed and started with {} entries, ready again in {:.1} s, memory {:.1} MiB",
        kernel::count(&node.host)?,
        took.as_secs_f64(),
        super::passing::memory(&daemon.page()?)?
    );
    deleted(&mut daemon, &node, &fillers)?;

    // The same while a pod goes on making entries: those that came while the probes were attached are its too.
    drop(daemon);
    fillers
        .routed
        .process
        .ask(&format!("churn udp - {}", std::net::SocketAddr::from((STRANGERS[0], PORT))))?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let [made, _] = stopped_after(&mut fillers.routed.process, Duration::from_secs(2))?;
    let held = must_balance(&mut daemon, &node.host, "host")?;
    let unknown = held.of(&other("unknown")).entries;
    println!("figure: restart: of {made} entries made meanwhile {unknown} are nobody's known");
    ensure!(made > 0 && unknown == 0, "of {made} entries, {unknown} are nobody's known");
    by_address(&node, &fillers, &held)?;
    kernel::empty(&node.host)?;
    let held = must_balance(&mut daemon, &node.host, "host")?;
    let left: Vec<_> = held.0.iter().filter(|(_, held)| held.entries != 0 || held.answers != 0).collect();
    ensure!(left.is_empty(), "the table is empty, but not the books: {left:?}");
    tell_missed_runs(&daemon.page()?);
    daemon.stop()
}

/// 45 % a bridged pod's, 25 % a routed pod's, 20 % the outside's, 10 % a service's.
fn fill(node: &mut Node, fillers: &mut Fillers, size: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    fillers.bridged.process.tell(&format!("spray - {} 0 {}", VOIDS[0], size * 45 / 100))?;
    fillers.routed.process.tell(&format!("spray - {} 0 {}", VOIDS[1], size * 25 / 100))?;
    // Two thirds to the node itself, the rest to a pod.
    let (to_node, to_pod) = (size * 15 / 100, size * 5 / 100);
    node.outside.tell(&format!("spray {} {} 0 {to_node}", STRANGERS[0], NODES[0]))?;
    fillers.service.tell(&format!("spray - {} 100000 {}", VOIDS[0], size / 10))?;
    fillers.bridged.process.hear()?;
    fillers.routed.process.hear()?;
    node.outside.hear()?;
    fillers.service.hear()?;
    let pod = fillers.routed.addresses[0];
    node.outside.ask(&format!("spray {} {pod} 0 {to_pod}", STRANGERS[0]))?;
    println!("figure: restart: {size} entries made in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Each owner holds, and answers, what the kernel lists with its address.
fn by_address(node: &Node, fillers: &Fillers, held: &Holdings) -> anyhow::Result<()> {
    let mut of = BTreeMap::<IpAddr, i64>::new();
    let mut answers = 0;
    for ends in entries::list(&node.host)? {
        *of.entry(ends.from).or_default() += 1;
        answers += i64::from(fillers.routed.addresses.contains(&ends.answering));
    }
    let listed = |addresses: &[IpAddr]| -> i64 {
        addresses.iter().map(|address| of.get(address).copied().unwrap_or(0)).sum()
    };
    let node_held = held.of(&other("host")).entries + held.of(&cgroup(UNIT)).entries;
    let rows = [
        ("bridged pod", listed(&fillers.bridged.addresses), held.of(&pod("host", "bridged")).entries),
        ("routed pod", listed(&fillers.routed.addresses), held.of(&pod("host", "routed")).entries),
        ("outside", listed(&STRANGERS), held.of(&other("external")).entries),
        ("the node and its service", listed(&NODES), node_held),
        ("answered by the routed pod", answers, held.of(&pod("host", "routed")).answers),
    ];
    println!("figure: restart: (owner, listed by the kernel, held) {rows:?}");
    // One pod's are deleted halfway.
    ensure!(rows.iter().filter(|row| row.1 > 0).count() >= 4, "few have entries: this shows nothing");
    for (who, listed, held) in rows {
        ensure!(listed == held, "{who}: the kernel lists {listed}, held {held}");
    }
    Ok(())
}

/// Entries older than the daemon leave the account of who held them.
fn deleted(daemon: &mut Daemon, node: &Node, fillers: &Fillers) -> anyhow::Result<()> {
    let before = Holdings::read(&daemon.page()?)?;
    let source = fillers.bridged.addresses[0].to_string();
    node.host.output("conntrack", &["-D", "-f", "ipv4", "-s", &source])?;
    let after = must_balance(daemon, &node.host, "host")?;
    let (was, is) = (before.of(&pod("host", "bridged")).entries, after.of(&pod("host", "bridged")).entries);
    println!("figure: restart: conntrack -D -s of the bridged pod: it held {was}, then {is}");
    ensure!(was > 0 && is == 0, "the pod's entries are deleted, but it holds {is}");
    let others: Vec<_> =
        after.since(&before).0.into_keys().filter(|holder| *holder != pod("host", "bridged")).collect();
    ensure!(others.is_empty(), "others' figures changed too: {others:?}");
    Ok(())
}

/// What a process made until it was stopped after this time.
fn stopped_after(process: &mut Process, time: Duration) -> anyhow::Result<[u64; 2]> {
    std::thread::sleep(time);
    process.ask("stop")
}

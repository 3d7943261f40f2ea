//! 110 pods and 500 namespaces: how many series, how long a scrape, how much memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::balance::passing::memory;
use crate::daemon::{Daemon, get, value};
use crate::lab::books::tell_missed_runs;
use crate::lab::entries;
use crate::lab::holdings::{Holdings, pod};
use crate::lab::kernel;
use crate::lab::netns::Netns;
use crate::lab::nft;
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::workload::{Wiring, Workload};
use crate::options::size_or;

const LOG: &str = "/tmp/conntrack-pressure.log";
const PODS: u64 = 110;
/// Namespaces in all, the host's and the pods' among them, unless told otherwise.
const NAMESPACES: u64 = 500;
/// Of the namespaces without a pod, those that have a table with entries.
const WITH_TABLE: u64 = 50;
/// Series a node may have by default.
const BUDGET: usize = 1_000;
const SCRAPES: u32 = 10;
const DEADLINE: Duration = Duration::from_secs(120);
const TRACKED: &str =
    "table inet tracked { chain out { type filter hook output priority 0; ct state new counter; }; }";

pub(crate) fn test() -> anyhow::Result<()> {
    let namespaces = size_or(NAMESPACES);
    let node = Node::build()?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    tell("at the start", &mut daemon)?;
    let mut pods = Vec::new();
    for number in 0..PODS {
        let wiring = if number % 2 == 0 { Wiring::Bridged } else { Wiring::Routed };
        pods.push(Workload::start(&node, wiring, 10 + number as u16, &format!("pod-{number}"))?);
    }
    // Beside the host's, the outside's and the pods'.
    let others = namespaces.saturating_sub(PODS + 2);
    let other = |number: u64| -> anyhow::Result<Netns> {
        let netns = Netns::create(&format!("other{number}"))?;
        if number < WITH_TABLE {
            nft::load(&netns, TRACKED)?;
            netns.run(|| loopback(3))?;
        }
        Ok(netns)
    };
    let others = (0..others).map(other).collect::<anyhow::Result<Vec<_>>>()?;
    owned(&mut daemon, &node, &mut pods)?;
    let series = tell(&format!("{PODS} pods, {namespaces} namespaces"), &mut daemon)?;
    ensure!(series <= BUDGET, "{series} series");
    sums(&mut daemon, &node, &others)?;

    // And each pod with a table of its own, as a mesh makes it.
    for pod in &mut pods {
        nft::load(&pod.process.netns, TRACKED)?;
        pod.process.udp(None, (STRANGERS[0], PORT).into(), 2)?;
    }
    let held = Holdings::read(&daemon.page()?)?;
    let counts = pods.iter().map(|pod| kernel::count(&pod.process.netns)).sum::<anyhow::Result<u64>>()?;
    ensure!(held.sum("pod") == counts.cast_signed(), "pods' tables: {counts}, by owner {}", held.sum("pod"));
    let series = tell("and each pod with a table of its own", &mut daemon)?;
    ensure!(series <= BUDGET, "{series} series");
    sums(&mut daemon, &node, &others)?;
    tell_missed_runs(&daemon.page()?);
    daemon.stop()
}

/// Every pod makes connections until those that it has just made are its own, and holds what the kernel lists.
fn owned(daemon: &mut Daemon, node: &Node, pods: &mut [Workload]) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        node.host.output("conntrack", &["-F"])?;
        for pod in &mut *pods {
            for stranger in STRANGERS {
                pod.process.udp(None, (stranger, PORT).into(), 2)?;
            }
        }
        let held = Holdings::read(&daemon.page()?)?;
        let mut listed = BTreeMap::<_, i64>::new();
        for ends in entries::list(&node.host)? {
            *listed.entry(ends.from).or_default() += 1;
        }
        let wrong = pods.iter().enumerate().find_map(|(number, workload)| {
            let kernel: i64 = workload.addresses.iter().filter_map(|address| listed.get(address)).sum();
            let held = held.of(&pod("host", &format!("pod-{number}"))).entries;
            (kernel != held || kernel != 4).then(|| format!("pod-{number}: listed {kernel}, held {held}"))
        });
        let Some(wrong) = wrong else { return Ok(()) };
        if Instant::now() > deadline {
            let overflow = crate::balance::overflows(&daemon.page()?).collect::<Vec<_>>().join(" ");
            anyhow::bail!("{wrong} after {} s; {overflow}", DEADLINE.as_secs());
        }
    }
}

/// Σ owners of the host's table, and of all the other namespaces'.
fn sums(daemon: &mut Daemon, node: &Node, others: &[Netns]) -> anyhow::Result<()> {
    let count = kernel::count(&node.host)?;
    let elsewhere = others.iter().map(kernel::count).sum::<anyhow::Result<u64>>()?;
    let held = Holdings::read(&daemon.page()?)?;
    let sums = [held.sum("host"), held.sum("netns")];
    println!(
        "figure: many: nf_conntrack_count of the host {count}, of others {elsewhere}; summed over owners {sums:?}"
    );
    ensure!(sums == [count, elsewhere].map(u64::cast_signed), "the sums differ");
    Ok(())
}

/// Prints what a scrape costs; returns how many series it has, those of this program as a process left out.
fn tell(when: &str, daemon: &mut Daemon) -> anyhow::Result<usize> {
    let mut page = daemon.page()?;
    let mut times = Vec::new();
    for _ in 0..SCRAPES {
        let started = Instant::now();
        page = get("/metrics")?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let samples = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut by_name = BTreeMap::<&str, usize>::new();
    for sample in samples {
        *by_name.entry(sample.split(['{', ' ']).next().context("no name")?).or_default() += 1;
    }
    let series: usize = by_name.values().sum();
    let mut most: Vec<_> = by_name.into_iter().collect();
    most.sort_unstable_by_key(|(_, number)| std::cmp::Reverse(*number));
    println!(
        "figure: many: {when}: series {series}, page {} KiB, scrape p50 {:.0} ms, max {:.0} ms, memory {:.1} MiB, open \
         files {:?}; most {:?}",
        page.len() >> 10,
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3,
        memory(&page)?,
        value(&page, "process_open_fds"),
        &most[..6.min(most.len())]
    );
    Ok(series)
}

/// Entries of one's own loopback.
fn loopback(count: u16) -> anyhow::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    for port in 1..=count {
        socket.send_to(b"x", ("127.0.0.1", port)).or_else(refused_port)?;
    }
    Ok(())
}

/// That an earlier packet found nobody is no matter.
fn refused_port(error: std::io::Error) -> anyhow::Result<usize> {
    ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
    Ok(0)
}

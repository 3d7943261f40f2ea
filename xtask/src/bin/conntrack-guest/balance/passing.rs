//! Pods come and go, more than there ever are at once: the books stay right and the daemon's memory flat.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{DEADLINE, LOG, must_balance, overflows};
use crate::daemon::{Daemon, value};
use crate::lab::books::tell_missed_runs;
use crate::lab::kernel;
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::workload::{Wiring, Workload};
use crate::options::size_or;

/// So many at a time.
const AT_ONCE: usize = 20;
/// More of its own memory than this, in MiB, between the first tenth and the end is a leak: of a thousand pods that is 4 KiB
/// each, of two hundred what the allocator may take at once for another thread.
const FLAT: f64 = 4.0;

pub(crate) fn test() -> anyhow::Result<()> {
    let pods = size_or(200);
    let node = Node::build()?;
    kernel::set(&node.host, "udp_timeout", 3)?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let mut alive = VecDeque::new();
    let mut memories = vec![own_memory(&daemon)?];
    let started = Instant::now();
    for number in 0..pods {
        let wiring = if number % 2 == 0 { Wiring::Bridged } else { Wiring::Routed };
        // Addresses come round, as a network plugin hands them out.
        let (id, address) = (10 + number as u16, 10 + (number % 60) as u16);
        let mut pod = Workload::start_at(&node, wiring, id, address, &format!("passer-{number}"))?;
        for stranger in STRANGERS {
            pod.process.udp(None, (stranger, PORT).into(), 2)?;
        }
        alive.push_back(pod);
        if alive.len() > AT_ONCE {
            alive.pop_front();
        }
        if (number + 1) % (pods / 10).max(1) == 0 {
            memories.push(own_memory(&daemon)?);
        }
    }
    let took = started.elapsed().as_secs_f64();
    must_balance(&mut daemon, &node.host, "host")?;
    alive.clear();
    let deadline = Instant::now() + DEADLINE;
    while kernel::count(&node.host)? > 0 {
        ensure!(Instant::now() < deadline, "entries of three seconds are still there");
        // Dumps reap what has expired.
        node.host.output("conntrack", &["-L"])?;
    }
    let held = must_balance(&mut daemon, &node.host, "host")?;
    let left: Vec<_> = held.0.iter().filter(|(_, held)| held.entries != 0 || held.answers != 0).collect();
    ensure!(left.is_empty(), "the table is empty, but not the books: {left:?}");
    let page = daemon.page()?;
    memories.push(own_memory(&daemon)?);
    println!(
        "figure: passing: {pods} pods came and went in {took:.0} s, {AT_ONCE} at a time; the daemon's own memory at \
         the start, after each tenth and at the end, MiB: {memories:.1?}; with shared maps {:.1}; owners with series {}",
        memory(&page)?,
        held.0.len()
    );
    let (tenth, end) = (memories[1], memories[memories.len() - 1]);
    ensure!(end - tenth <= FLAT, "the daemon grew from {tenth:.1} to {end:.1} MiB");
    let overflow = overflows(&page).next();
    ensure!(overflow.is_none(), "the books overflowed: {overflow:?}");
    tell_missed_runs(&page);
    daemon.stop()
}

/// The daemon's own memory (`RssAnon`) in MiB: pages of the maps it shares with the kernel come in as they are touched.
fn own_memory(daemon: &Daemon) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: f64 = line.trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// The daemon's memory in MiB, shared maps included.
///
/// # Errors
/// When the page does not tell.
pub(crate) fn memory(page: &str) -> anyhow::Result<f64> {
    let bytes = value(page, "process_resident_memory_bytes").context("no process_resident_memory_bytes")?;
    Ok(bytes / f64::from(1 << 20))
}

//! From the moment that an outcome is certain to its line: connections that a full table refused are given up, one by one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::lab::attempt::Attempt;
use crate::lab::books::figure;
use crate::lab::kernel;
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::workload::{Wiring, Workload};
use crate::subject::Subject;

/// Connections that fill the table.
const GREEDY: u64 = 100;
/// Attempts, fewer than a source may have events in a second, so that none is held back.
const ATTEMPTS: usize = 300;
/// Between two that are given up.
const TICK: Duration = Duration::from_millis(20);
/// In which time 99 of 100 are to be told.
const SOON: Duration = Duration::from_millis(100);

pub(crate) fn test() -> anyhow::Result<()> {
    let node = Node::build()?;
    let mut greedy = Workload::start(&node, Wiring::Bridged, 2, "greedy")?;
    let victim = Workload::start(&node, Wiring::Routed, 3, "victim")?;
    let mut daemon = Subject::attached(&[], "confirm")?;
    greedy.process.tcp(None, (STRANGERS[0], PORT).into(), GREEDY)?;
    let full = kernel::count(&node.host)?;
    kernel::set_size(full, None)?;
    daemon.page("the daemon's round after the table is full", |page| {
        figure(page, &node.host, "conntrack_entries", None).is_ok_and(|entries| entries == full.cast_signed())
    })?;
    let attempts = victim.process.netns.run(|| {
        let begin = |n| Attempt::begin(SocketAddr::new(STRANGERS[n % 2], PORT), None);
        (0..ATTEMPTS).map(begin).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let given_up = victim.process.netns.run(|| give_up(attempts))?;

    let lines =
        daemon.lines("a line for each", ATTEMPTS, |line| line.contains("\"event\":\"connect_timeout\""))?;
    let mut delays = Vec::new();
    for (port, at) in given_up {
        let of = |line: &str| {
            let event: Option<Value> = serde_json::from_str(line).ok();
            event.is_some_and(|event| event["sport"] == port && event["cause"] == "table_full")
        };
        let line = lines.iter().find(|line| of(&line.text));
        let line = line.with_context(|| format!("no event of the attempt from port {port}"))?;
        delays.push(line.at.saturating_duration_since(at));
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
    println!(
        "figure: soon: {ATTEMPTS} attempts given up, from before the close to the line read: p50 {:.1} ms, p99 {:.1} ms, max \
         {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    ensure!(at(0.99) <= SOON.as_secs_f64() * 1e3, "the 99th percentile is over {} ms", SOON.as_millis());
    ensure!(daemon.end(rustix::process::Signal::TERM)?.success(), "the daemon did not end well");
    Ok(())
}

/// Closes them one after the other; from which port each was, and when.
fn give_up(attempts: Vec<Attempt>) -> anyhow::Result<Vec<(u16, Instant)>> {
    let begun = Instant::now();
    let mut given_up = Vec::new();
    for (n, attempt) in (1_u32..).zip(attempts) {
        let stream = attempt.into_stream();
        given_up.push((stream.local_addr()?.port(), Instant::now()));
        drop(stream);
        std::thread::sleep((begun + TICK * n).saturating_duration_since(Instant::now()));
    }
    Ok(given_up)
}

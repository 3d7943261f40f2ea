//! Resets by the thousand that no table has a part in: with room in it, and while another pod holds it full, so that
//! entries of the very same tuples are refused and evicted all the time. Next to none may be blamed on the table.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::lab::attempt::{Attempt, Fate, fates};
use crate::lab::books::tell_missed_runs;
use crate::lab::connect::udp_from;
use crate::lab::kernel::{self, Statistics};
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::workload::{NAMESPACE, Wiring, Workload};
use crate::options::size_or;

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Established connections that fill the table but for a few entries, for which datagrams compete.
const GREEDY: u64 = 900;
const SPARE: u64 = 64;
/// So few buckets that an entry that is not established is found, and evicted, about as often as not.
const BUCKETS: u64 = 512;
/// Datagrams in a row, and the pause after them.
const BURST: (u16, Duration) = (16, Duration::from_millis(2));
/// Attempts at a time.
const BATCH: usize = 100;
/// How long one may take: one that was refused an entry is given up after it.
const PATIENCE: Duration = Duration::from_millis(200);
/// All of one phase.
const DEADLINE: Duration = Duration::from_secs(400);
/// Ports that nobody listens on.
const CLOSED: std::ops::Range<u16> = 1_000..2_000;

pub(crate) fn test() -> anyhow::Result<()> {
    let wanted = size_or(20_000);
    let node = Node::build()?;
    kernel::set(&node.host, "tcp_timeout_close", 1)?;
    let mut greedy = Workload::start(&node, Wiring::Bridged, 2, "greedy")?;
    let client = Workload::start(&node, Wiring::Routed, 3, "client")?;
    let mut daemon = Daemon::start(LOG, "confirm")?;

    let made = client.process.netns.run(|| resets(wanted))?;
    let page = daemon.until("every reset to be counted", |page| unrelated(page) >= made as f64)?;
    println!(
        "figure: ordinary: with room {made} resets by their sockets; unrelated {}, blamed {}",
        unrelated(&page),
        blamed(&page)
    );
    ensure!(unrelated(&page) == made as f64, "{made} resets, unrelated {}", unrelated(&page));
    ensure!(blamed(&page) == 0.0, "blamed {}", blamed(&page));

    node.host.output("conntrack", &["-F"])?;
    greedy.process.tcp(None, (STRANGERS[0], PORT).into(), GREEDY)?;
    let limit = kernel::count(&node.host)? + SPARE;
    kernel::set_size(limit, Some(BUCKETS))?;
    let before = Statistics::read(&node.host)?;
    let stop = AtomicBool::new(false);
    let more = std::thread::scope(|scope| {
        let flood = scope.spawn(|| greedy.process.netns.run(|| compete(&stop)));
        let more = client.process.netns.run(|| resets(wanted));
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        more
    })?;
    let pressure = Statistics::read(&node.host)?.since(&before);
    let (refused, evicted) = (pressure.of("drop")?, pressure.of("early_drop")?);
    let all = (made + more) as f64;
    let page = daemon.until("every reset to be counted", |page| unrelated(page) + blamed(page) >= all)?;
    println!(
        "figure: ordinary: while the table is full {more} resets by their sockets, {refused} packets refused, {evicted} \
         entries evicted; blamed {}",
        blamed(&page)
    );
    let log = std::fs::read_to_string(LOG)?;
    let blamed_events =
        log.lines().filter(|line| line.contains("\"event\":\"reset\"") && line.contains("\"rule\""));
    blamed_events.take(5).for_each(|line| println!("figure: ordinary: blamed: {line}"));
    ensure!(refused > more / 20 && evicted > more / 20, "the table was not full: {refused}, {evicted}");
    ensure!(blamed(&page) <= more as f64 / 1_000.0, "blamed {} of {more}", blamed(&page));
    tell_missed_runs(&page);
    daemon.stop()
}

/// Datagrams, each of a flow of its own, that nobody answers.
fn compete(stop: &AtomicBool) -> anyhow::Result<()> {
    let socket = udp_from(None, (STRANGERS[0], 1).into())?;
    let mut ports = (3_000..u16::MAX).cycle();
    while !stop.load(Ordering::Relaxed) {
        for port in ports.by_ref().take(BURST.0.into()) {
            socket.send_to(b"x", (STRANGERS[0], port))?;
        }
        std::thread::sleep(BURST.1);
    }
    Ok(())
}

/// Attempts at ports that nobody listens on, until so many were reset; how many were, by their sockets.
fn resets(wanted: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + DEADLINE;
    let mut ports = CLOSED.cycle();
    let mut reset = 0;
    while reset < wanted {
        ensure!(Instant::now() < deadline, "only {reset} of {wanted} attempts were reset");
        let attempts = (0..BATCH).map(|n| {
            let port = ports.next().unwrap_or(CLOSED.start);
            Attempt::begin(SocketAddr::new(STRANGERS[n % 2], port), None)
        });
        let attempts = attempts.collect::<anyhow::Result<Vec<_>>>()?;
        let fates = fates(&attempts, PATIENCE)?;
        reset += fates.iter().filter(|fate| **fate == Fate::Failed(libc::ECONNREFUSED)).count() as u64;
    }
    Ok(reset)
}

/// The client's resets that match no token.
fn unrelated(page: &str) -> f64 {
    let of = format!("namespace=\"{NAMESPACE}\",pod=\"client\"");
    resets_that(page, |labels| labels.contains(&of) && labels.contains("cause=\"unrelated\""))
}

/// Anybody's that are blamed on a table.
fn blamed(page: &str) -> f64 {
    resets_that(page, |labels| !labels.contains("cause=\"unrelated\""))
}

fn resets_that(page: &str, is: impl Fn(&str) -> bool) -> f64 {
    let series = page.lines().filter_map(|line| line.strip_prefix("conntrack_tcp_resets_total"));
    series
        .filter(|line| is(line))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>()
        + 0.0
}

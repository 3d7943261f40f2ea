//! What a full table does to a pod's connections, each by what its own socket saw; and what looks alike and is not
//! the table's doing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::daemon::{DEADLINE, Daemon, value};
use crate::lab::attempt::{self, Attempt, Fate, fates};
use crate::lab::books::{figure, tell_missed_runs};
use crate::lab::connect;
use crate::lab::kernel::{self, Statistics};
use crate::lab::node::{Node, PORT, STRANGERS, VOIDS};
use crate::lab::workload::{NAMESPACE, Wiring, Workload};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Connections that fill the table.
const GREEDY: u64 = 200;
/// Cases of each kind.
const CASES: usize = 12;
const GREEDY_PORT: u16 = 8080;
const CLOSED_PORT: u16 = 81;
const DNS: u16 = 53;
/// How long an application waits.
const PATIENCE: Duration = Duration::from_millis(2_500);

pub(crate) fn test() -> anyhow::Result<()> {
    let mut node = Node::build()?;
    // Of its own, or masquerade could give an open connection, when its entry is made anew, another port.
    node.outside.listen(GREEDY_PORT)?;
    let mut greedy = Workload::start(&node, Wiring::Bridged, 2, "greedy")?;
    let victim = Workload::start(&node, Wiring::Routed, 3, "victim")?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let pod = &victim.process.netns;
    let open = pod.run(|| established(CASES))?;
    let controls = pod.run(unrelated)?;
    // The open connections lose their entries, and what the controls left goes too: all that the table holds then is
    // established, so nothing can be evicted.
    node.host.output("conntrack", &["-F"])?;
    greedy.process.tcp(None, (STRANGERS[0], GREEDY_PORT).into(), GREEDY)?;
    let full = kernel::count(&node.host)?;
    kernel::set_size(full, None)?;
    daemon.until("the daemon's round after the table is full", |page| {
        figure(page, &node.host, "conntrack_entries", None).is_ok_and(|entries| entries == full.cast_signed())
    })?;
    let before = Statistics::read(&node.host)?;
    let begun = pod.run(|| Begun::new(&open))?;
    let by_kernel = fates(&begun.by_kernel, DEADLINE)?;
    let timed_out = by_kernel.iter().filter(|fate| **fate == Fate::Failed(libc::ETIMEDOUT)).count();
    ensure!(timed_out == CASES, "of those with few retries {timed_out} timed out: {by_kernel:?}");
    let waiting = begun.late.iter().filter(|late| matches!(late.fate(), Ok(Fate::UnderWay))).count();
    ensure!(waiting == CASES, "{waiting} of {CASES} wait for the table to have room");
    let refused = Statistics::read(&node.host)?.since(&before).of("drop")?;
    kernel::set_size(4 * GREEDY, None)?;
    let late = fates(&begun.late, DEADLINE)?;
    let connected = late.iter().filter(|fate| **fate == Fate::Connected).count();
    ensure!(connected == CASES, "{connected} of {CASES} came about when there was room: {late:?}");
    // The server has what was sent on the open connections: they did stall, and go on.
    let heard = delivered(&open)?;
    ensure!(heard == CASES, "{heard} of {CASES} open connections go on");
    println!(
        "figure: broken: by their sockets: {timed_out} timed out, {} were given up, {connected} were late, {heard} stalled, \
         {} datagrams, {} lookups; the kernel dropped {refused} packets",
        begun.given_up, begun.datagrams, begun.lookups
    );

    let wanted = BTreeMap::from([
        (("tcp_connect_timeouts", "table_full"), 2 * CASES),
        (("tcp_slow_connects", "table_full"), CASES),
        (("tcp_stalls", "table_full"), CASES),
        (("udp_refused", "table_full"), CASES),
        (("dns_stalls", "table_full"), CASES),
        (("tcp_connect_timeouts", "unrelated"), controls.given_up),
        (("tcp_resets", "unrelated"), controls.reset),
    ]);
    let mut last = BTreeMap::new();
    let page = daemon.until("every outcome to be told", |page| {
        last = counted(page);
        wanted.iter().all(|(key, wanted)| last.get(key).is_some_and(|now| now >= wanted))
    });
    println!("figure: broken: the daemon's word on the victim: {last:?}");
    let page = page?;
    ensure!(counted(&page) == wanted, "told {:?}, wanted {wanted:?}", counted(&page));
    tell_missed_runs(&page);
    daemon.stop()?;
    told(&wanted)
}

/// What is begun while the table is full.
struct Begun {
    by_kernel: Vec<Attempt>,
    late: Vec<Attempt>,
    given_up: usize,
    datagrams: usize,
    lookups: usize,
}

impl Begun {
    fn new(open: &[TcpStream]) -> anyhow::Result<Self> {
        let to = |n: usize, port| SocketAddr::new(STRANGERS[n % 2], port);
        let attempts = |retries| {
            (0..CASES).map(|n| Attempt::begin(to(n, PORT), retries)).collect::<anyhow::Result<Vec<_>>>()
        };
        let (by_kernel, by_application, late) = (attempts(Some(1))?, attempts(None)?, attempts(None)?);
        for stream in open {
            ensure!(rustix::net::send(stream, b"x", rustix::net::SendFlags::empty())? == 1, "not sent");
        }
        let send = |port: u16| -> anyhow::Result<usize> {
            for n in 0..CASES {
                connect::udp_from(None, to(n, port))?.send_to(b"x", to(n, port))?;
            }
            Ok(CASES)
        };
        let (datagrams, lookups) = (send(PORT)?, send(DNS)?);
        let given_up = fates(&by_application, PATIENCE)?.into_iter().filter(|f| *f == Fate::UnderWay).count();
        ensure!(given_up == CASES, "{given_up} of {CASES} were given up");
        drop(by_application);
        Ok(Self { by_kernel, late, given_up, datagrams, lookups })
    }
}

/// What the table has no part in.
struct Controls {
    given_up: usize,
    reset: usize,
}

/// While there is room: an address that swallows all, given up; and a port that nobody listens on.
fn unrelated() -> anyhow::Result<Controls> {
    let swallowed = (0..CASES).map(|n| Attempt::begin(SocketAddr::new(VOIDS[n % 2], PORT), None));
    let swallowed = swallowed.collect::<anyhow::Result<Vec<_>>>()?;
    let given_up = fates(&swallowed, PATIENCE)?.into_iter().filter(|fate| *fate == Fate::UnderWay).count();
    let closed = (0..CASES).map(|n| Attempt::begin(SocketAddr::new(STRANGERS[n % 2], CLOSED_PORT), None));
    let closed = fates(&closed.collect::<anyhow::Result<Vec<_>>>()?, DEADLINE)?;
    let reset = closed.iter().filter(|fate| **fate == Fate::Failed(libc::ECONNREFUSED)).count();
    ensure!((given_up, reset) == (CASES, CASES), "swallowed {given_up}, reset {reset}: {closed:?}");
    Ok(Controls { given_up, reset })
}

fn established(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    (0..count).map(|n| connect::tcp_from(None, SocketAddr::new(STRANGERS[n % 2], PORT))).collect()
}

/// How many of these have had all that they sent acknowledged.
fn delivered(open: &[TcpStream]) -> anyhow::Result<usize> {
    let until = Instant::now() + DEADLINE;
    loop {
        let mut all = 0;
        for stream in open {
            all += usize::from(attempt::unacknowledged(stream)? == 0);
        }
        if all == open.len() || Instant::now() > until {
            return Ok(all);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the daemon counts of the victim: (metric, cause) → connections, whatever the confidence.
fn counted(page: &str) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for metric in
        ["tcp_resets", "tcp_connect_timeouts", "tcp_slow_connects", "tcp_stalls", "udp_refused", "dns_stalls"]
    {
        for (cause, confidence) in [
            ("table_full", "exact"),
            ("table_full", "inferred"),
            ("unrelated", "inferred"),
            ("evicted", "exact"),
            ("evicted", "window"),
            ("race", "exact"),
        ] {
            let series = format!(
                "conntrack_{metric}_total{{owner=\"pod\",namespace=\"{NAMESPACE}\",pod=\"victim\",cgroup=\"\",cause=\"{cause}\",confidence=\"{confidence}\"}}"
            );
            if let Some(count) = value(page, &series) {
                *counts.entry((metric, cause)).or_insert(0) += count as usize;
            }
        }
    }
    counts
}

/// Each has an event that names victim, culprit and rule.
fn told(wanted: &BTreeMap<(&str, &str), usize>) -> anyhow::Result<()> {
    let log = std::fs::read_to_string(LOG)?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for ((metric, cause), wanted) in wanted.iter().filter(|((_, cause), _)| *cause != "unrelated") {
        let (effect, proto) = match *metric {
            "tcp_connect_timeouts" => ("connect_timeout", "tcp"),
            "tcp_slow_connects" => ("slow_connect", "tcp"),
            "tcp_stalls" => ("stall", "tcp"),
            "udp_refused" => ("udp_refused", "udp"),
            _ => ("stall", "udp"),
        };
        let of = |e: &&Value| {
            e["effect"] == effect && e["proto"] == proto && e["cause"] == *cause && e["pod"] == "victim"
        };
        let found: Vec<_> = events.iter().filter(of).collect();
        ensure!(
            found.len() == *wanted,
            "{} events of {effect} by {proto}, wanted {wanted}:\n{log}",
            found.len()
        );
        for event in &found {
            ensure!(event["culprit"]["pod"] == "greedy", "the culprit is not greedy: {event}");
            ensure!(event["rule"].is_string() && event["confidence"] == "exact", "not proved: {event}");
        }
        println!("figure: broken: {effect} by {proto}: {}", found.first().context("none")?);
    }
    let by = |who: &str| events.iter().filter(|event| event["by"] == who).count();
    ensure!(
        (by("kernel"), by("application")) == (CASES, CASES),
        "by: {} {}",
        by("kernel"),
        by("application")
    );
    Ok(())
}

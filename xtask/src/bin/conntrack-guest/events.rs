//! Refusals become log events: each at a modest rate, fairly in a flood, and soon.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::daemon::{DEADLINE, get};
use crate::lab::kernel::kernel_drops;
use crate::refusals::{HOST, prepare};
use crate::subject::{Line, Subject, count};

/// Of the modest sender: 50 refusals a second.
const TICK: Duration = Duration::from_millis(20);
const MODEST: usize = 400;
/// Senders that come into the flood, one after the other.
const LATE_COMERS: u8 = 20;
const LATE_TICK: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_millis(100);
const FAIR: Duration = Duration::from_secs(1);

/// A refused send: who, and a moment before it.
struct Refused {
    source: (Ipv4Addr, u16),
    before: Instant,
}

pub(crate) fn test() -> anyhow::Result<()> {
    prepare()?;
    let dropped_before = kernel_drops()?;
    let mut daemon = Subject::attached(&[], "alloc")?;
    let modest = modest(&daemon)?;
    let in_flood = flood(&daemon)?;
    books(&mut daemon, dropped_before, modest as u64 + in_flood)?;
    let status = daemon.end(Signal::TERM)?;
    ensure!(status.success(), "conntrack-pressure ended with {status} on SIGTERM");
    Ok(())
}

/// 50 refusals a second: one line each, with the refused tuple, soon.
fn modest(daemon: &Subject) -> anyhow::Result<usize> {
    let before = kernel_drops()?;
    let mut refused: Vec<Refused> = Vec::new();
    for port in 10_000..60_000 {
        // Sends that find room, as all do at first, are not part of the rate.
        let Some(one) = send(Ipv4Addr::new(127, 0, 0, 10), port)? else { continue };
        refused.push(one);
        if refused.len() == MODEST {
            break;
        }
        let due = refused[0].before + TICK * u32::try_from(refused.len())?;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let took = refused.last().zip(refused.first()).map(|(l, f)| l.before - f.before).unwrap_or_default();
    ensure!(refused.len() == MODEST, "the table refused only {}", refused.len());
    let dropped = kernel_drops()? - before;
    let lines = daemon.lines("a line for each refusal", refused.len(), is_refused)?;
    let rate = refused.len() as f64 / took.as_secs_f64();
    println!(
        "figure: events at {rate:.0} refusals/s: EPERM {}, kernel drop {dropped}, log events {}",
        refused.len(),
        lines.len()
    );
    ensure!((45.0..=55.0).contains(&rate), "the sender did not keep its rate");
    ensure!(dropped == refused.len() as u64 && lines.len() == refused.len(), "the three counts differ");
    let mut delays = Vec::new();
    for one in &refused {
        let line = lines.iter().find(|line| source(line).is_ok_and(|source| source == one.source));
        let line = line.with_context(|| format!("no log event of the refusal of {:?}", one.source))?;
        delays.push(line.at.saturating_duration_since(one.before));
    }
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share).round() as usize];
    println!(
        "figure: events: from before the refused send to its line read from the daemon's output: p50 {:.1} ms, \
         p99 {:.1} ms, max {:.1} ms",
        ms(at(0.5)),
        ms(at(0.99)),
        ms(at(1.0))
    );
    ensure!(at(0.99) <= SOON, "the 99th percentile is over {} ms", SOON.as_millis());
    Ok(refused.len())
}

/// One source floods, others are refused once each: they are heard all the same.
fn flood(daemon: &Subject) -> anyhow::Result<u64> {
    let flooder = Ipv4Addr::new(127, 0, 0, 66);
    let stop = AtomicBool::new(false);
    let (flooded, late, took) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood_from(flooder, &stop));
        let started = Instant::now();
        let late = late_comers(daemon);
        stop.store(true, Ordering::Relaxed);
        let flooded = flood.join().map_err(|_| anyhow::anyhow!("the flooder panicked"))??;
        anyhow::Ok((flooded, late?, started.elapsed()))
    })?;
    let rate = flooded as f64 / took.as_secs_f64();
    println!(
        "figure: events in a flood of {rate:.0} refusals/s from one source: first refusal of {} other sources \
         logged within {:.1} ms at the latest",
        late.len(),
        late.iter().max().map_or(f64::NAN, |most| ms(*most))
    );
    ensure!(rate >= 1000.0, "that is no flood");
    ensure!(late.iter().all(|delay| *delay <= FAIR), "another source's first refusal came late: {late:?}");
    Ok(flooded + late.len() as u64)
}

/// Time from the refusal of each to its line.
fn late_comers(daemon: &Subject) -> anyhow::Result<Vec<Duration>> {
    let mut delays = Vec::new();
    let mut due = Instant::now();
    for number in 1..=LATE_COMERS {
        due += LATE_TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let address = Ipv4Addr::new(127, 0, 1, number);
        let deadline = Instant::now() + DEADLINE;
        let refused = (20_000..60_000)
            .take_while(|_| Instant::now() < deadline)
            .find_map(|port| send(address, port).transpose());
        let refused = refused.context("the full table lets everything in")??;
        let wanted = |line: &str| is_refused(line) && line.contains(&format!("\"src\":\"{address}\""));
        let lines = daemon
            .lines(&format!("the refusal of {address} to be logged"), 1, wanted)
            .with_context(|| what_it_knows().unwrap_or_default())?;
        ensure!(source(&lines[0])? == refused.source, "the line is of another flow: {}", lines[0].text);
        delays.push(lines[0].at.saturating_duration_since(refused.before));
    }
    Ok(delays)
}

/// What the daemon says of runs it missed and of refusals, for a failure to be understood.
fn what_it_knows() -> anyhow::Result<String> {
    let names =
        ["conntrack_probe_missed_total", "conntrack_refusal", "conntrack_table_full", "conntrack_counts"];
    let page = get("/metrics")?;
    let told = page.lines().filter(|line| names.iter().any(|name| line.starts_with(name)));
    Ok(told.chain([format!("kernel drop {}", kernel_drops()?).as_str()]).collect::<Vec<_>>().join("\n"))
}

/// Events + suppressed + lost = refusals, and each event is a line.
fn books(daemon: &mut Subject, dropped_before: u64, refused: u64) -> anyhow::Result<()> {
    let dropped = kernel_drops()? - dropped_before;
    let fate = |page: &str, outcome: &str| {
        let labels = HOST.replace('}', &format!(",outcome=\"{outcome}\"}}"));
        count(page, &format!("conntrack_refusal_events_total{labels}"))
    };
    let fates = |page: &str| -> anyhow::Result<[u64; 3]> {
        Ok([fate(page, "logged")?, fate(page, "suppressed")?, fate(page, "lost")?])
    };
    let page = daemon.page("the refusals to be counted", |page| {
        fates(page).is_ok_and(|fates| fates.iter().sum::<u64>() >= refused)
    })?;
    let [logged, suppressed, lost] = fates(&page)?;
    let unwritten = count(&page, "conntrack_log_events_lost_total")?;
    let lines = daemon.lines("each event's line", (logged - unwritten) as usize, is_refused)?;
    let held_back: u64 = lines.iter().map(|line| number(line, "suppressed")).sum::<anyhow::Result<u64>>()?;
    println!(
        "figure: events: EPERM {refused}, kernel drop {dropped} = logged {logged} + suppressed {suppressed} + lost \
         {lost}; lines {}, unwritten {unwritten}, suppressed as the lines say {held_back}",
        lines.len()
    );
    ensure!(dropped == refused, "the kernel's drop statistic differs from the refused sends");
    ensure!(logged + suppressed + lost == refused, "logged + suppressed + lost differ from refusals");
    ensure!(lines.len() as u64 + unwritten == logged, "lines and events differ");
    ensure!(suppressed > 0 && held_back > 0, "the flood was not limited: this run shows nothing");
    ensure!(held_back <= suppressed, "the lines speak of more than was suppressed");
    let tuples = lines.iter().map(destination).collect::<anyhow::Result<BTreeSet<_>>>()?;
    ensure!(tuples.len() == lines.len(), "a refusal was logged twice");
    Ok(())
}

/// One datagram from here; what is known of it if the table refused it.
fn send(address: Ipv4Addr, port: u16) -> anyhow::Result<Option<Refused>> {
    let socket = match UdpSocket::bind((address, port)) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let before = Instant::now();
    match socket.send_to(b"x", ("127.0.0.1", 9)) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Ok(Some(Refused { source: (address, port), before }))
        }
        Ok(_) | Err(_) => Ok(None),
    }
}

/// As many new flows as it can, until told to stop; the number refused.
fn flood_from(address: Ipv4Addr, stop: &AtomicBool) -> anyhow::Result<u64> {
    let socket = UdpSocket::bind((address, 0))?;
    let mut refused = 0;
    let mut targets = (1..=254_u8).flat_map(|host| (1..=u16::MAX).map(move |port| (host, port)));
    while !stop.load(Ordering::Relaxed) {
        let (host, port) = targets.next().context("the flood ran out of flows")?;
        match socket.send_to(b"x", (Ipv4Addr::new(127, 0, 2, host), port)) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused += 1,
            Ok(_) | Err(_) => {}
        }
    }
    Ok(refused)
}

fn is_refused(line: &str) -> bool {
    line.contains("\"event\":\"refused\"")
}

fn field(line: &Line, name: &str) -> anyhow::Result<serde_json::Value> {
    let object: serde_json::Value =
        serde_json::from_str(&line.text).with_context(|| format!("not JSON: {}", line.text))?;
    object.get(name).cloned().with_context(|| format!("no {name} in {}", line.text))
}

fn number(line: &Line, name: &str) -> anyhow::Result<u64> {
    field(line, name)?.as_u64().with_context(|| format!("{name} is no number in {}", line.text))
}

/// Where the refused flow came from.
fn source(line: &Line) -> anyhow::Result<(Ipv4Addr, u16)> {
    let src = field(line, "src")?;
    let address = src.as_str().context("src is no string")?.parse()?;
    Ok((address, u16::try_from(number(line, "sport")?)?))
}

/// The whole refused flow.
fn destination(line: &Line) -> anyhow::Result<((Ipv4Addr, u16), String, u64)> {
    Ok((source(line)?, field(line, "dst")?.to_string(), number(line, "dport")?))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

//! A proxy between many clients and a hundred backends behind a Service address, on a node whose table was halved: its new
//! connections are dropped, it gives them up after its own time, and closes the clients' without an answer, which is what
//! they know as `NoHttpResponseException`. The daemon names the proxy, and counts as many as the proxy itself does.

mod backends;
mod clients;
mod haproxy;

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use self::clients::Clients;
use self::haproxy::Haproxy;
use crate::daemon::{Daemon, value};
use crate::lab::books::{figure, tell_missed_runs};
use crate::lab::kernel::{self, Statistics};
use crate::lab::node::Node;
use crate::lab::workload::{NAMESPACE, Wiring, Workload};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Clients that hold a connection to the proxy each, and ask again and again.
const CLIENTS: usize = 300;
/// After a token's time was stamped, until its event was.
const SLACK: Duration = Duration::from_millis(50);

pub(crate) fn test() -> anyhow::Result<()> {
    let node = Node::build()?;
    let proxy = Workload::start(&node, Wiring::Routed, 3, "proxy")?;
    backends::start(&node)?;
    let haproxy = Haproxy::start(&proxy)?;
    let mut daemon = Daemon::start(LOG, "confirm")?;

    let mut clients = node.outside.netns.run(|| Clients::connect(proxy.addresses[0], CLIENTS))?;
    let answered = clients.ask().context("before anything happened")?;
    ensure!(answered.good == CLIENTS, "before anything happened: {answered:?}");
    let calm = haproxy.failed_connects()?;
    ensure!(calm == 0, "the proxy counts {calm} failed connects before the table is full");

    // What is left of the answered requests goes; the clients' connections are established, and fill the table.
    node.host.output("conntrack", &["-D", "-s", &proxy.addresses[0].to_string()])?;
    let full = kernel::count(&node.host)?;
    ensure!(full >= CLIENTS as u64, "the table holds {full} entries for {CLIENTS} clients");
    kernel::set_size(full, None)?;
    daemon.until("the daemon's round after the table is full", |page| {
        figure(page, &node.host, "conntrack_entries", None).is_ok_and(|entries| entries == full.cast_signed())
    })?;
    let before = Statistics::read(&node.host)?;
    let unanswered = clients.ask().context("while the table is full")?;
    ensure!(unanswered.none == CLIENTS, "the table is full, and yet: {unanswered:?}");
    let refused = Statistics::read(&node.host)?.since(&before).of("drop")?;
    let counted = haproxy.failed_connects()?;
    let raised = SystemTime::now();
    kernel::set_size(65_536, None)?;
    let mut clients = node.outside.netns.run(|| Clients::connect(proxy.addresses[0], CLIENTS))?;
    let answered = clients.ask().context("after the table was raised")?;
    ensure!(answered.good == CLIENTS, "after the table was raised: {answered:?}");
    let after = haproxy.failed_connects()?;
    ensure!(
        after == counted,
        "the proxy counts {after} failed connects, {counted} before the table was raised"
    );

    let page = daemon.until("the proxy's timeouts", |page| timeouts(page) >= counted as f64)?;
    println!(
        "figure: incident: {} requests had no answer; the kernel dropped {refused} packets; HAProxy counts {counted} failed \
         connects, the daemon {} of shop/proxy",
        unanswered.none,
        timeouts(&page)
    );
    ensure!(counted == CLIENTS as u64, "HAProxy counts {counted}");
    ensure!(timeouts(&page) == counted as f64, "the daemon counts {}", timeouts(&page));
    tell_missed_runs(&page);
    daemon.stop()?;
    told(raised)
}

/// Connections of the proxy that were given up because the table refused them, for certain.
fn timeouts(page: &str) -> f64 {
    let series = format!(
        "conntrack_tcp_connect_timeouts_total{{owner=\"pod\",namespace=\"{NAMESPACE}\",pod=\"proxy\",cgroup=\"\",\
         cause=\"table_full\",confidence=\"exact\"}}"
    );
    value(page, &series).unwrap_or(0.0)
}

/// The episode names the proxy; no verdict is by a token that is younger than the raise.
fn told(raised: SystemTime) -> anyhow::Result<()> {
    let log = std::fs::read_to_string(LOG)?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let episodes: Vec<_> =
        events.iter().filter(|e| e["event"] == "episode" && e["cause"] == "table_full").collect();
    for state in ["begun", "cut_off"] {
        let episode = episodes.iter().find(|episode| episode["state"] == state);
        let episode = episode.with_context(|| format!("no episode {state}: {episodes:?}"))?;
        println!("figure: incident: {episode}");
        ensure!(episode["victim"]["pod"] == "proxy", "the victim is another: {episode}");
        ensure!(
            episode["table"] == "host" && episode["culprit"]["entries"].as_u64() > Some(0),
            "not so: {episode}"
        );
    }
    let totals = &episodes.last().context("no episode")?["effects"]["connect_timeout"];
    ensure!(*totals == CLIENTS, "the totals tell {totals} timeouts");
    let mut verdicts = 0;
    for event in events.iter().filter(|event| !event["token"].is_null()) {
        verdicts += 1;
        let time = event["ts"].as_str().and_then(parse).with_context(|| format!("no time: {event}"))?;
        let age = Duration::from_millis(event["token"]["age_ms"].as_u64().context("no age")?);
        ensure!(time - age <= raised + SLACK, "a token younger than the raise at {raised:?}: {event}");
    }
    println!("figure: incident: {verdicts} verdicts, none by a token younger than the raise");
    ensure!(verdicts > 0, "no verdict");
    Ok(())
}

/// RFC 3339 in UTC, as the daemon prints it, by way of `date`.
fn parse(text: &str) -> Option<SystemTime> {
    let (whole, rest) = text.strip_suffix('Z')?.split_once('.')?;
    let seconds = crate::lab::command::output("date", &["-u", "-d", &whole.replace('T', " "), "+%s"]).ok()?;
    let micros: u64 = rest.parse().ok()?;
    Some(
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(seconds.trim().parse().ok()?)
            + Duration::from_micros(micros),
    )
}

//! A translated flow whose entry was evicted is reset, and is blamed on the eviction; ordinary resets are not.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::daemon::{DEADLINE, Daemon, attached_by};
use crate::lab::kernel::{self, Statistics};
use crate::lab::nft;
use crate::lab::router::{Lab, Placement, SERVER4, SERVERS};
use crate::lab::traffic::udp_flows;

const LOG: &str = "/tmp/conntrack-pressure.log";
/// The client's pure ACKs to this port are lost, so its entries stay in SYN_RECV, which early_drop may take.
const VICTIM_PORT: u16 = 443;
const LOST_ACKS: &str = "table inet loss { chain out { type filter hook output priority 0; \
    tcp dport 443 tcp flags & (syn | ack | fin | rst | psh) == ack drop; }; }";
const RESETS: &str = "table inet resets { counter from_server {}; counter from_client {}; chain forward { \
    type filter hook forward priority 0; \
    iifname \"server\" tcp flags & rst == rst counter name from_server; \
    iifname \"client\" tcp flags & rst == rst counter name from_client; }; }";
const VICTIMS: u16 = 12;
/// So many of them must lose their entry.
const ENOUGH: usize = 4;
const ORDINARY: u16 = 20;
const CLOSED_PORT: u16 = 81;
const OPEN_PORT: u16 = 80;

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    nft::load(&lab.client, LOST_ACKS)?;
    nft::load(&lab.router, RESETS)?;
    kernel::set_size(2_048, Some(512))?;
    let mut daemon = Daemon::start(LOG, "delete")?;
    let page = daemon.page()?;
    for probe in ["send_reset", "receive_reset"] {
        let by = attached_by(&page, probe).with_context(|| format!("{probe} is not attached"))?;
        println!("figure: {probe} attached by {by}");
    }

    let aborted = aborts(&lab)?;
    let refused = refused_ports(&lab)?;
    let (_listener, victims) = victims(&lab)?;
    let ports: BTreeSet<u16> = victims.iter().map(|(_, port)| *port).collect();
    let gone = evict(&lab, &ports)?;
    // The server sends its SYN-ACK again: without an entry it is the router's own, who knows of no connection.
    let expected = gone.len() as f64;
    let page =
        daemon.until("the resets of evicted flows to be blamed on that", |page| evicted(page) >= expected)?;
    aborts(&lab)?;
    refused_ports(&lab)?;
    let ordinary = nft::counters(&lab.router)?;
    let early_drop = Statistics::read(&lab.router)?.of("early_drop")?;
    let resets: Vec<_> = page.lines().filter(|l| l.starts_with("conntrack_tcp_resets_total{")).collect();
    println!(
        "figure: victims {}, of whose entries early_drop took {}; kernel early_drop {early_drop}, metrics {resets:?}",
        victims.len(),
        gone.len()
    );
    println!(
        "figure: ordinary: aborted {aborted} and refused {refused}, twice; resets forwarded {ordinary:?}"
    );
    ensure!(ordinary["from_server"] >= 2 * u64::from(ORDINARY), "the refused ports sent no resets");
    ensure!(ordinary["from_client"] >= 2 * u64::from(ORDINARY), "the aborts sent no resets");

    let page = daemon.page()?;
    ensure!(evicted(&page) == expected, "{} resets blamed, of {expected} evictions", evicted(&page));
    tokens(&gone)?;
    daemon.stop()
}

/// Floods the table with new flows until at least [`ENOUGH`] of the victims' entries are gone. The ports of those
/// that are: nothing but early_drop can have taken them.
fn evict(lab: &Lab, victims: &BTreeSet<u16>) -> anyhow::Result<BTreeSet<u16>> {
    ensure!(entries(lab)? == *victims, "not every victim has an entry");
    for round in 0..8 {
        for server in SERVERS {
            udp_flows(lab, server, 9, 20_000 + round * 3_000, 3_000)?;
        }
        let evicted: BTreeSet<u16> = victims - &entries(lab)?;
        if evicted.len() >= ENOUGH {
            return Ok(evicted);
        }
    }
    anyhow::bail!("early_drop leaves the victims alone: {:?}", entries(lab)?)
}

/// The client's ports of the entries for the victims' port.
fn entries(lab: &Lab) -> anyhow::Result<BTreeSet<u16>> {
    let port = VICTIM_PORT.to_string();
    let listing = lab.router.output("conntrack", &["-L", "-p", "tcp", "--dport", &port])?;
    let port =
        |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("sport="))?.parse().ok();
    Ok(listing.lines().filter_map(port).collect())
}

/// The sum of all resets blamed on evictions.
fn evicted(page: &str) -> f64 {
    let series = page
        .lines()
        .filter(|line| line.starts_with("conntrack_tcp_resets_total{") && line.contains("cause=\"evicted\""));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Every victim has an event that says so, with the token of its eviction; nobody else has.
fn tokens(victims: &BTreeSet<u16>) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let events = blamed(&std::fs::read_to_string(LOG)?)?;
        let ports: BTreeSet<u16> = events.iter().filter_map(|event| token_port(event, "sport")).collect();
        if ports.is_superset(victims) || Instant::now() > deadline {
            let sample = events.first().context("no event of a reset blamed on an eviction")?;
            println!("figure: events blamed {}, of flows {ports:?}; the first: {sample}", events.len());
            ensure!(ports == *victims, "blamed {ports:?}, but the victims were {victims:?}");
            for event in events {
                ensure!(token_port(&event, "dport") == Some(VICTIM_PORT), "another flow's token: {event}");
                ensure!(event["token"]["kind"] == "early_drop", "not evicted by early_drop: {event}");
                ensure!(event["token"]["nat"] == true, "the flow was translated: {event}");
                ensure!(event["token"]["age_ms"].as_u64().is_some(), "no age: {event}");
            }
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn token_port(event: &Value, name: &str) -> Option<u16> {
    event["token"][name].as_u64().and_then(|port| port.try_into().ok())
}

/// The events of resets that are blamed on an eviction.
fn blamed(log: &str) -> anyhow::Result<Vec<Value>> {
    let lines = log.lines().filter(|line| line.contains("\"event\":\"reset\""));
    let events: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(events.into_iter().filter(|event| event["cause"] == "evicted").collect())
}

/// Connections that are established for the client only, and the ports they come from.
fn victims(lab: &Lab) -> anyhow::Result<(TcpListener, Vec<(TcpStream, u16)>)> {
    let at = SocketAddr::new(SERVER4.into(), VICTIM_PORT);
    let listener = lab.server.run(|| Ok(TcpListener::bind(at)?))?;
    let victims = lab.client.run(|| {
        let connect = |_| {
            let stream = TcpStream::connect_timeout(&at, Duration::from_secs(10))?;
            let port = stream.local_addr()?.port();
            Ok((stream, port))
        };
        (0..VICTIMS).map(connect).collect::<anyhow::Result<Vec<_>>>()
    })?;
    Ok((listener, victims))
}

/// Connections that the client aborts: SO_LINGER 0 makes a close a reset.
fn aborts(lab: &Lab) -> anyhow::Result<u16> {
    let at = SocketAddr::new(SERVER4.into(), OPEN_PORT);
    let listener = lab.server.run(|| Ok(TcpListener::bind(at)?))?;
    lab.client.run(|| {
        for _ in 0..ORDINARY {
            let client = TcpStream::connect_timeout(&at, Duration::from_secs(10))?;
            let (_server, _) = listener.accept()?;
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            drop(client);
        }
        Ok(ORDINARY)
    })
}

/// Connects to a port that nobody listens on: the server resets each.
fn refused_ports(lab: &Lab) -> anyhow::Result<u16> {
    let at = SocketAddr::new(IpAddr::V4(SERVER4), CLOSED_PORT);
    lab.client.run(|| {
        let refused = |_: &u16| {
            TcpStream::connect_timeout(&at, Duration::from_secs(10))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        let refused = (0..ORDINARY).filter(refused).count();
        ensure!(refused == usize::from(ORDINARY), "only {refused} of {ORDINARY} connects were refused");
        Ok(ORDINARY)
    })
}

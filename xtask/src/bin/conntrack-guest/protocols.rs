//! N connections are N inserts, of every protocol, while the kernel's own `insert` statistic stays 0; what a rule
//! rejects is none.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::net::ipproto;

use crate::daemon::Daemon;
use crate::lab::books::{figure, no_missed_runs};
use crate::lab::kernel::{self, Statistics};
use crate::lab::nft;
use crate::lab::packet::{Raw, echo_request, sctp_init};
use crate::lab::router::{Lab, Placement, SERVERS};
use crate::lab::traffic::{hold_tcp, udp_flows};

const LOG: &str = "/tmp/conntrack-pressure.log";
const CONNECTIONS: u16 = 150;
const PORT: u16 = 80;
const REJECTED: u16 = 7777;
const REJECTS: &str = "table inet rules { counter rejected {}; chain forward { \
    type filter hook forward priority 0; \
    tcp dport 7777 counter name rejected reject with tcp reset; \
    meta l4proto { udp, sctp } th dport 7777 counter name rejected reject; }; }";
/// No entry may expire while it is counted; SCTP's default here is 3 s.
const TIMEOUTS: [&str; 4] = ["udp_timeout", "icmp_timeout", "icmpv6_timeout", "sctp_timeout_cookie_wait"];

/// A way to open connections from the client: how many were opened.
type Open = fn(&Lab, IpAddr) -> anyhow::Result<u64>;

const PROTOCOLS: [(&str, Open); 4] = [("TCP", tcp), ("UDP", udp), ("ICMP", icmp), ("SCTP", sctp)];

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    nft::load(&lab.router, REJECTS)?;
    for timeout in TIMEOUTS {
        kernel::set(&lab.router, timeout, 600)?;
    }
    let mut daemon = Daemon::start(LOG, "confirm")?;
    // The table is in the metrics from its first entry on.
    udp_flows(&lab, SERVERS[0], 9, 19_999, 1)?;
    for (name, open) in PROTOCOLS {
        for server in SERVERS {
            inserts(&lab, &mut daemon, name, server, open)?;
        }
    }
    rejected(&lab, &mut daemon)?;
    let statistics = Statistics::read(&lab.router)?;
    println!("figure: the kernel's insert statistic: {}", statistics.of("insert")?);
    ensure!(statistics.of("insert")? == 0, "the kernel counts inserts of its own: compare with it");
    for other in ["drop", "insert_failed", "early_drop"] {
        ensure!(statistics.of(other)? == 0, "{other} is {}", statistics.of(other)?);
    }
    let page = daemon.page()?;
    no_missed_runs(&page)?;
    let entries = figure(&page, &lab.router, "conntrack_entries", None)?;
    let accounted = figure(&page, &lab.router, "conntrack_accounted_entries", None)?;
    ensure!(
        accounted == entries && entries == kernel::count(&lab.router)?.cast_signed(),
        "{accounted} accounted"
    );
    daemon.stop()
}

/// Opens connections; inserts, and what `nf_conntrack_count` rises by, must be as many.
fn inserts(lab: &Lab, daemon: &mut Daemon, name: &str, server: IpAddr, open: Open) -> anyhow::Result<()> {
    let of = |page: &str| figure(page, &lab.router, "conntrack_inserts_total", None);
    let (before, count) = (of(&daemon.page()?)?, kernel::count(&lab.router)?);
    let opened = open(lab, server).with_context(|| format!("{name} to {server}"))?;
    let count = settled_count(lab, count + opened)? - count;
    let inserted = of(&daemon.page()?)? - before;
    let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
    println!(
        "figure: {name} {family}: connections {opened}, nf_conntrack_count +{count}, inserts {inserted}"
    );
    ensure!(opened == u64::from(CONNECTIONS) && count == opened, "the table did not take them all");
    ensure!(inserted.cast_unsigned() == opened, "{opened} connections are {inserted} inserts");
    Ok(())
}

/// `nf_conntrack_count` when it is as expected, or what it is after 5 s.
fn settled_count(lab: &Lab, expected: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let count = kernel::count(&lab.router)?;
        if count == expected || Instant::now() > deadline {
            return Ok(count);
        }
    }
}

fn tcp(lab: &Lab, server: IpAddr) -> anyhow::Result<u64> {
    Ok(hold_tcp(lab, server, PORT, CONNECTIONS.into())?.len() as u64)
}

fn udp(lab: &Lab, server: IpAddr) -> anyhow::Result<u64> {
    let _answers_nothing = lab.server.run(|| Ok(UdpSocket::bind((server, PORT))?))?;
    udp_flows(lab, server, PORT, 20_000, CONNECTIONS)
}

fn icmp(lab: &Lab, server: IpAddr) -> anyhow::Result<u64> {
    lab.client.run(|| {
        let raw = Raw::for_echo(server)?;
        (0..CONNECTIONS).try_for_each(|id| raw.send(&echo_request(server, 1_000 + id)).map(drop))?;
        Ok(CONNECTIONS.into())
    })
}

fn sctp(lab: &Lab, server: IpAddr) -> anyhow::Result<u64> {
    lab.client.run(|| {
        let raw = Raw::open(server, ipproto::SCTP)?;
        (0..CONNECTIONS).try_for_each(|number| raw.send(&sctp_init(20_000 + number, PORT)).map(drop))?;
        Ok(CONNECTIONS.into())
    })
}

/// Each rejected packet had an entry allocated, which went without being inserted.
fn rejected(lab: &Lab, daemon: &mut Daemon) -> anyhow::Result<()> {
    let of = |page: &str| figure(page, &lab.router, "conntrack_inserts_total", None);
    let (before, count) = (of(&daemon.page()?)?, kernel::count(&lab.router)?);
    for server in SERVERS {
        let _never_reached = lab.server.run(|| Ok(TcpListener::bind((server, REJECTED))?))?;
        udp_flows(lab, server, REJECTED, 21_000, CONNECTIONS)?;
        lab.client.run(|| {
            let raw = Raw::open(server, ipproto::SCTP)?;
            (0..CONNECTIONS).try_for_each(|n| raw.send(&sctp_init(22_000 + n, REJECTED)).map(drop))?;
            for _ in 0..CONNECTIONS {
                let at = SocketAddr::new(server, REJECTED);
                let refused = TcpStream::connect_timeout(&at, Duration::from_secs(10));
                ensure!(
                    refused.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused),
                    "no reset"
                );
            }
            Ok(())
        })?;
    }
    let rejected = nft::counters_at_rest(&lab.router)?["rejected"];
    let left = settled_count(lab, count)?.cast_signed() - count.cast_signed();
    let inserted = of(&daemon.page()?)? - before;
    println!("figure: packets rejected {rejected}, nf_conntrack_count +{left}, inserts {inserted}");
    ensure!(rejected == 6 * u64::from(CONNECTIONS), "{rejected} packets were rejected");
    ensure!(left == 0 && inserted == 0, "a rejected packet is no connection");
    Ok(())
}

//! An INVALID packet of a translated connection passes untranslated, and its receiver resets the connection
//! (kubernetes 74839): told with proof. Where the kernel is liberal nothing happens, and nothing is told. `doctor` says
//! which it is.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, ensure};
use rustix::net::ipproto;
use serde_json::Value;

use crate::daemon::{Daemon, attached_by, value};
use crate::lab::command::output;
use crate::lab::kernel::{self, Statistics};
use crate::lab::netns::Netns;
use crate::lab::node::{Node, PORT, SERVICES};
use crate::lab::packet::{Raw, segment};
use crate::lab::workload::{NAMESPACE, Wiring, Workload};
use crate::lab::{connect, nft, sequence};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Connections of each family.
const CASES: usize = 8;
/// So far ahead is outside of any window here.
const AHEAD: u32 = 100_000_000;
const ACK_PUSH: u8 = 0x18;
/// Resets that the client sends.
const RESETS: &str = "table inet resets { counter client {}; chain pre { type filter hook prerouting priority -300; \
    iifname \"cali3\" tcp flags & rst == rst counter name client; }; }";

/// Drops INVALID packets where they are forwarded.
const DROPS: &str =
    "table inet drops { chain forward { type filter hook forward priority 0; ct state invalid drop; }; }";

pub(crate) fn test() -> anyhow::Result<()> {
    let node = Node::build()?;
    let server = Workload::start(&node, Wiring::Bridged, 2, "server")?;
    let client = Workload::start(&node, Wiring::Routed, 3, "client")?;
    node.serve(server.addresses)?;
    nft::load(&node.host, RESETS)?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let by = attached_by(&daemon.page()?, "invalid").map(str::to_owned);
    ensure!(by.as_deref() == Some("kprobe"), "invalid is attached by {by:?}");

    doctor_says("not protected from resets by INVALID packets")?;
    let before = Statistics::read(&node.host)?;
    let open = client.process.netns.run(|| open(CASES))?;
    strike(&server.process.netns, &server, &open)?;
    let resets = nft::counters_at_rest(&node.host)?["client"];
    let invalid = Statistics::read(&node.host)?.since(&before).of("invalid")?;
    let all = 2 * CASES;
    ensure!(resets == all as u64, "the client sent {resets} resets in answer to {all} packets");
    let page = daemon.until("the resets to be told", |page| told(page) >= all as f64)?;
    println!(
        "figure: invalid: {all} packets out of window; the kernel found {invalid} INVALID, the client sent {resets} resets, \
         told {}",
        told(&page)
    );
    ensure!(told(&page) == all as f64, "told {}", told(&page));

    kernel::set(&node.host, "tcp_be_liberal", 1)?;
    doctor_says("protected from resets by INVALID packets: nf_conntrack_tcp_be_liberal is 1")?;
    let more = client.process.netns.run(|| self::open(CASES))?;
    strike(&server.process.netns, &server, &more)?;
    // A connection of the same ends, after all of that, that is reset for another reason: nothing is blamed for it.
    client.process.netns.run(|| abort(all))?;
    let resets = nft::counters_at_rest(&node.host)?["client"];
    ensure!(resets == 2 * all as u64, "of liberal conntrack and aborts came {resets} resets in all");
    // Who is reset counts them.
    let unrelated = |page: &str| value(page, &series("server", "unrelated", "inferred")).unwrap_or(0.0);
    let page = daemon.until("the aborts to be counted", |page| unrelated(page) >= all as f64)?;
    println!(
        "figure: invalid: when liberal: told {} in all; of {all} aborts unrelated {}",
        told(&page),
        unrelated(&page)
    );
    ensure!(
        (told(&page), unrelated(&page)) == (all as f64, all as f64),
        "told {} when nothing was INVALID, unrelated {}",
        told(&page),
        unrelated(&page)
    );
    daemon.stop()?;
    events(all)?;

    kernel::set(&node.host, "tcp_be_liberal", 0)?;
    nft::load(&node.host, DROPS)?;
    doctor_says("protected from resets by INVALID packets: a rule in `inet drops forward` drops them")?;
    let before = nft::counters_at_rest(&node.host)?["client"];
    let last = client.process.netns.run(|| self::open(CASES))?;
    strike(&server.process.netns, &server, &last)?;
    let resets = nft::counters_at_rest(&node.host)?["client"] - before;
    ensure!(resets == 0, "behind the rule that drops them came {resets} resets");
    Ok(())
}

/// Of the packets above, before any is sent.
fn doctor_says(wanted: &str) -> anyhow::Result<()> {
    let said = output("conntrack-pressure", &["doctor"])?;
    let line = said.lines().find(|line| line.starts_with("- invalid: ")).unwrap_or_default();
    ensure!(
        line.starts_with(&format!("- invalid: {wanted}")),
        "doctor says `{line}`, not `{wanted}`:\n{said}"
    );
    println!("figure: invalid: doctor: {}", line.trim());
    Ok(())
}

/// Connections to the Service, of both families.
fn open(count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let services =
        SERVICES.iter().flat_map(|service| (0..count).map(move |_| SocketAddr::new(*service, PORT)));
    services.map(|service| connect::tcp_from(None, service)).collect()
}

/// Sends, as the server, a packet out of window on each connection.
fn strike(netns: &Netns, server: &Workload, open: &[TcpStream]) -> anyhow::Result<()> {
    for stream in open {
        let client = stream.local_addr()?;
        let from = server.addresses[usize::from(client.is_ipv6())];
        let [sends, expects] = sequence::numbers(stream)?;
        netns.run(|| {
            let raw = Raw::open_from(Some(from), client.ip(), ipproto::TCP)?;
            let from = SocketAddr::new(from, PORT);
            raw.send(&segment(from, client, [expects.wrapping_add(AHEAD), sends], ACK_PUSH, b"xx"))?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections to the Service that the client aborts: SO_LINGER 0 makes a close a reset.
fn abort(count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        let stream = connect::tcp_from(None, SocketAddr::new(SERVICES[0], PORT))?;
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO))?;
    }
    Ok(())
}

fn series(pod: &str, cause: &str, confidence: &str) -> String {
    format!(
        "conntrack_tcp_resets_total{{owner=\"pod\",namespace=\"{NAMESPACE}\",pod=\"{pod}\",cgroup=\"\",cause=\"{cause}\",\
         confidence=\"{confidence}\"}}"
    )
}

/// Resets of the client that are blamed on INVALID packets, for certain.
fn told(page: &str) -> f64 {
    value(page, &series("client", "invalid", "exact")).unwrap_or(0.0)
}

fn events(count: usize) -> anyhow::Result<()> {
    let log = std::fs::read_to_string(LOG)?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let exact = |event: &&Value| event["cause"] == "invalid" && event["confidence"] == "exact";
    let found: Vec<_> = events.iter().filter(exact).collect();
    ensure!(found.len() == count, "{} events, wanted {count}:\n{log}", found.len());
    for event in &found {
        ensure!(event["pod"] == "client" && event["rule"] == "invalid_answered_by_reset", "not so: {event}");
        ensure!(event["token"]["kind"] == "invalid" && event["token"]["nat"] == true, "its token: {event}");
    }
    println!("figure: invalid: {}", found.first().context("no event")?);
    Ok(())
}

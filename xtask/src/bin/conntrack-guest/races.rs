//! Inserts that fail: lost races and too long chains are the kernel's `insert_failed`; a race that the kernel
//! resolves is none. And packets found INVALID.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, ensure};
use rustix::net::{Protocol, ipproto};

use crate::daemon::Daemon;
use crate::forwarded::at_rest;
use crate::lab::books::{figure, no_missed_runs};
use crate::lab::kernel::{self, Statistics};
use crate::lab::nft;
use crate::lab::packet::{Raw, echo_reply, tcp, udp};
use crate::lab::queue::Queue;
use crate::lab::router::{Lab, NEIGHBOURS, Placement, SERVER4, SERVERS};
use crate::lab::traffic::{client_for, udp_flows};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Packets to this port wait in a queue between the choice of a masqueraded port and the insert.
const RACE_PORT: u16 = 53;
/// Packets to this port wait before that choice.
const SAME_FLOW_PORT: u16 = 54;
const RULES: &str = "table inet rules { counter invalid {}; \
    chain seen { type filter hook prerouting priority -150; ct state invalid counter name invalid; }; \
    chain forward { type filter hook forward priority 0; udp dport 54 queue num 0; }; \
    chain late { type filter hook postrouting priority 200; \
        oifname \"server\" meta l4proto { tcp, udp } th dport 53 queue num 0; }; }";
/// The server stays silent: what it would answer would end the connections.
const SILENCE: &str = "table inet silence { chain in { type filter hook input priority 0; \
    meta l4proto { tcp, udp } th dport { 53, 54 } drop; }; }";
/// Pairs that race at once: all packets must fit in the queue's socket.
const PAIRS: u16 = 50;
const ROUNDS: u16 = 8;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const INVALID: u16 = 100;

/// What one part of the test did to the table, by the daemon and by the kernel.
#[derive(Debug)]
struct Rise {
    clash: i64,
    chain_too_long: i64,
    dying: i64,
    inserts: i64,
    invalid: i64,
    refused: i64,
    count: i64,
    kernel: Statistics,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    nft::load(&lab.router, RULES)?;
    nft::load(&lab.server, SILENCE)?;
    kernel::set(&lab.router, "udp_timeout", 600)?;
    let mut daemon = Daemon::start(LOG, "clash")?;
    udp_flows(&lab, SERVERS[0], 9, 19_999, 1)?;
    lost_races(&lab, &mut daemon)?;
    resolved_races(&lab, &mut daemon)?;
    long_chains(&lab, &mut daemon)?;
    invalid(&lab, &mut daemon)?;
    daemon.stop()
}

/// Two hosts behind the router connect to one server from the same port at once. Both are given the router's
/// address and that port, since neither entry is in the table yet; only one can be inserted.
fn lost_races(lab: &Lab, daemon: &mut Daemon) -> anyhow::Result<()> {
    let raced = u64::from(PAIRS * ROUNDS);
    for (name, protocol) in [("TCP", ipproto::TCP), ("UDP", ipproto::UDP)] {
        let rise = during(lab, daemon, || race(lab, protocol))?;
        let failed = rise.kernel.of("insert_failed")?;
        println!(
            "figure: {name} races for a port {raced}: the kernel's insert_failed {failed}, clash {}, inserts {}, \
             the kernel's drop {}",
            rise.clash,
            rise.inserts,
            rise.kernel.of("drop")?
        );
        ensure!(failed == raced, "{raced} races, but {failed} losers");
        ensure!(rise.inserts.cast_unsigned() == raced, "{} inserts by {raced} winners", rise.inserts);
        same_failures(&rise)?;
    }
    Ok(())
}

fn race(lab: &Lab, protocol: Protocol) -> anyhow::Result<()> {
    let queue = lab.router.run(Queue::open)?;
    lab.client.run(|| {
        for round in 0..ROUNDS {
            let family = usize::from(round % 2);
            let server = SERVERS[family];
            for from in [client_for(server), NEIGHBOURS[family]] {
                let raw = Raw::open_from(Some(from), server, protocol)?;
                for pair in 0..PAIRS {
                    let port = 20_000 + round * PAIRS + pair;
                    raw.send(&if protocol == ipproto::TCP {
                        tcp(from, server, port, RACE_PORT, SYN)
                    } else {
                        udp(from, server, port, RACE_PORT)
                    })?;
                }
            }
            queue.hold(usize::from(PAIRS) * 2)?.accept()?;
        }
        Ok(())
    })
}

/// Two datagrams of one flow, both seen before either's entry is in the table: the kernel gives the second the
/// entry of the first. One insert, and no failure.
fn resolved_races(lab: &Lab, daemon: &mut Daemon) -> anyhow::Result<()> {
    let rise = during(lab, daemon, || {
        let queue = lab.router.run(Queue::open)?;
        lab.client.run(|| {
            for round in 0..ROUNDS {
                for pair in 0..PAIRS {
                    let from = (client_for(SERVER4.into()), 30_000 + round * PAIRS + pair);
                    let socket = UdpSocket::bind(SocketAddr::from(from))?;
                    socket.send_to(b"1", (SERVER4, SAME_FLOW_PORT))?;
                    socket.send_to(b"2", (SERVER4, SAME_FLOW_PORT))?;
                }
                queue.hold(usize::from(PAIRS) * 2)?.accept()?;
            }
            Ok(())
        })
    })?;
    let raced = i64::from(PAIRS * ROUNDS);
    println!(
        "figure: UDP races of one flow {raced}: the kernel's clash_resolve {}, insert_failed {}, inserts {}, \
         nf_conntrack_count +{}",
        rise.kernel.of("clash_resolve")?,
        rise.kernel.of("insert_failed")?,
        rise.inserts,
        rise.count
    );
    ensure!(rise.count == raced && rise.inserts == raced, "{} inserts by {raced} races", rise.inserts);
    same_failures(&rise)
}

/// So many entries in so few buckets that chains reach the kernel's bound (5.15 and later have one).
fn long_chains(lab: &Lab, daemon: &mut Daemon) -> anyhow::Result<()> {
    kernel::set_size(65_536, Some(512))?;
    let rise = during(lab, daemon, || {
        for server in SERVERS {
            udp_flows(lab, server, 9, 20_000, 8_000)?;
        }
        Ok(())
    })?;
    let bound = rise.kernel.get("chaintoolong");
    println!(
        "figure: 16,000 flows in 512 buckets: the kernel's chaintoolong {bound:?}, insert_failed {}, chain_too_long {}, inserts {}",
        rise.kernel.of("insert_failed")?,
        rise.chain_too_long,
        rise.inserts
    );
    if let Some(bound) = bound {
        ensure!(bound > 100, "the chains were not too long: {bound}");
        ensure!(rise.chain_too_long.cast_unsigned() == bound, "{} counted", rise.chain_too_long);
    }
    ensure!(rise.inserts == rise.count, "{} inserts, but {} more entries", rise.inserts, rise.count);
    same_failures(&rise)?;
    at_rest(daemon, lab)
}

/// Packets that no connection starts with.
fn invalid(lab: &Lab, daemon: &mut Daemon) -> anyhow::Result<()> {
    let before = nft::counters_at_rest(&lab.router)?["invalid"];
    let rise = during(lab, daemon, || lab.client.run(|| SERVERS.into_iter().try_for_each(send_invalid)))?;
    let nft = nft::counters_at_rest(&lab.router)?["invalid"] - before;
    let kernel = rise.kernel.of("invalid")?;
    println!("figure: INVALID packets: nft {nft}, the kernel's statistic {kernel}, counted {}", rise.invalid);
    ensure!(kernel >= u64::from(INVALID) * 6, "only {kernel} packets were INVALID");
    ensure!(kernel == nft && rise.invalid.cast_unsigned() == kernel, "the three counts differ");
    ensure!(rise.inserts == 0, "{} inserts by INVALID packets", rise.inserts);
    Ok(())
}

fn send_invalid(server: IpAddr) -> anyhow::Result<()> {
    let from = client_for(server);
    let (raw, echo) = (Raw::open(server, ipproto::TCP)?, Raw::for_echo(server)?);
    for number in 0..INVALID {
        raw.send(&tcp(from, server, 40_000 + number, 9, SYN | FIN))?;
        raw.send(&tcp(from, server, 41_000 + number, 9, RST))?;
        echo.send(&echo_reply(server, number))?;
    }
    Ok(())
}

/// All failures of the kernel, and each of them by its reason. None is taken for a refusal.
fn same_failures(rise: &Rise) -> anyhow::Result<()> {
    let failed = rise.kernel.of("insert_failed")?;
    let counted = rise.clash + rise.chain_too_long + rise.dying;
    ensure!(counted.cast_unsigned() == failed, "insert_failed is {failed}: {rise:?}");
    // The kernel's drop holds lost races too.
    let refused = rise.kernel.of("drop")?.cast_signed() - rise.clash;
    ensure!(rise.refused == refused, "{refused} drops are not races: {rise:?}");
    Ok(())
}

fn during(lab: &Lab, daemon: &mut Daemon, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Rise> {
    let (page, count, statistics) =
        (daemon.page()?, kernel::count(&lab.router)?, Statistics::read(&lab.router)?);
    act()?;
    nft::counters_at_rest(&lab.router)?;
    let kernel = Statistics::read(&lab.router)?.since(&statistics);
    let count = kernel::count(&lab.router)?.cast_signed() - count.cast_signed();
    let later = daemon.page()?;
    no_missed_runs(&later)?;
    let rise = |metric: &str, more: Option<(&str, &str)>| -> anyhow::Result<i64> {
        let of = |page: &str| figure(page, &lab.router, metric, more);
        Ok(of(&later)? - of(&page).context("before")?)
    };
    let failed = |reason| rise("conntrack_insert_failed_total", Some(("reason", reason)));
    Ok(Rise {
        clash: failed("clash")?,
        chain_too_long: failed("chain_too_long")?,
        dying: failed("dying")?,
        inserts: rise("conntrack_inserts_total", None)?,
        invalid: rise("conntrack_invalid_total", None)?,
        refused: rise("conntrack_table_full_drops_total", None)?,
        count,
        kernel,
    })
}

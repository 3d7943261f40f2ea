//! An address moves from one pod to another while entries of the first live on.

use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{DEADLINE, LOG, must_balance};
use crate::daemon::Daemon;
use crate::lab::books::tell_missed_runs;
use crate::lab::holdings::{Held, Holdings, pod};
use crate::lab::node::{Node, PORT, STRANGERS, VOIDS};
use crate::lab::workload::{Wiring, Workload};

const OLD: u64 = 200;
const NEW: u64 = 150;
const ADDRESS: u16 = 60;

pub(crate) fn test() -> anyhow::Result<()> {
    let mut node = Node::build()?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    for (number, wiring) in [(50, Wiring::Bridged), (52, Wiring::Routed)] {
        moves(&mut daemon, &mut node, wiring, number).with_context(|| format!("{wiring:?}"))?;
    }
    tell_missed_runs(&daemon.page()?);
    daemon.stop()
}

fn moves(daemon: &mut Daemon, node: &mut Node, wiring: Wiring, number: u16) -> anyhow::Result<()> {
    let (old_name, new_name) = (format!("old-{number}"), format!("new-{number}"));
    let (old, new) = (pod("host", &old_name), pod("host", &new_name));
    let mut first = Workload::start_at(node, wiring, number, ADDRESS, &old_name)?;
    known(daemon, &mut first, &old)?;
    let before = Holdings::read(&daemon.page()?)?;
    let addresses = first.addresses;
    for void in VOIDS {
        first.process.ask(&format!("spray - {void} 0 {OLD}"))?;
    }
    // What the outside asks of the address is answered by its owner at that time.
    for address in addresses {
        node.outside.ask(&format!("spray {} {address} 0 {OLD}", stranger(address)))?;
    }
    let held = must_balance(daemon, &node.host, "host")?;
    let all = 2 * OLD.cast_signed();
    let grown = held.since(&before).of(&old);
    ensure!((grown.entries, grown.answers) == (all, all), "the first pod has {grown:?}, not {all}");
    // Gone, and another comes with its addresses.
    drop(first);
    let mut second = Workload::start_at(node, wiring, number + 1, ADDRESS, &new_name)?;
    ensure!(second.addresses == addresses, "the address did not move");
    known(daemon, &mut second, &new)?;
    let before = Holdings::read(&daemon.page()?)?;
    for void in VOIDS {
        second.process.ask(&format!("spray - {void} 0 {NEW}"))?;
    }
    for address in addresses {
        node.outside.ask(&format!("spray {} {address} {OLD} {NEW}", stranger(address)))?;
    }
    let held = must_balance(daemon, &node.host, "host")?;
    let more = 2 * NEW.cast_signed();
    let change = held.since(&before);
    println!(
        "figure: moved: {wiring:?}: the first pod keeps {:?}, the second has {:?}",
        held.of(&old),
        held.of(&new)
    );
    ensure!(change.of(&old) == Held::default(), "the first pod's figures changed: {:?}", change.of(&old));
    let grown = change.of(&new);
    ensure!((grown.entries, grown.answers) == (more, more), "the second pod has {grown:?} more, not {more}");
    for (family, address) in ["ipv4", "ipv6"].into_iter().zip(addresses) {
        let address = address.to_string();
        node.host.output("conntrack", &["-D", "-f", family, "-s", &address])?;
        node.host.output("conntrack", &["-D", "-f", family, "-d", &address])?;
    }
    let held = must_balance(daemon, &node.host, "host")?;
    for holder in [old, new] {
        let left = held.of(&holder);
        ensure!((left.entries, left.answers) == (0, 0), "all deleted, but {holder} has {left:?}");
    }
    Ok(())
}

/// Waits until the pod's connections are its own.
fn known(daemon: &mut Daemon, pod: &mut Workload, holder: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let held = |page: &str| anyhow::Ok(Holdings::read(page)?.of(holder));
    loop {
        for stranger in STRANGERS {
            pod.process.udp(None, (stranger, PORT).into(), 1)?;
        }
        if held(&daemon.page()?)?.entries >= 2 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the pod {holder} is not known after a minute");
    }
}

fn stranger(address: std::net::IpAddr) -> std::net::IpAddr {
    STRANGERS[usize::from(address.is_ipv6())]
}

//! A full table refuses local UDP senders: every EPERM is a refusal, and the daemon counts each.

use std::net::UdpSocket;

use anyhow::{Context as _, ensure};

use crate::daemon::{Daemon, value};
use crate::lab::command::output;
use crate::lab::kernel::{self, Statistics};
use crate::lab::netns::Netns;

const LOG: &str = "/tmp/conntrack-pressure.log";
/// The labels of the host's table.
pub(crate) const HOST: &str = "{table=\"host\",namespace=\"\",pod=\"\",netns=\"\"}";
const LIMIT: u32 = 64;
const WANTED: u64 = 10_000;

pub(crate) fn test() -> anyhow::Result<()> {
    prepare()?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    let host = Netns::host()?;
    let before = Statistics::read(&host)?;
    let page = daemon.until("the first page", |_| true)?;
    let counted = |page: &str| value(page, &format!("conntrack_table_full_drops_total{HOST}"));
    let start = counted(&page).unwrap_or(0.0) as u64;

    let refused = flood(WANTED)?;
    let dropped = Statistics::read(&host)?.since(&before).of("drop")?;
    let page = daemon.until("the refusals to be counted, by owner too", |page| {
        counted(page).is_some_and(|now| now as u64 >= start + refused)
            && by_owner(page) as u64 >= start + refused
    })?;
    let seen = counted(&page).context("no count of table-full drops")? as u64 - start;
    println!("figure: refusals: EPERM at the sender {refused}, kernel drop {dropped}, counted {seen}");
    ensure!(refused >= WANTED, "the table refused only {refused}");
    ensure!(seen == refused && dropped == refused, "the three counts differ");

    let owners = by_owner(&page) as u64;
    println!("figure: refusals summed over owners {owners}");
    ensure!(owners == start + seen, "the owners' refusals are not all refusals");

    let fate = |outcome: &str| {
        let labels = HOST.replace('}', &format!(",outcome=\"{outcome}\"}}"));
        value(&page, &format!("conntrack_refusal_events_total{labels}"))
    };
    let fates = [fate("logged"), fate("suppressed"), fate("lost")];
    println!("figure: refusal events logged, suppressed, lost {fates:?}");
    if let [Some(logged), Some(suppressed), Some(lost)] = fates {
        let all = (logged + suppressed + lost) as u64;
        ensure!(all == start + seen, "events + suppressed + lost = {all}, refusals = {}", start + seen);
    }
    let entries = value(&page, &format!("conntrack_entries{HOST}"));
    let accounted = value(&page, &format!("conntrack_accounted_entries{HOST}"));
    let count = kernel::count(&host)?;
    println!("figure: at rest: nf_conntrack_count {count}, entries {entries:?}, accounted {accounted:?}");
    ensure!(
        entries == Some(count as f64) && accounted == entries,
        "the books differ from the kernel's count"
    );
    daemon.stop()?;
    let log = std::fs::read_to_string(LOG)?;
    ensure!(log.contains("\"event\":\"refused\""), "no log event of a refusal:\n{log}");
    let left = output("bpftool", &["prog", "list"])?;
    let ours = ["alloc_enter", "alloc_exit", "kfree_skb"];
    ensure!(!ours.iter().any(|name| left.contains(name)), "a program was left behind:\n{left}");
    Ok(())
}

/// Refusals, summed over owners.
fn by_owner(page: &str) -> f64 {
    let samples = page.lines().filter(|line| line.starts_with("conntrack_owner_drops_total{"));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Loads conntrack, keeps scrapes out of its table and makes it small.
pub(crate) fn prepare() -> anyhow::Result<()> {
    kernel::load()?;
    // The scrapes are kept out of the table, or a full one would refuse them too and they would be counted.
    let scrape = "tcp dport 9466 notrack; tcp sport 9466 notrack;";
    let rules = format!(
        "table inet t {{ \
           chain out {{ type filter hook output priority 0; ct state new counter; }}; \
           chain raw_out {{ type filter hook output priority -300; {scrape} }}; \
           chain raw_in {{ type filter hook prerouting priority -300; {scrape} }}; }}"
    );
    output("nft", &[&rules])?;
    kernel::set_size(LIMIT.into(), None)
}

/// Sends UDP from ever new ports until so many sends were refused; the number that were.
pub(crate) fn flood(wanted: u64) -> anyhow::Result<u64> {
    let (mut refused, mut tries) = (0, 0_u64);
    while refused < wanted && tries < wanted * 4 {
        tries += 1;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        match socket.send_to(b"x", ("127.0.0.1", 9)) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused += 1,
            Ok(_) | Err(_) => {}
        }
    }
    Ok(refused)
}

//! One pod fills a small table, another pays for it, for people to look at.

use crate::daemon::{Daemon, value};
use crate::lab::books::figure;
use crate::lab::kernel::{self, Statistics};
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::workload::{Wiring, Workload};
use crate::owners::settled;

const LOG: &str = "/tmp/conntrack-pressure.log";
const HELD: u64 = 1_000;
const LOOKUPS: u64 = 300;
const DNS: u16 = 53;
const EPISODE: &str = "\"event\":\"episode\"";
const REFUSED: &str = "\"event\":\"refused\"";

pub(crate) fn demo() -> anyhow::Result<()> {
    let node = Node::build()?;
    let mut proxy = Workload::start(&node, Wiring::Bridged, 2, "proxy")?;
    let mut checkout = Workload::start(&node, Wiring::Routed, 3, "checkout")?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    proxy.process.tcp(None, (STRANGERS[0], PORT).into(), HELD)?;
    kernel::set_size(HELD, None)?;
    println!(
        "The pod shop/proxy holds {HELD} connections through this node's NAT; the table's limit is {HELD}."
    );
    let held = HELD.cast_signed();
    daemon.until("the full table", |page| {
        figure(page, &node.host, "conntrack_entries", None).is_ok_and(|entries| entries == held)
    })?;
    let before = Statistics::read(&node.host)?;
    checkout.process.udp(None, (STRANGERS[0], DNS).into(), LOOKUPS)?;
    let refused = Statistics::read(&node.host)?.since(&before).of("drop")?;
    println!(
        "The pod shop/checkout sends {LOOKUPS} lookups. The kernel refuses {refused} packets, and tells nobody whose \
         they were.\n"
    );
    let victim = "conntrack_owner_drops_total{table=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"checkout\",cgroup=\"\"}";
    let page = daemon.until("the refusals", |page| value(page, victim) >= Some(refused as f64))?;
    settled(&mut daemon, victim, page)?;
    let log = || std::fs::read_to_string(LOG).unwrap_or_default();
    let page = daemon.until("the episode to be told", |_| log().contains(EPISODE))?;

    println!("Log events: what is going on, and one refusal of many:");
    for kind in [EPISODE, REFUSED] {
        log().lines().filter(|line| line.contains(kind)).take(1).for_each(|line| println!("{line}"));
    }
    println!("\nMetrics:");
    for name in [
        "conntrack_entries",
        "conntrack_owner_entries",
        "conntrack_owner_drops",
        "conntrack_dns_stalls",
        "conntrack_table_full",
        "conntrack_refusal_events",
        "conntrack_counts_exact",
    ] {
        let lines = page.lines().filter(|line| line.starts_with(name) && !line.ends_with("} 0"));
        lines.for_each(|line| println!("{line}"));
    }
    println!("\nDiagnosis (`conntrack-pressure check`):");
    // Its exit status is the verdict: 2 for a full table.
    let out = std::process::Command::new("conntrack-pressure").arg("check").output()?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    daemon.stop()
}

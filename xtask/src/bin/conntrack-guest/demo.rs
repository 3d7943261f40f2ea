//! A proxy overruns a small table through NAT, for people to look at.

use crate::daemon::{Daemon, value};
use crate::lab::kernel::{self, Statistics};
use crate::lab::pod::Pod;
use crate::lab::router::{Lab, Placement, SERVER4};
use crate::lab::traffic::{hold_tcp, udp_flows};
use crate::owners::settled;

const LOG: &str = "/tmp/conntrack-pressure.log";
const HELD: usize = 60;
const LIMIT: u64 = 64;
const LOOKUPS: u16 = 300;

pub(crate) fn demo() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::Guest)?;
    let _pod = Pod::start(&lab.client, "shop", "proxy")?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    let _held = hold_tcp(&lab, SERVER4.into(), 80, HELD)?;
    kernel::set_size(LIMIT, None)?;
    println!(
        "The pod shop/proxy holds {HELD} connections through this node's NAT; the table's limit is {LIMIT}."
    );
    let before = Statistics::read(&lab.router)?;
    udp_flows(&lab, SERVER4.into(), 53, 10_000, LOOKUPS)?;
    let refused = Statistics::read(&lab.router)?.since(&before).of("drop")?;
    println!(
        "It sends {LOOKUPS} lookups. The kernel refuses {refused} of them, and tells nobody whose they were.\n"
    );
    let pod = "conntrack_owner_drops_total{table=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"proxy\",cgroup=\"\"}";
    let page = daemon.until("the refusals", |page| value(page, pod) >= Some(refused as f64))?;
    settled(&mut daemon, pod, page)?;
    let page = daemon.until("the last page", |_| true)?;

    println!("Log events:");
    for line in std::fs::read_to_string(LOG)?.lines().filter(|l| l.contains("\"refused\"")).take(2) {
        println!("{line}");
    }
    println!("\nMetrics:");
    for name in [
        "conntrack_entries",
        "conntrack_inserts_total",
        "conntrack_table_full",
        "conntrack_owner_drops",
        "conntrack_refusal_events",
        "conntrack_counts_exact",
    ] {
        page.lines().filter(|l| l.starts_with(name)).for_each(|line| println!("{line}"));
    }
    println!("\nDiagnosis (`conntrack-pressure check`):");
    // Its exit status is the verdict: 2 for a full table.
    let out = std::process::Command::new("conntrack-pressure").arg("check").output()?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    daemon.stop()
}

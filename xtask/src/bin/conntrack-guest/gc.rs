//! Evictions by the garbage collector under pressure. The kernel has no counter for them: the proof is the balance
//! of a table in which nothing expires and nothing is deleted.

use std::net::{Shutdown, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::evictions::Counted;
use crate::forwarded::at_rest;
use crate::lab::books::no_missed_runs;
use crate::lab::kernel::{self, Statistics};
use crate::lab::router::{Lab, Placement, SERVERS};
use crate::lab::traffic::hold_tcp;

const LOG: &str = "/tmp/conntrack-pressure.log";
const HELD: usize = 400;
/// Of nothing that is in the table may the time run out.
const TIMEOUTS: [&str; 4] =
    ["udp_timeout", "tcp_timeout_fin_wait", "tcp_timeout_close_wait", "tcp_timeout_established"];
/// A pass of the collector starts at most 60 s after the last one, and this machine is emulated.
const DEADLINE: Duration = Duration::from_secs(150);

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    for timeout in TIMEOUTS {
        kernel::set(&lab.router, timeout, 86_400)?;
    }
    let mut daemon = Daemon::start(LOG, "gc_worker")?;
    // Half-closed: ASSURED, so early_drop leaves them alone; the collector may take them when it must.
    let mut held = Vec::new();
    for server in SERVERS {
        held.extend(hold_tcp(&lab, server, 80, HELD / 2)?);
    }
    for connection in &held {
        connection.client.shutdown(Shutdown::Write)?;
    }
    kernel::set_size(HELD as u64, None)?;
    let before = Counted::read(&daemon.page()?, &lab)?;
    let entries = kernel::count(&lab.router)?.cast_signed();
    let started = Instant::now();
    // Every refusal tells the collector that there is pressure; it acts at 95 % of the limit.
    lab.client.run(|| {
        while kernel::count(&lab.router)?.cast_signed() > entries - 10 {
            ensure!(started.elapsed() < DEADLINE, "the collector evicted nothing within {DEADLINE:?}");
            UdpSocket::bind("10.0.1.2:0")?.send_to(b"x", (SERVERS[0], 9))?;
        }
        Ok(())
    })?;
    let took = started.elapsed();
    // The collector may still be at it: it ends before it comes below 95 %.
    let (page, left) = at_the_end(&mut daemon, &lab)?;
    let after = Counted::read(&page, &lab)?;
    let statistics = Statistics::read(&lab.router)?;
    let inserts = after.inserts - before.inserts;
    let gone = entries + inserts - left;
    println!(
        "figure: entries {entries}, inserted {inserted}, left {left}: gone {gone}; evicted by gc {gc} after {took:.1?}, by early_drop \
         {early_drop} (the kernel: {kernel}); refused {refused}",
        inserted = inserts,
        gc = after.gc,
        early_drop = after.early_drop,
        kernel = statistics.of("early_drop")?,
        refused = after.refused
    );
    no_missed_runs(&page)?;
    ensure!(after.gc > 0, "no eviction by gc was counted");
    ensure!(after.early_drop.cast_unsigned() == statistics.of("early_drop")?, "not the kernel's statistic");
    ensure!(after.gc == gone - after.early_drop, "{gone} entries went, and nothing expired or was deleted");
    at_rest(&mut daemon, &lab)?;
    drop(held);
    daemon.stop()
}

/// A page and the kernel's count, once neither changes any more.
fn at_the_end(daemon: &mut Daemon, lab: &Lab) -> anyhow::Result<(String, i64)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut last = None;
    while Instant::now() < deadline {
        let left = kernel::count(&lab.router)?.cast_signed();
        let page = daemon.page()?;
        let now = (Counted::read(&page, lab)?, left);
        if last == Some(now) {
            return Ok((page, left));
        }
        last = Some(now);
    }
    anyhow::bail!("the collector does not come to rest")
}

//! A full table refuses forwarded connections: what nft counts before conntrack and no longer after it was
//! refused, and the daemon counts each.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::lab::books::{figure, no_missed_runs};
use crate::lab::kernel::{self, Statistics};
use crate::lab::nft;
use crate::lab::router::{Lab, Placement, SERVER4, SERVERS};
use crate::lab::traffic::{hold_tcp, udp_flows};

const LOG: &str = "/tmp/conntrack-pressure.log";
const HELD: usize = 300;
/// Before conntrack (priority -200) and after it.
const PATH: &str = "table inet path { \
    counter before {}; counter after {}; \
    chain before { type filter hook prerouting priority -400; \
        iifname \"client\" meta l4proto { tcp, udp } counter name before; }; \
    chain after { type filter hook prerouting priority -150; \
        iifname \"client\" meta l4proto { tcp, udp } counter name after; }; }";

/// The router in a namespace of its own, 10,000 refusals.
pub(crate) fn test() -> anyhow::Result<()> {
    scene(Placement::OwnNetns, 5_200, 10_000)
}

/// The router in the guest's own namespace.
pub(crate) fn on_the_node() -> anyhow::Result<()> {
    scene(Placement::Guest, 1_000, 1_500)
}

fn scene(placement: Placement, floods: u16, wanted: u64) -> anyhow::Result<()> {
    let lab = Lab::build(placement)?;
    nft::load(&lab.router, PATH)?;
    kernel::set(&lab.router, "udp_timeout", 600)?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    // Established, so that early_drop leaves them alone. The few entries beyond them it may evict.
    let held: Vec<_> = SERVERS
        .into_iter()
        .map(|server| hold_tcp(&lab, server, 80, HELD / 2))
        .collect::<anyhow::Result<_>>()?;
    kernel::set_size(HELD as u64 + 8, None)?;

    let page = daemon.page()?;
    let start = figure(&page, &lab.router, "conntrack_table_full_drops_total", None)?;
    let before = nft::counters_at_rest(&lab.router)?;
    let statistics = Statistics::read(&lab.router)?;
    let mut sent = 0;
    for server in SERVERS {
        sent += udp_flows(&lab, server, 9, 20_000, floods)?;
    }
    let given_up = refused_connects(&lab)?;
    let after = nft::counters_at_rest(&lab.router)?;
    let rise = |name: &str| after[name] - before[name];
    let missing = rise("before") - rise("after");
    let kernel = Statistics::read(&lab.router)?.since(&statistics);
    let page = daemon.page()?;
    let refused = figure(&page, &lab.router, "conntrack_table_full_drops_total", None)? - start;
    let dropped = kernel.of("drop")?;
    println!(
        "figure: {placement:?}: datagrams sent {sent}, SYNs given up {given_up}; packets before conntrack {}, after {}, \
         missing {missing}; kernel drop {dropped}, insert_failed {}; counted {refused}",
        rise("before"),
        rise("after"),
        kernel.of("insert_failed")?
    );
    no_missed_runs(&page)?;
    ensure!(missing >= wanted, "only {missing} packets were refused");
    ensure!(
        refused.cast_unsigned() == missing,
        "counted {refused}, but {missing} packets did not get through"
    );
    ensure!(dropped - kernel.of("insert_failed")? == missing, "the kernel dropped {dropped} in all");

    at_rest(&mut daemon, &lab)?;
    drop(held);
    daemon.stop()
}

/// Three TCP connects that time out: SYNs are refused as datagrams are.
fn refused_connects(lab: &Lab) -> anyhow::Result<usize> {
    lab.client.run(|| {
        let at = (SERVER4, 80).into();
        let connect = |_| TcpStream::connect_timeout(&at, Duration::from_millis(300)).is_err();
        Ok((0..3).filter(|number| connect(*number)).count())
    })
}

/// At rest the books must hold what the kernel counts.
///
/// # Errors
/// When they do not.
pub(crate) fn at_rest(daemon: &mut Daemon, lab: &Lab) -> anyhow::Result<()> {
    let count = kernel::count(&lab.router)?.cast_signed();
    let page = daemon.page()?;
    let entries = figure(&page, &lab.router, "conntrack_entries", None)?;
    let accounted = figure(&page, &lab.router, "conntrack_accounted_entries", None)?;
    let counted = kernel::count(&lab.router)?.cast_signed();
    println!(
        "figure: at rest: nf_conntrack_count {counted}, conntrack_entries {entries}, accounted {accounted}"
    );
    ensure!(count == counted, "the table was not at rest: {count}, then {counted}");
    ensure!(entries == count && accounted == count, "the books differ from the kernel's count");
    Ok(())
}

//! Evictions by early_drop are those of the kernel's statistic; what expires, is deleted or flushed is none.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::forwarded::at_rest;
use crate::lab::books::{figure, no_missed_runs};
use crate::lab::kernel::{self, Statistics};
use crate::lab::router::{Lab, Placement, SERVERS};
use crate::lab::traffic::udp_flows;

const LOG: &str = "/tmp/conntrack-pressure.log";
const BUCKETS: u64 = 512;
const LIMIT: u64 = 2_048;
const FLOWS: u16 = 3_000;
const DEADLINE: Duration = Duration::from_secs(60);

/// What the daemon counts of a table: evictions by early_drop, by gc, and refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// `cause="early_drop"`.
    pub(crate) early_drop: i64,
    /// `cause="gc"`.
    pub(crate) gc: i64,
    /// `conntrack_table_full_drops_total`.
    pub(crate) refused: i64,
    /// `conntrack_inserts_total`.
    pub(crate) inserts: i64,
}

impl Counted {
    /// Reads a page.
    ///
    /// # Errors
    /// When a series is absent.
    pub(crate) fn read(page: &str, lab: &Lab) -> anyhow::Result<Self> {
        let evictions =
            |cause| figure(page, &lab.router, "conntrack_evictions_total", Some(("cause", cause)));
        Ok(Self {
            early_drop: evictions("early_drop")?,
            gc: evictions("gc")?,
            refused: figure(page, &lab.router, "conntrack_table_full_drops_total", None)?,
            inserts: figure(page, &lab.router, "conntrack_inserts_total", None)?,
        })
    }
}

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    kernel::set_size(LIMIT, Some(BUCKETS))?;
    kernel::set(&lab.router, "udp_timeout", 600)?;
    let mut daemon = Daemon::start(LOG, "delete")?;
    for server in SERVERS {
        udp_flows(&lab, server, 9, 20_000, FLOWS)?;
    }
    let page = daemon.page()?;
    let counted = Counted::read(&page, &lab)?;
    let kernel = Statistics::read(&lab.router)?;
    println!(
        "figure: of {} unreplied UDP flows: evicted by early_drop {}, the kernel's statistic {}; refused {}, the kernel's drop {}",
        2 * FLOWS,
        counted.early_drop,
        kernel.of("early_drop")?,
        counted.refused,
        kernel.of("drop")?
    );
    no_missed_runs(&page)?;
    ensure!(counted.early_drop >= 1_000, "too few evictions to prove anything");
    ensure!(counted.early_drop.cast_unsigned() == kernel.of("early_drop")?, "not the kernel's statistic");
    ensure!(counted.refused.cast_unsigned() == kernel.of("drop")?, "not the kernel's statistic");
    ensure!(counted.gc == 0, "{} evictions by gc", counted.gc);
    at_rest(&mut daemon, &lab)?;

    deleted(&lab)?;
    flushed(&lab)?;
    expired(&lab)?;
    let page = daemon.page()?;
    let after = Counted::read(&page, &lab)?;
    no_missed_runs(&page)?;
    println!("figure: after deletion, flush and expiry: early_drop {}, gc {}", after.early_drop, after.gc);
    ensure!(
        after.early_drop == counted.early_drop && after.gc == 0,
        "what was deleted, flushed or expired was counted as evicted: {after:?}"
    );
    at_rest(&mut daemon, &lab)?;
    daemon.stop()
}

/// `conntrack -D` of one destination; the table lets go of more than a thousand entries.
fn deleted(lab: &Lab) -> anyhow::Result<()> {
    let before = kernel::count(&lab.router)?;
    lab.router.output("conntrack", &["-D", "-d", "10.0.2.2"])?;
    let after = kernel::count(&lab.router)?;
    println!("figure: conntrack -D: entries {before}, then {after}");
    ensure!(after < before, "nothing was deleted");
    Ok(())
}

fn flushed(lab: &Lab) -> anyhow::Result<()> {
    let before = kernel::count(&lab.router)?;
    lab.router.output("conntrack", &["-F"])?;
    let after = kernel::count(&lab.router)?;
    println!("figure: conntrack -F: entries {before}, then {after}");
    ensure!(before > 0 && after == 0, "the table was not flushed");
    Ok(())
}

/// Entries that live one second; dumps reap them, as lookups and the garbage collector do.
fn expired(lab: &Lab) -> anyhow::Result<()> {
    kernel::set(&lab.router, "udp_timeout", 1)?;
    udp_flows(lab, SERVERS[0], 9, 30_000, 500)?;
    let before = kernel::count(&lab.router)?;
    let deadline = Instant::now() + DEADLINE;
    while kernel::count(&lab.router)? > 0 {
        ensure!(Instant::now() < deadline, "entries of one second are still there");
        lab.router.output("conntrack", &["-L"])?;
    }
    println!("figure: expired: entries {before}, then 0");
    Ok(())
}

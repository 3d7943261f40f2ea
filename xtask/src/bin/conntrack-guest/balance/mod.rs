//! The sum over owners is the kernel's own count: in churn, after a restart, when an address moves, and when pods
//! have come and gone.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::lab::holdings::Holdings;
use crate::lab::kernel;
use crate::lab::netns::Netns;

pub(crate) mod audited;
pub(crate) mod churn;
pub(crate) mod moved;
pub(crate) mod passing;
pub(crate) mod restart;

const LOG: &str = "/tmp/conntrack-pressure.log";
/// For the kernel to come to rest, and for the daemon to notice who came.
const DEADLINE: Duration = Duration::from_secs(60);

/// At rest, the owners of the host's table (`table` "host") or of a pod's hold together what the kernel counts.
///
/// # Errors
/// When they do not, or the table does not come to rest.
pub(crate) fn must_balance(daemon: &mut Daemon, netns: &Netns, table: &str) -> anyhow::Result<Holdings> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let before = kernel::count(netns)?;
        let page = daemon.page()?;
        let held = Holdings::read(&page)?;
        if kernel::count(netns)? == before {
            let sum = held.sum(table);
            println!("figure: at rest, table {table}: nf_conntrack_count {before}, sum over owners {sum}");
            if let Some(overflow) = overflows(&page).next() {
                println!("figure: the books overflowed: {overflow}");
            }
            ensure!(sum == before.cast_signed(), "the owners' entries do not sum up: {:#?}", held.0);
            return Ok(held);
        }
        ensure!(Instant::now() < deadline, "the table does not come to rest");
    }
}

/// What of the books found no room.
pub(crate) fn overflows(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with("conntrack_accounting_overflow{") && !line.ends_with(" 0"))
}

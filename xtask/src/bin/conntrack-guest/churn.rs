//! While entries come and go, the books stay near the kernel's count.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;

use crate::daemon::Daemon;
use crate::forwarded::at_rest;
use crate::lab::books::{figure, no_missed_runs};
use crate::lab::kernel;
use crate::lab::router::{Lab, Placement, SERVER4, SERVERS};
use crate::lab::traffic::{client_for, udp_flows};

const LOG: &str = "/tmp/conntrack-pressure.log";
const SAMPLES: u32 = 200;
/// Between two flushes, so that the count swings from nothing to the limit.
const FLUSH_EVERY: u32 = 25;
const LIMIT: u64 = 4_096;

/// How far off the books were.
#[derive(Debug, Default)]
struct Worst {
    /// Against the count that the daemon read for the same page, and that count.
    on_page: (u64, i64),
    /// Against the count that this test read after it had the page.
    read_later: (u64, i64),
    /// Least and greatest count seen.
    range: Option<(i64, i64)>,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::OwnNetns)?;
    kernel::set_size(LIMIT, Some(1_024))?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    udp_flows(&lab, SERVERS[0], 9, 19_999, 1)?;
    let before = figure(&daemon.page()?, &lab.router, "conntrack_inserts_total", None)?;
    let ended = AtomicBool::new(false);
    let worst = std::thread::scope(|scope| {
        let makers = [scope.spawn(|| datagrams(&lab, &ended)), scope.spawn(|| connections(&lab, &ended))];
        let worst = samples(&mut daemon, &lab);
        ended.store(true, Ordering::Relaxed);
        for maker in makers {
            maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        worst
    })?;
    let page = daemon.page()?;
    let inserts = figure(&page, &lab.router, "conntrack_inserts_total", None)? - before;
    println!(
        "figure: {SAMPLES} samples during {inserts} inserts, counts {:?}: worst off by {} of {}; against the count read \
         after the page by {} of {}",
        worst.range, worst.on_page.0, worst.on_page.1, worst.read_later.0, worst.read_later.1
    );
    no_missed_runs(&page)?;
    ensure!(inserts > 4_000, "only {inserts} inserts: no churn");
    ensure!(worst.range.is_some_and(|(least, most)| most - least > 500), "the count hardly changed");
    at_rest(&mut daemon, &lab)?;
    daemon.stop()
}

/// Takes the samples; fails at the first that is off too far.
fn samples(daemon: &mut Daemon, lab: &Lab) -> anyhow::Result<Worst> {
    let mut worst = Worst::default();
    for sample in 1..=SAMPLES {
        let page = daemon.page()?;
        let later = kernel::count(&lab.router)?.cast_signed();
        let entries = figure(&page, &lab.router, "conntrack_entries", None)?;
        let accounted = figure(&page, &lab.router, "conntrack_accounted_entries", None)?;
        let off = accounted.abs_diff(entries);
        worst.on_page = worst.on_page.max((off, entries));
        worst.read_later = worst.read_later.max((accounted.abs_diff(later), later));
        let (least, most) = worst.range.unwrap_or((entries, entries));
        worst.range = Some((least.min(entries), most.max(entries)));
        let allowed = (entries.unsigned_abs() / 100).max(64);
        ensure!(off <= allowed, "sample {sample}: accounted {accounted}, the kernel counts {entries}");
        if sample % FLUSH_EVERY == 0 {
            lab.router.output("conntrack", &["-F"])?;
        }
    }
    Ok(worst)
}

/// Ever new flows, evicting older ones once the table is full.
fn datagrams(lab: &Lab, ended: &AtomicBool) -> anyhow::Result<()> {
    lab.client.run(|| {
        for number in 0_u32.. {
            if ended.load(Ordering::Relaxed) {
                break;
            }
            let server = SERVERS[number as usize % 2];
            UdpSocket::bind((client_for(server), 0))?.send_to(b"x", (server, 9))?;
        }
        Ok(())
    })
}

/// Short connections. One that a full table refuses is given up.
fn connections(lab: &Lab, ended: &AtomicBool) -> anyhow::Result<()> {
    let at = SocketAddr::new(SERVER4.into(), 80);
    let _listener = lab.server.run(|| Ok(TcpListener::bind(at)?))?;
    lab.client.run(|| {
        while !ended.load(Ordering::Relaxed) {
            let _given_up: std::io::Result<_> = TcpStream::connect_timeout(&at, Duration::from_millis(500));
        }
        Ok(())
    })
}

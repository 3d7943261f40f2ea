//! Tasks that preempt one another inside conntrack, as often as can be: the kernel skips a program's run when
//! another task is in the middle of it on that processor, its twin makes it good, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::balance::must_balance;
use crate::daemon::{DEADLINE, Daemon, forced};
use crate::lab::books::figure;
use crate::lab::connect::Sends;
use crate::lab::holdings::Holdings;
use crate::lab::kernel::{self, Statistics};
use crate::lab::netns::Netns;
use crate::lab::nft;
use crate::lab::router::UNTRACKED_SCRAPES;
use crate::options::size_or;

mod tasks;

use tasks::{Crowd, Progress};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// So many buckets for so few entries that a new one finds room by an eviction, or does not, about as often.
const LIMIT: u64 = 8_192;
const BUCKETS: u64 = 262_144;
/// In which time an audit has put the books right: they may be off a minute until it is due, and another until the
/// next is, if the first came while the tasks were still running.
const AUDITED: Duration = Duration::from_secs(150);
/// How long they run, in seconds, unless told otherwise.
const SECONDS: u64 = 8;
/// More refusals than this are to be made.
const ENOUGH_REFUSALS: u64 = 500;
/// And more connections, of which a crowd makes few on an old kernel.
const ENOUGH_CONNECTS: u64 = 100;
const TRACKED: &str =
    "table inet tracked { chain out { type filter hook output priority 0; ct state new counter; }; }";

/// What the kernel and the daemon count at one moment.
struct Counts {
    page: String,
    kernel: Statistics,
}

impl Counts {
    fn now(daemon: &mut Daemon, host: &Netns) -> anyhow::Result<Self> {
        Ok(Self { page: daemon.page()?, kernel: Statistics::read(host)? })
    }
}

/// One task that is preempted, and some that preempt it: no run of both programs of a pair can be skipped at once.
pub(crate) fn test() -> anyhow::Result<()> {
    scene(Crowd { senders: 1, connectors: 0, hogs: 2 }, false)
}

/// A dozen tasks, each of which can be suspended in a program. With one in each of a pair, a third loses both: the
/// daemon must say how much that can have been.
pub(crate) fn crowd() -> anyhow::Result<()> {
    scene(Crowd { senders: 6, connectors: 2, hogs: 2 }, true)
}

fn scene(crowd: Crowd, may_miss: bool) -> anyhow::Result<()> {
    kernel::load()?;
    let host = Netns::host()?;
    let quiet = Netns::create("quiet")?;
    nft::load(&host, UNTRACKED_SCRAPES)?;
    nft::load(&host, TRACKED)?;
    nft::load(&quiet, TRACKED)?;
    kernel::set(&host, "udp_timeout", 600)?;
    kernel::set(&quiet, "tcp_timeout_close", 1)?;
    kernel::set_size(LIMIT, Some(BUCKETS))?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    let before = Counts::now(&mut daemon, &host)?;

    let progress = Progress::default();
    let (sends, connects) = std::thread::scope(|scope| {
        let tasks = tasks::start(scope, &progress, &quiet, crowd);
        let begun = Instant::now();
        let at_least = Duration::from_secs(size_or(SECONDS));
        // A crowd on a slow machine takes longer to make as many connections.
        while begun.elapsed() < at_least
            || (progress.connects() <= ENOUGH_CONNECTS && begun.elapsed() < DEADLINE)
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        progress.stop();
        tasks.end()
    })?;

    let after = at_rest(&mut daemon, &host)?;
    let rise = |metric: &str, netns: &Netns| -> anyhow::Result<u64> {
        let was = figure(&before.page, netns, metric, None).unwrap_or_default();
        Ok((figure(&after.page, netns, metric, None)? - was).cast_unsigned())
    };
    let kernel = after.kernel.since(&before.kernel);
    let counted = rise("conntrack_table_full_drops_total", &host)?;
    let inserts = rise("conntrack_inserts_total", &host)?;
    let streams = rise("conntrack_inserts_total", &quiet)?;
    let by_owner: i64 = Holdings::read(&after.page)?.0.values().map(|held| held.drops).sum();
    let (caught, missed) = (skipped(&after.page, "caught"), skipped(&after.page, "missed"));
    println!("figure: preempted: the kernel's preemption: {}", preemption());
    let evicted = |netns| -> anyhow::Result<u64> {
        let of = |page: &str| figure(page, netns, "conntrack_evictions_total", Some(("cause", "early_drop")));
        Ok((of(&after.page)? - of(&before.page).unwrap_or_default()).cast_unsigned())
    };
    let rows = [
        ("refusals: EPERM at senders, the kernel's drop", sends.refused, kernel.of("drop")?),
        ("refusals: EPERM at senders, counted", sends.refused, counted),
        ("refusals: EPERM at senders, summed over owners", sends.refused, by_owner.cast_unsigned()),
        ("evictions: the kernel's early_drop, counted", kernel.of("early_drop")?, evicted(&host)?),
        ("inserts: datagrams taken, counted", sends.taken, inserts),
        ("inserts: connections made, counted", connects, streams),
    ];
    for (what, wanted, found) in rows {
        println!("figure: preempted: {what}: {wanted}, {found}");
    }
    println!(
        "figure: preempted: runs skipped and made good by the twin {} {caught:?}, at most missed {} {missed:?}",
        sum(&caught),
        sum(&missed)
    );
    for (netns, table) in [(&host, "host"), (&quiet, "netns")] {
        let took = balanced(&mut daemon, netns, table, if may_miss { AUDITED } else { Duration::ZERO })?;
        println!("figure: preempted: {table}: the sum over owners is the kernel's count after {took:.1?}");
    }
    let spare = if may_miss { sum(&missed) } else { 0 };
    for (what, wanted, found) in rows {
        ensure!(
            wanted.abs_diff(found) <= spare,
            "{what}: {wanted}, {found}; at most {spare} were to be missed"
        );
    }
    ensure!(
        sends.refused > ENOUGH_REFUSALS && connects > ENOUGH_CONNECTS,
        "too little came through to show anything"
    );
    ensure!(
        !preempts() || forced().contains(&"kprobe") || sum(&caught) > 0,
        "the kernel skipped no run of a program: this shows nothing"
    );
    daemon.stop()
}

/// Waits until the books balance, at most so long: where runs were missed an audit has to put them right.
fn balanced(daemon: &mut Daemon, netns: &Netns, table: &str, limit: Duration) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    loop {
        match must_balance(daemon, netns, table) {
            Ok(_) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Refusals are charged to owners soon after; waits until all counted ones are.
fn at_rest(daemon: &mut Daemon, host: &Netns) -> anyhow::Result<Counts> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = Counts::now(daemon, host)?;
        let drops: i64 = Holdings::read(&now.page)?.0.values().map(|held| held.drops).sum();
        if drops >= figure(&now.page, host, "conntrack_table_full_drops_total", None)?
            || Instant::now() > deadline
        {
            return Ok(now);
        }
    }
}

/// Runs caught or missed, of each probe that had any.
fn skipped(page: &str, what: &str) -> Vec<(String, u64)> {
    let start = format!("conntrack_probe_{what}_total{{probe=\"");
    let each = page.lines().filter_map(|line| {
        let (probe, value) = line.strip_prefix(&start)?.split_once("\"} ")?;
        let value = value.trim().parse::<f64>().ok()? as u64;
        (value > 0).then(|| (probe.to_owned(), value))
    });
    each.collect()
}

fn sum(each: &[(String, u64)]) -> u64 {
    each.iter().map(|(_, runs)| runs).sum()
}

/// What the kernel says of how it preempts itself; 5.10 says nothing.
fn preemption() -> String {
    let told = std::fs::read_to_string("/sys/kernel/debug/sched/preempt");
    told.map_or_else(|_| "not told".to_owned(), |told| told.trim().to_owned())
}

/// Can a task be preempted while it runs a program?
fn preempts() -> bool {
    let told = preemption();
    told.contains("(lazy)") || told.contains("(full)")
}

/// Sends of all.
#[derive(Debug, Default)]
struct Done {
    taken: u64,
    refused: u64,
}

impl Done {
    fn add(&mut self, one: &Sends) {
        self.taken += one.taken;
        self.refused += one.refused;
    }
}

//! True cases and look-alikes at the same time, the truth of each by the wires and its own socket, and what the daemon
//! made of it.
//!
//! The limit of tables is the whole kernel's, entries count by namespace: so one router is full (the node's own), one
//! has room, and one evicts, all at once. Each round the node's table is full for some seconds, then the limit is raised.
//!
//! A row of the printout is what became of cases, by the truth, or, of look-alikes, what they were begun as; what their
//! sockets said is behind it. Losses that are none of a table's are made by rules beyond the routers, which lose the first
//! packet of a kind: so the look-alike is sure to come about. Of resets the daemon counts each connection once, so what it
//! says of the other end (`repeated`) is left out. A connection that goes on after the table let some of its SYNs in and
//! refused others, and is then given up, is nobody's case: it is held for nothing, as the daemon does.

mod attempts;
mod case;
mod controls;
mod draw;
mod evicting;
mod full;
mod matrix;
mod roomy;
mod servers;
mod site;
mod told;
mod truth;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

use self::attempts::{play, share};
use self::case::{ANYWHERE, Case, ELSEWHERE, Kind, TRUE};
use self::draw::Draw;
use self::evicting::Evicting;
use self::full::{Counts, Full};
use self::matrix::Matrix;
use self::roomy::Roomy;
use self::truth::{Wires, came_of};
use self::wire::Capture;
use crate::daemon::{Daemon, attached_by, without_probes};
use crate::lab::books::tell_missed_runs;
use crate::lab::kernel::{self, Statistics};
use crate::options::{seed, size_or, syn_retries};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// True cases in all, unless told otherwise.
const SIZE: u64 = 300;
/// Entries that fill the node's table.
const GREEDY: u64 = 1_000;
/// A limit that no table reaches.
const ROOM: u64 = 100_000;
/// Few: what makes room looks at eight buckets.
const BUCKETS: u64 = 512;
/// True cases of a kind in one round.
const ROUND: usize = 34;
/// How long the daemon may take to tell the last.
const LAST: Duration = Duration::from_secs(20);
/// When those begin that are to outlast a full table whose last is given up after 127 s: their SYNs come 15 and 31 s later.
const OUTLAST: Duration = Duration::from_secs(100);

pub(crate) fn test() -> anyhow::Result<()> {
    let (size, mut draw) = (size_or(SIZE) as usize, Draw::new(seed()));
    let files = Rlimit { current: Some(65_536), maximum: Some(65_536) };
    setrlimit(Resource::Nofile, files)?;
    let of_a_kind = size.div_ceil(TRUE.len());
    let rounds = of_a_kind.div_ceil(ROUND);
    let controls = (size * 5 / 3).div_ceil(2 * ANYWHERE.len() + ELSEWHERE.len());
    let mut full = Full::build()?;
    let roomy = Roomy::build()?;
    let mut evicting = Evicting::build()?;
    kernel::set_size(ROOM, Some(BUCKETS))?;
    let routers = [&full.node.host, &roomy.site.router, &evicting.site.router];
    let devices = [full.devices()?, roomy.site.devices()?, evicting.site.devices()?];
    let captures = routers.into_iter().map(Capture::begin).collect::<anyhow::Result<Vec<_>>>()?;
    let probe = if without_probes() { "receive_reset" } else { "confirm" };
    let mut daemon = Daemon::start(LOG, probe)?;
    full.fill(GREEDY)?;
    let before = statistics(&full, &roomy, &evicting)?;
    let mut cases = Vec::new();
    for round in 0..rounds {
        let begun = Instant::now();
        let part = |all: usize| share(all, round, rounds).len();
        let each = Counts { of_a_kind: part(of_a_kind), controls: part(controls) };
        let of_round = self::round(&mut draw, &each, &full, &roomy, &mut evicting)?;
        println!(
            "lab: round {} of {rounds}: {} cases in {:.1} s",
            round + 1,
            of_round.len(),
            begun.elapsed().as_secs_f64()
        );
        cases.extend(of_round);
    }
    let after = statistics(&full, &roomy, &evicting)?;
    let [full_did, roomy_did, evicting_did] =
        [0, 1, 2].map(|router: usize| after[router].since(&before[router]));
    for (name, did) in [("full", &full_did), ("roomy", &roomy_did), ("evicting", &evicting_did)] {
        println!(
            "figure: lab: the kernel's statistics of the {name} table: drop {}, early_drop {}, insert_failed {}, invalid {}",
            did.of("drop")?,
            did.of("early_drop")?,
            did.of("insert_failed")?,
            did.of("invalid")?
        );
    }
    // Else the truth would not be what is held for it. In the full table the garbage collector may take the entries of
    // what was aborted: whoever is let in then can be evicted, and is judged by the wires as any other.
    ensure!(roomy_did.of("early_drop")? == 0, "something was evicted where nothing is to be");

    let wires =
        captures.into_iter().zip(&devices).map(|(capture, devices)| Ok(Wires::new(capture.end()?, devices)));
    let wires = wires.collect::<anyhow::Result<Vec<_>>>()?;
    println!("figure: lab: packets captured: {:?}", wires.iter().map(Wires::len).collect::<Vec<_>>());
    let truths: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let truth = came_of(&case, &wires[case.table as usize]);
            (case, truth)
        })
        .collect();
    let wanted = truths.iter().filter(|(_, truth)| truth.is_some()).count() as u64;
    let until = Instant::now() + LAST;
    let page = daemon.until("what came of it to be told", |page| {
        let blamed = told::counters(page).into_iter().filter(|((_, what), _)| !what.starts_with("unrelated"));
        blamed.map(|(_, count)| count).sum::<u64>() >= wanted || Instant::now() > until
    })?;
    tell_missed_runs(&page);
    daemon.stop()?;
    let told = told::events(&std::fs::read_to_string(LOG).context(LOG)?)?;
    let counters = told::counters(&page);
    let matrix = Matrix::new(&truths, &told, &counters);
    let unrelated: Vec<_> = counters.iter().filter(|((_, what), _)| what.starts_with("unrelated")).collect();
    println!("{}lab: counted as unrelated: {unrelated:?}", matrix.text());
    if without_probes() {
        // Refusals are inferred, where the kernel gives reasons for drops; nothing may be told as sure.
        let infers = attached_by(&page, "kfree_skb").is_some();
        ensure!(matrix.is_inferred(infers), "something is told as sure, or nothing is inferred");
        return Ok(());
    }
    ensure!(matrix.is_good(), "a bound does not hold");
    Ok(())
}

fn statistics(full: &Full, roomy: &Roomy, evicting: &Evicting) -> anyhow::Result<[Statistics; 3]> {
    let read = Statistics::read;
    Ok([read(&full.node.host)?, read(&roomy.site.router)?, read(&evicting.site.router)?])
}

/// The node's table is full for as long as something goes on that it is to refuse; then there is room.
fn round(
    draw: &mut Draw,
    each: &Counts,
    full: &Full,
    roomy: &Roomy,
    evicting: &mut Evicting,
) -> anyhow::Result<Vec<Case>> {
    full.renew()?;
    roomy.renew()?;
    let (open, limit) = full.prepare(draw, each)?;
    evicting.fill(limit)?;
    kernel::set_size(limit, None)?;
    let mut pressed = full.press(draw, each, open)?;
    let (races, mut strikes, deletions, evictions) = (draw.split(), draw.split(), draw.split(), draw.split());
    let mut controls: Vec<Draw> = roomy.site.pods.iter().map(|_| draw.split()).collect();
    std::thread::scope(|scope| {
        let mut during = Vec::new();
        let mut later = Vec::new();
        for (pod, (now, late)) in std::mem::take(&mut pressed.now).into_iter().enumerate() {
            during.push(scope.spawn(move || Ok(full.netns(pod).run(|| play(now))?.0)));
            later.push(scope.spawn(move || {
                if syn_retries().is_none() {
                    std::thread::sleep(OUTLAST);
                }
                Ok::<_, anyhow::Error>(full.netns(pod).run(|| play(late))?.0)
            }));
        }
        during.push(scope.spawn(move || evicting.evict(evictions, each.of_a_kind * 5 / 4, each.controls)));
        for (pod, draw) in controls.drain(..).enumerate() {
            later.push(scope.spawn(move || roomy.controls(draw, pod, each)));
        }
        later.push(scope.spawn(move || roomy.races(races, each)));
        later.push(scope.spawn(move || {
            let mut cases = roomy.strike(&mut strikes, Kind::Invalid, each.of_a_kind)?;
            cases.extend(roomy.strike(&mut strikes, Kind::InvalidDropped, each.controls)?);
            cases.extend(roomy.delete(deletions, each)?);
            Ok(cases)
        }));
        let mut cases = pressed.send(full)?;
        for player in during {
            cases.extend(player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        kernel::set_size(ROOM, None)?;
        for (pod, script) in pressed.reused {
            later.push(scope.spawn(move || Ok(full.netns(pod).run(|| play(vec![script]))?.0)));
        }
        for player in later {
            cases.extend(player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        roomy.forget()?;
        Ok(cases)
    })
}

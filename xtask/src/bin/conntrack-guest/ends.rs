//! However the daemon ends, nothing of it stays in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use crate::daemon::{DEADLINE, value};
use crate::lab::command::output;
use crate::refusals::{HOST, flood, prepare};
use crate::subject::Subject;

/// Kinds of BPF objects, as bpftool spells them.
const KINDS: [&str; 4] = ["prog", "map", "link", "btf"];

/// What is in the kernel: kind, id and name of BPF objects; lines and files of the rest.
type Left = BTreeSet<(&'static str, String)>;

/// When the daemon is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// As soon as a program of it is loaded.
    Starting,
    /// While it counts refusals.
    Working,
}

pub(crate) fn test() -> anyhow::Result<()> {
    prepare()?;
    let before = look()?;
    let ways = [
        (Signal::TERM, When::Working),
        (Signal::KILL, When::Working),
        (Signal::INT, When::Working),
        (Signal::KILL, When::Starting),
        (Signal::TERM, When::Starting),
    ];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Traffic goes on through all of it: programs are running when they are taken away.
        let traffic = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                flood(200)?;
            }
            anyhow::Ok(())
        });
        let outcome = ways.iter().try_for_each(|(signal, when)| end(*signal, *when, &before));
        stop.store(true, Ordering::Relaxed);
        traffic.join().map_err(|_| anyhow::anyhow!("the traffic panicked"))??;
        outcome
    })?;
    for args in [&["doctor"][..], &["check"], &["snapshot"]] {
        // The exit code of `check` is about the table.
        Command::new("conntrack-pressure").args(args).output()?;
        nothing_new(&before).with_context(|| format!("after {args:?}"))?;
    }
    Ok(())
}

fn end(signal: Signal, when: When, before: &Left) -> anyhow::Result<()> {
    let mut daemon = Subject::start(&[])?;
    if when == When::Working {
        let full = format!("conntrack_table_full_drops_total{HOST}");
        daemon.page("refusals", |page| value(page, &full).is_some_and(|n| n > 0.0))?;
    } else {
        let deadline = Instant::now() + DEADLINE;
        while !look()?.difference(before).any(|(kind, _)| *kind == "prog") {
            ensure!(Instant::now() < deadline, "no program of the daemon appears");
        }
    }
    let during = look()?;
    let mut ours = BTreeMap::<_, usize>::new();
    for (kind, _) in during.difference(before) {
        *ours.entry(*kind).or_default() += 1;
    }
    ensure!(
        ours.contains_key("prog") && ours.contains_key("map"),
        "bpftool does not see the daemon: {ours:?}"
    );
    ensure!(when == When::Starting || ours["prog"] >= 10, "too few programs seen at work: {ours:?}");
    let maps = ["EVENTS", "FREE_SLOTS"];
    let seen =
        |name: &&str| during.difference(before).any(|(kind, what)| *kind == "map" && what.ends_with(*name));
    ensure!(maps.iter().all(seen), "ring and queue are not among the maps seen: {during:?}");
    let status = daemon.end(signal)?;
    ensure!(signal == Signal::KILL || status.success(), "ended with {status} on {signal:?}");
    let since = Instant::now();
    nothing_new(before).with_context(|| format!("after {signal:?} while {when:?}"))?;
    println!(
        "figure: ends: {signal:?} while {when:?}: {ours:?} of the daemon, none left {:.1} s after its end",
        since.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until what is new is gone: the kernel frees after a grace period.
fn nothing_new(before: &Left) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = look()?.difference(before).cloned().collect::<Vec<_>>();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("left behind: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn look() -> anyhow::Result<Left> {
    let mut left = Left::new();
    for kind in KINDS {
        let list = list(kind)?;
        // bpftool itself loads programs to list others; its own names are no business of this test.
        let own = |name: &str| {
            ["dump_bpf_", "libbpf_", "pid_iter", "det_arg_"].iter().any(|own| name.starts_with(own))
        };
        for object in list {
            let name = object["name"].as_str().unwrap_or_default();
            if !own(name) {
                left.insert((kind, format!("{} {name}", object["id"])));
            }
        }
    }
    for file in ["kprobe_events", "uprobe_events", "dynamic_events"] {
        let text = fs::read_to_string(tracing().join(file)).unwrap_or_default();
        left.extend(text.lines().map(|line| ("tracefs", format!("{file}: {line}"))));
    }
    files(Path::new("/sys/fs/bpf"), &mut left)?;
    Ok(left)
}

/// All objects of a kind. bpftool fails as a whole when one is freed between its id and its opening, which is what
/// happens here all the time: then it is asked anew.
fn list(kind: &str) -> anyhow::Result<Vec<serde_json::Value>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match output("bpftool", &["-j", kind, "list"]) {
            Ok(text) => return Ok(serde_json::from_str(&text)?),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn tracing() -> PathBuf {
    let places = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    places.map(PathBuf::from).into_iter().find(|place| place.join("events").exists()).unwrap_or_default()
}

fn files(folder: &Path, left: &mut Left) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        left.insert(("pin", path.display().to_string()));
        if path.is_dir() {
            files(&path, left)?;
        }
    }
    Ok(())
}

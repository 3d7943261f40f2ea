//! No conntrack in the kernel: said, absent and not zero, never loaded by us, and picked up when it comes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::daemon::{get, value};
use crate::lab::command::output;
use crate::lab::kernel::{Statistics, kernel_drops};
use crate::lab::netns::Netns;
use crate::refusals::{HOST, flood, prepare};
use crate::subject::{Subject, count, mechanism};

/// For how long it is watched that nothing loads the module: several rounds of the daemon's own.
const WATCHED: Duration = Duration::from_secs(5);
const REFUSALS: u64 = 300;
/// A rule that makes a namespace track what it sends.
const TRACKED: &str =
    "table inet t { chain out { type filter hook output priority 0; ct state new counter; }; }";

pub(crate) fn test() -> anyhow::Result<()> {
    not_loaded().context("this test wants a guest in which nothing loaded conntrack")?;
    let other = Netns::create("other")?;
    one_shots()?;

    let mut daemon = Subject::start(&[])?;
    daemon.lines("the log to say so", 1, |line| {
        line.contains("conntrack is not loaded") && !line.contains("\"probe\"")
    })?;
    let modules = modules()?;
    let mut scrapes = 0;
    let started = Instant::now();
    while started.elapsed() < WATCHED {
        let page = daemon.page("a page", |page| page.contains("conntrack_loaded"))?;
        ensure!(value(&page, "conntrack_loaded") == Some(0.0), "conntrack_loaded is not 0:\n{page}");
        let about_tables = page.lines().find(|line| line.contains("{table="));
        ensure!(about_tables.is_none(), "a series about a table that is not there: {about_tables:?}");
        let attached =
            page.lines().find(|l| l.starts_with("conntrack_probe_attached{") && !l.ends_with(" 0"));
        ensure!(attached.is_none(), "a probe is attached to what is not there: {attached:?}");
        get("/")?;
        get("/readyz")?;
        not_loaded()?;
        scrapes += 1;
    }
    ensure!(self::modules()? == modules, "watching loaded a module");
    println!("figure: absent: {scrapes} scrapes in {} s, no module loaded", WATCHED.as_secs());

    let loaded = Instant::now();
    output("modprobe", &["nf_conntrack"])?;
    let page = daemon.page("conntrack to be picked up", |page| {
        mechanism(page, "alloc").is_some() && value(page, &format!("conntrack_entries{HOST}")).is_some()
    })?;
    println!("figure: absent: picked up {:.1} s after modprobe began", loaded.elapsed().as_secs_f64());
    ensure!(value(&page, "conntrack_loaded") == Some(1.0), "conntrack_loaded is not 1:\n{page}");
    for probe in ["free", "early_drop", "gc_worker", "delete", "clash", "confirm", "alloc", "audit"] {
        ensure!(mechanism(&page, probe).is_some(), "the probe {probe} was not attached:\n{page}");
    }
    daemon.lines("the log to say so", 1, |line| line.contains("conntrack is loaded now"))?;
    prepare()?;
    counts(&mut daemon, HOST)?;
    let labels = format!("{{table=\"netns\",namespace=\"\",pod=\"\",netns=\"{}\"}}", other.inum);
    let before = Statistics::read(&other)?;
    let refused = other.run(|| {
        output("nft", &[TRACKED])?;
        flood(REFUSALS)
    })?;
    let dropped = Statistics::read(&other)?.since(&before).of("drop")?;
    ensure!(dropped == refused, "in the other namespace: EPERM {refused}, kernel drop {dropped}");
    expect(&mut daemon, &labels, 0, refused)?;
    let status = daemon.end(Signal::TERM)?;
    ensure!(status.success(), "conntrack-pressure ended with {status} on SIGTERM");
    Ok(())
}

/// `doctor`, `check` and `snapshot` look without loading.
fn one_shots() -> anyhow::Result<()> {
    for (args, says) in [
        (&["doctor"][..], "not loaded"),
        (&["doctor", "-o", "json"], "\"not_loaded\""),
        (&["check"], "conntrack is not loaded"),
        (&["snapshot", "-o", "json"], "\"conntrack_loaded\": false"),
    ] {
        let out = Command::new("conntrack-pressure").args(args).output()?;
        let text = String::from_utf8_lossy(&out.stdout);
        ensure!(out.status.success() && text.contains(says), "{args:?} does not say {says:?}: {out:?}");
        not_loaded().with_context(|| format!("after {args:?}"))?;
    }
    Ok(())
}

/// Refusals of the host's table are counted to the last one.
fn counts(daemon: &mut Subject, labels: &str) -> anyhow::Result<()> {
    let series = format!("conntrack_table_full_drops_total{labels}");
    let page = daemon.page("the host's refusals", |page| value(page, &series).is_some())?;
    let start = count(&page, &series)?;
    let before = kernel_drops()?;
    let refused = flood(REFUSALS)?;
    ensure!(
        kernel_drops()? - before == refused,
        "the kernel's drop statistic differs from the refused sends"
    );
    expect(daemon, labels, start, refused)
}

fn expect(daemon: &mut Subject, labels: &str, start: u64, refused: u64) -> anyhow::Result<()> {
    let series = format!("conntrack_table_full_drops_total{labels}");
    let page = daemon.page("the refusals to be counted", |page| {
        value(page, &series).is_some_and(|now| now as u64 >= start + refused)
    })?;
    let counted = count(&page, &series)? - start;
    println!("figure: absent: after loading, EPERM {refused} = kernel drop, counted {counted} in {labels}");
    ensure!(refused >= REFUSALS && counted == refused, "the counts differ");
    Ok(())
}

fn modules() -> anyhow::Result<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/modules")?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn not_loaded() -> anyhow::Result<()> {
    let there = modules()?.into_iter().filter(|name| name.contains("conntrack")).collect::<Vec<_>>();
    ensure!(there.is_empty(), "loaded: {there:?}");
    ensure!(!Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists(), "its sysctls are there");
    Ok(())
}

//! Each probe refused in turn: the daemon runs on, and metric, log and `doctor` name the one that is not there.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::daemon::value;
use crate::lab::kernel::kernel_drops;
use crate::refusals::{HOST, flood, prepare};
use crate::subject::{Subject, count, mechanism};

const WHY: &str = "refused by --test.refuse-probe";
const REFUSALS: u64 = 200;

/// A probe and the counts that must be absent without it. A probe that is not here takes no host series along.
const TAKES_ALONG: [(&str, &str); 7] = [
    ("free", "conntrack_accounted_entries{table=\"host\""),
    ("early_drop", "conntrack_table_full_drops_total{table=\"host\""),
    ("gc_worker", "conntrack_evictions_total{table=\"host\",namespace=\"\",pod=\"\",netns=\"\",cause=\"gc\""),
    ("delete", "conntrack_evictions_total{table=\"host\""),
    (
        "clash",
        "conntrack_insert_failed_total{table=\"host\",namespace=\"\",pod=\"\",netns=\"\",reason=\"clash\"",
    ),
    ("confirm", "conntrack_inserts_total{table=\"host\""),
    ("alloc", "conntrack_refusal_events_total{table=\"host\""),
];

/// Mechanism by probe.
type Mechanisms = BTreeMap<String, String>;

pub(crate) fn test() -> anyhow::Result<()> {
    prepare()?;
    let whole = doctor_json(&[])?;
    let all = mechanisms(&whole)?;
    let there = all.iter().filter(|(_, how)| *how != "none").map(|(name, _)| name.as_str());
    let there = there.collect::<Vec<_>>();
    println!("figure: probes: {all:?}");
    ensure!(there.len() == all.len(), "not every probe attaches here: {whole:#}");
    let mut daemon = Subject::attached(&[], "alloc")?;
    let page = daemon.page("the host's table", |page| page.contains(TAKES_ALONG[0].1))?;
    for (_, series) in TAKES_ALONG {
        ensure!(page.contains(series), "with all probes there is no {series}");
    }
    drop(daemon);
    for probe in &there {
        doctor_names(probe, &all)?;
        daemon_runs_on(probe, &there)?;
    }
    println!(
        "figure: probes: each of {} refused in turn, named by the metric, the log and doctor",
        there.len()
    );
    unknown_names()
}

fn doctor(args: &[&str]) -> anyhow::Result<Output> {
    let output = Command::new("conntrack-pressure").arg("doctor").args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "doctor {args:?}: {}: {said}", output.status);
    Ok(output)
}

fn doctor_json(args: &[&str]) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_slice(&doctor(&[&["-o", "json"], args].concat())?.stdout)?)
}

fn rows(doctor: &serde_json::Value) -> anyhow::Result<&Vec<serde_json::Value>> {
    doctor["probes"].as_array().context("doctor has no list of probes")
}

fn mechanisms(doctor: &serde_json::Value) -> anyhow::Result<Mechanisms> {
    let text = |row: &serde_json::Value, name: &str| {
        row[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {row}"))
    };
    rows(doctor)?.iter().map(|row| Ok((text(row, "probe")?, text(row, "mechanism")?))).collect()
}

/// Both forms of `doctor` say that this one is not attached and why; all others are as before.
fn doctor_names(probe: &str, before: &Mechanisms) -> anyhow::Result<()> {
    let refuse = ["--test.refuse-probe", probe];
    let found = doctor_json(&refuse)?;
    for (name, mechanism) in mechanisms(&found)? {
        // What infers refusals stands in for the probe that counts them, and cannot on some kernels.
        let depends = probe == "alloc" && name == "kfree_skb";
        let wanted = if name == probe { "none" } else { &before[&name] };
        ensure!(depends || mechanism == wanted, "without {probe}, {name} is attached by {mechanism}");
    }
    let row = rows(&found)?.iter().find(|row| row["probe"] == probe).context("the probe has no row")?;
    ensure!(row["reason"].as_str().is_some_and(|why| why.contains(WHY)), "doctor -o json: {row}");
    let text = String::from_utf8(doctor(&refuse)?.stdout)?;
    let mut lines = text.lines().skip_while(|line| {
        let mut words = line.split_whitespace();
        words.next() != Some(probe) || words.next() != Some("none")
    });
    let (row, why) = (lines.next(), lines.next());
    ensure!(
        row.is_some_and(|row| row.ends_with("not attached")),
        "doctor has no such row for {probe}:\n{text}"
    );
    ensure!(
        why.is_some_and(|why| why.contains("why: ") && why.contains(WHY)),
        "doctor says not why:\n{text}"
    );
    Ok(())
}

/// The daemon counts what it still can, and says what it cannot.
fn daemon_runs_on(probe: &str, there: &[&str]) -> anyhow::Result<()> {
    let other = there.iter().rfind(|name| **name != probe).context("there is no other probe")?;
    let mut daemon = Subject::attached(&["--test.refuse-probe", probe], other)?;
    let gone = format!("conntrack_probe_attached{{probe=\"{probe}\",mechanism=\"none\"}} 0");
    let page = daemon.page("the metric to name it, and the host's table", |page| {
        page.lines().any(|line| line == gone) && page.contains("conntrack_entries{table=\"host\"")
    })?;
    let lost = TAKES_ALONG.iter().find(|(name, _)| *name == probe);
    if let Some((_, series)) = lost {
        ensure!(!page.contains(series), "without {probe} there is still {series}");
    }
    let drops = kernel_drops()?;
    let start = refusals(&page)?;
    let refused = flood(REFUSALS)?;
    ensure!(kernel_drops()? - drops == refused, "the kernel's drop statistic differs from the refused sends");
    let page = daemon.page("the refusals to be counted", |page| {
        let counted = refusals(page).is_ok_and(|now| {
            now.iter().zip(start).all(|(now, start)| now.zip(start).is_none_or(|(n, s)| n >= s + refused))
        });
        counted && page.lines().any(|line| line == gone)
    })?;
    for (now, start) in refusals(&page)?.iter().zip(start) {
        ensure!(
            now.zip(start).is_none_or(|(now, start)| now == start + refused),
            "without {probe}: {refused} refused, counted {start:?} to {now:?}"
        );
    }
    for name in there.iter().filter(|name| **name != probe) {
        let depends = probe == "alloc" && *name == "kfree_skb";
        ensure!(
            depends || mechanism(&page, name).is_some(),
            "without {probe}, {name} is not attached either"
        );
    }
    let named = format!("\"probe\":\"{probe}\"");
    daemon.lines("the log to name it", 1, |line| line.contains(&named) && line.contains(WHY))?;
    let status = daemon.end(Signal::TERM)?;
    ensure!(status.success(), "without {probe}, conntrack-pressure ended with {status}");
    Ok(())
}

/// Refusals as `early_drop` counts them and as `alloc` does; None where the probe is not there.
fn refusals(page: &str) -> anyhow::Result<[Option<u64>; 2]> {
    let full = value(page, &format!("conntrack_table_full_drops_total{HOST}")).map(|n| n as u64);
    let mut events = None;
    if page.contains("conntrack_refusal_events_total{table=\"host\"") {
        let mut sum = 0;
        for outcome in ["logged", "suppressed", "lost"] {
            let labels = HOST.replace('}', &format!(",outcome=\"{outcome}\"}}"));
            sum += count(page, &format!("conntrack_refusal_events_total{labels}"))?;
        }
        events = Some(sum);
    }
    Ok([full, events])
}

/// A name no probe has is a mistake of the caller's.
fn unknown_names() -> anyhow::Result<()> {
    for command in ["run", "doctor", "check", "snapshot"] {
        crate::usage::refused(
            Command::new("conntrack-pressure").args([command, "--test.refuse-probe", "aloc"]),
            &["aloc", "--test.refuse-probe"],
        )?;
    }
    Ok(())
}

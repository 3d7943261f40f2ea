//! `doctor`: what attaches here, what does not, why, what to do, what is not covered. Printing only.

use std::fmt::Write as _;

use serde::Serialize;

use crate::aggregate::gaps::{Gap, GapState};
use crate::aggregate::snapshot::ProbeState;
use crate::export::coverage::attached;

/// All that `doctor` found.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    /// Version of this program.
    pub version: &'static str,
    /// Kernel release, as `uname -r` prints it; None: not known.
    pub kernel: Option<String>,
    /// Machine, such as "x86_64".
    pub machine: Option<String>,
    /// Is conntrack in this kernel?
    pub conntrack: Conntrack,
    /// How figures are come by.
    pub tier: Tier,
    /// Why not a better tier; one line. None at the best.
    pub tier_reason: Option<String>,
    /// One for each probe.
    pub probes: Vec<ProbeRow>,
    /// What is not covered, or only in part: one for each kind, present or not.
    pub coverage: Vec<Gap>,
    /// Further findings: limits of this process, kernel settings.
    pub findings: Vec<Note>,
}

/// How conntrack is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conntrack {
    /// Built in.
    BuiltIn,
    /// A module, loaded.
    Module,
    /// Not there (yet).
    NotLoaded,
    /// Could not be found out.
    Unknown,
}

/// How figures are come by, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// fentry and fexit on conntrack.
    Fentry,
    /// kprobe and kretprobe on conntrack.
    Kprobe,
    /// Raw tracepoints and the kernel's statistics.
    Inferred,
    /// The kernel's statistics alone.
    Statistics,
}

/// A probe, with what to do where it is not attached.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeRow {
    /// How it turned out.
    #[serde(flatten)]
    pub state: ProbeState,
    /// What to do about it; one line. None: nothing, or nothing can be done.
    pub remedy: Option<String>,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// In a word: "cilium", "notrack", "capabilities".
    pub topic: &'static str,
    /// What was found; one line.
    pub found: String,
    /// What it means or what to do; one line.
    pub advice: Option<String>,
}

/// Indented JSON with a final newline.
///
/// # Errors
/// If it cannot be serialized.
pub fn json(doctor: &Doctor) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(doctor)? + "\n")
}

/// For people.
#[must_use]
pub fn text(d: &Doctor) -> String {
    let known = |s: &Option<String>| s.clone().unwrap_or_else(|| "not known".to_owned());
    let mut out = String::new();
    let _ = writeln!(out, "conntrack-pressure {}", d.version);
    let _ = writeln!(out, "kernel       {} ({})", known(&d.kernel), known(&d.machine));
    let _ = writeln!(out, "conntrack    {}", conntrack(d.conntrack));
    let _ = writeln!(out, "figures      {}", tier(d.tier));
    if let Some(reason) = &d.tier_reason {
        let _ = writeln!(out, "             {reason}");
    }
    out.push('\n');
    probes(&mut out, &d.probes);
    gaps(&mut out, "Not covered, or only in part", &d.coverage, GapState::Present);
    gaps(&mut out, "Could not be found out", &d.coverage, GapState::Unknown);
    notes(&mut out, "Findings", d.findings.iter().map(|n| (n.topic, &n.found, n.advice.as_ref())));
    out
}

fn gaps(out: &mut String, title: &str, gaps: &[Gap], state: GapState) {
    let of = gaps.iter().filter(|g| g.state == state);
    notes(out, title, of.filter_map(|g| Some((g.kind, g.found.as_ref()?, g.advice.as_ref()))));
}

const fn conntrack(c: Conntrack) -> &'static str {
    match c {
        Conntrack::BuiltIn => "built in",
        Conntrack::Module => "module, loaded",
        Conntrack::NotLoaded => {
            "not loaded: there is no table to watch; it is picked up when something loads it"
        }
        Conntrack::Unknown => "not known",
    }
}

const fn tier(t: Tier) -> &'static str {
    match t {
        Tier::Fentry => "exact, by fentry on conntrack's functions",
        Tier::Kprobe => "exact while no run is missed, by kprobe on conntrack's functions",
        Tier::Inferred => {
            "node figures exact from the kernel's statistics; refusals inferred from raw tracepoints"
        }
        Tier::Statistics => "node figures exact from the kernel's statistics; no refusal can be seen singly",
    }
}

fn probes(out: &mut String, rows: &[ProbeRow]) {
    let width = |head: &str, of: fn(&ProbeState) -> usize| {
        rows.iter().map(|r| of(&r.state)).max().map_or(head.len(), |w| w.max(head.len()))
    };
    let (name, how) = (width("PROBE", |p| p.probe.len()), width("BY", |p| p.mechanism.len()));
    let serves = width("SERVES", |p| p.purpose.len());
    let _ = writeln!(out, "{:<name$}  {:<how$}  {:<serves$}  TARGET", "PROBE", "BY", "SERVES");
    for ProbeRow { state: p, remedy } in rows {
        let target = p.target.as_deref().unwrap_or(if attached(p) { "not known" } else { "not attached" });
        let missed = p.missed.filter(|n| *n > 0).map(|n| format!(", {n} runs missed")).unwrap_or_default();
        let _ = writeln!(
            out,
            "{:<name$}  {:<how$}  {:<serves$}  {target}{missed}",
            p.probe, p.mechanism, p.purpose
        );
        if let Some(reason) = &p.reason {
            let _ = writeln!(out, "{:name$}  why: {reason}", "");
        }
        if let Some(remedy) = remedy {
            let _ = writeln!(out, "{:name$}  do:  {remedy}", "");
        }
    }
}

/// (topic, what was found, what to do).
type Line<'a> = (&'static str, &'a String, Option<&'a String>);

fn notes<'a>(out: &mut String, title: &str, notes: impl Iterator<Item = Line<'a>>) {
    for (index, (topic, found, advice)) in notes.enumerate() {
        if index == 0 {
            let _ = writeln!(out, "\n{title}:");
        }
        let _ = writeln!(out, "- {topic}: {found}");
        if let Some(advice) = advice {
            let _ = writeln!(out, "  do: {advice}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{fixture, golden};

    fn doctor() -> Doctor {
        let row =
            |state: ProbeState, remedy: Option<&str>| ProbeRow { state, remedy: remedy.map(str::to_owned) };
        Doctor {
            version: "1.2.3",
            kernel: Some("6.12.0-cloud-amd64".into()),
            machine: Some("x86_64".into()),
            conntrack: Conntrack::Module,
            tier: Tier::Kprobe,
            tier_reason: Some("the kernel has no BTF for nf_conntrack, which fentry needs".into()),
            probes: vec![
                row(ProbeState { missed: Some(7), ..fixture::probe("alloc", "kprobe") }, None),
                row(fixture::probe("invalid", "none"), Some("run as root with CAP_BPF and CAP_PERFMON")),
            ],
            coverage: vec![
                gap("notrack", GapState::Absent),
                gap("cilium", GapState::Present),
                gap("zones", GapState::Unknown),
            ],
            findings: vec![Note { topic: "swap", found: "there is some".into(), advice: None }],
        }
    }

    fn gap(kind: &'static str, state: GapState) -> Gap {
        let told = |text: &str| (state != GapState::Absent).then(|| format!("{text} of {kind}"));
        Gap { kind, state, found: told("what was found"), advice: told("advice") }
    }

    #[test]
    fn text_of_the_fixture() {
        golden::assert_file("conntrack-user/src/command/testdata/doctor.txt", &text(&doctor()));
    }

    #[test]
    fn json_names_every_probe_with_reason_and_remedy() {
        let json: serde_json::Value = serde_json::from_str(&json(&doctor()).unwrap()).unwrap();
        assert_eq!(json["probes"][1]["probe"], "invalid");
        assert_eq!(json["probes"][1]["reason"], "the kernel refused it: EPERM");
        assert!(json["probes"][1]["remedy"].as_str().unwrap().contains("CAP_BPF"));
        assert_eq!(json["coverage"][0]["state"], "absent");
        assert!(json["coverage"][0]["found"].is_null());
        assert_eq!(
            (json["coverage"][1]["kind"].as_str(), json["coverage"][1]["state"].as_str()),
            (Some("cilium"), Some("present"))
        );
        assert_eq!((json["tier"].as_str(), json["conntrack"].as_str()), (Some("kprobe"), Some("module")));
    }
}

//! The churn of connections in a guest that counts instructions.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs::{self, Program};
use super::{Request, bpftrace};
use crate::build;
use crate::guest::vm::{self, End, VmRequest};

/// Of booting and warming up.
const START: Duration = Duration::from_secs(300);
/// Of a round of every variant, on a busy host.
const ROUND: Duration = Duration::from_secs(240);

/// A line of `conntrack-guest cost`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum Line {
    /// A run.
    Run {
        /// Counted from 1.
        round: u64,
        /// Who watched.
        variant: String,
        /// Connections made and answered: the truth.
        connections: u64,
        /// How long they took, in nanoseconds of the guest's clock.
        ns: u64,
        /// Connections the watcher saw; None: it watches nothing.
        saw: Option<u64>,
        /// Runs of its programs that the kernel skipped; None: it does not tell.
        missed: Option<u64>,
    },
    /// A variant that cannot be had.
    NotRun {
        /// Who would have watched.
        variant: String,
        /// Why not.
        not_run: String,
    },
}

/// What a guest told.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// What was booted.
    pub(crate) kernel: String,
    /// Every run.
    pub(crate) runs: Vec<Line>,
    /// Every program of ours that ran.
    pub(crate) programs: Vec<Program>,
}

/// Boots and runs.
///
/// # Errors
/// When the guest cannot be had or fails.
pub(crate) fn measure(request: &Request) -> Result<Measured> {
    let (rounds, connections) =
        (format!("COST_ROUNDS={}", request.rounds), format!("COST_CONNECTIONS={}", request.connections));
    let command = ["env", &rounds, &connections, "conntrack-guest", "cost"];
    let packed = bpftrace::archive();
    if let Err(why) = &packed {
        eprintln!("bpftrace: not run: {why:#}");
    }
    let request = VmRequest {
        memory: "2G".to_owned(),
        icount: true,
        add: packed.into_iter().collect(),
        timeout: START + ROUND * request.rounds,
        ..VmRequest::new(&request.kernel, &command)
    };
    let outcome = vm::run(&request, &build::guest_programs()?)?;
    let tail = outcome.console_tail(20);
    ensure!(outcome.end == End::Exited(0), "the churn did not end well: {:?}\n{tail}", outcome.end);
    let told = String::from_utf8_lossy(&outcome.output);
    Ok(Measured { kernel: outcome.kernel, runs: parse(&told)?, programs: programs::parse(&told)? })
}

fn parse(output: &str) -> Result<Vec<Line>> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("cost "));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("no figures: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_what_was_not_run_are_told_apart() {
        let output = "noise\ncost {\"round\":1,\"variant\":\"bare\",\"connections\":5,\"ns\":7,\"saw\":null,\
                      \"missed\":null,\"entries_before\":0}\ncost {\"variant\":\"x\",\"not_run\":\"no\"}\n";
        let lines = parse(output).unwrap();
        assert!(matches!(&lines[0], Line::Run { ns: 7, saw: None, .. }), "{lines:?}");
        assert!(matches!(&lines[1], Line::NotRun { not_run, .. } if not_run == "no"));
        assert!(parse("cost {}").is_err());
    }
}

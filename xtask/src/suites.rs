//! The guest tests: which there are, and running one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::guest::extra::{CONTAINERS, Extra, HAPROXY};
use crate::guest::vm::{self, End, VmRequest};
use crate::report::{self, Row};

/// A test that runs in a guest, as a command of `conntrack-guest`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// The arguments of `conntrack-guest`.
    pub(crate) args: &'static [&'static str],
    /// The kernels `test` runs it on; `matrix` runs each on all.
    pub(crate) test_on: &'static [&'static str],
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// What it needs beside the base.
    pub(crate) extra: Option<&'static Extra>,
}

/// Every guest test. A new one is a new row.
pub(crate) const SUITES: &[Suite] = &[
    suite(ATTACH, &[ATTACH], SMOKE),
    suite("refusals", &["refusals"], SMOKE),
    suite("refusals by kprobe", &["refusals", "--mechanism", "kprobe"], SMOKE),
    suite("forwarded", &["forwarded"], SMOKE),
    suite("forwarded by kprobe", &["forwarded", "--mechanism", "kprobe"], SMOKE),
    suite("forwarded-node", &["forwarded-node"], FULL),
    suite("owners", &["owners"], FULL),
    suite("whose", &["whose"], FULL),
    suite("whose by kprobe", &["whose", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("containers", &["containers"], FULL).with(&CONTAINERS),
    suite("containers by kprobe", &["containers", "--mechanism", "kprobe"], MATRIX_ONLY).with(&CONTAINERS),
    suite("audited", &["audited"], FULL),
    suite("balance", &["balance"], MATRIX_ONLY),
    suite("balance by kprobe", &["balance", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("restart", &["restart", "--size", "20000"], MATRIX_ONLY),
    suite("restart by kprobe", &["restart", "--size", "20000", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("restart of 100,000", &["restart", "--size", "100000"], MATRIX_ONLY),
    suite("moved", &["moved"], MATRIX_ONLY),
    suite("moved by kprobe", &["moved", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("passing", &["passing", "--size", "200"], MATRIX_ONLY),
    suite("passing by kprobe", &["passing", "--size", "200", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("passing of 1,000", &["passing", "--size", "1000"], MATRIX_ONLY).within(1_800),
    suite("culprit", &["culprit"], FULL),
    suite("broken", &["broken"], SMOKE),
    suite("invalid", &["invalid"], SMOKE),
    suite("ordinary", &["ordinary", "--size", "5000"], FULL),
    suite("ordinary of 100,000", &["ordinary", "--size", "100000"], MATRIX_ONLY).within(1_500),
    suite(LAB, &[LAB], FULL),
    suite("lab by kprobe", &[LAB, "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("lab without probes", &[LAB, "--mechanism", "none"], MATRIX_ONLY),
    suite("lab of 3,000", &[LAB, "--size", "3000", "--seed", "2"], MATRIX_ONLY).within(1_800),
    suite("lab at default retries", &[LAB, "--syn-retries", "default"], MATRIX_ONLY),
    suite("soon", &["soon"], FULL),
    suite("incident", &["incident"], FULL).with(&HAPROXY),
    suite("broken by kprobe", &["broken", "--mechanism", "kprobe"], FULL),
    suite("culprit by kprobe", &["culprit", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("many", &["many", "--size", "150"], MATRIX_ONLY),
    suite("many of 500", &["many", "--size", "500"], MATRIX_ONLY),
    suite("preempted", &["preempted"], MATRIX_ONLY),
    suite("preempted by kprobe", &["preempted", "--mechanism", "kprobe"], MATRIX_ONLY),
    suite("preempted by a crowd", &["preempted-crowd"], MATRIX_ONLY),
    suite("protocols", &["protocols"], FULL),
    suite("protocols by kprobe", &["protocols", "--mechanism", "kprobe"], FULL),
    suite("evictions", &["evictions"], FULL),
    suite("evictions by kprobe", &["evictions", "--mechanism", "kprobe"], FULL),
    suite("evictions by both", &["evictions", "--mechanism", "mixed"], FULL),
    suite("gc", &["gc"], FULL),
    suite("resets", &["resets"], FULL),
    suite("resets by kprobe", &["resets", "--mechanism", "kprobe"], FULL),
    suite("races", &["races"], FULL),
    suite("races by kprobe", &["races", "--mechanism", "kprobe"], FULL),
    suite("churn", &["churn"], FULL),
    suite("churn by kprobe", &["churn", "--mechanism", "kprobe"], FULL),
    suite("events", &["events"], FULL),
    suite("probes", &["probes"], FULL),
    suite("absent", &["absent"], FULL),
    suite("ends", &["ends"], FULL),
    suite("usage", &["usage"], FULL),
];

/// The suite whose figures say what attached: docs/kernels.md is made from them.
pub(crate) const ATTACH: &str = "attach";

/// The suite that `cargo xtask lab` runs.
pub(crate) const LAB: &str = "lab";

/// The kernel that `test` runs everything on.
const FULL: &[&str] = &["6.12"];
/// And those at both ends, for what matters most.
const SMOKE: &[&str] = &["6.12", "5.10", "newest"];

/// Too long for `test`: `matrix` runs it.
const MATRIX_ONLY: &[&str] = &[];

const fn suite(name: &'static str, args: &'static [&'static str], test_on: &'static [&'static str]) -> Suite {
    Suite { name, args, test_on, timeout: Duration::from_secs(600), extra: None }
}

impl Suite {
    /// May take so many seconds.
    const fn within(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// With this in the guest.
    const fn with(mut self, extra: &'static Extra) -> Self {
        self.extra = Some(extra);
        self
    }
}

/// The kernels `matrix` runs on.
pub(crate) const KERNELS: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", "newest"];

/// Runs a suite on a kernel and streams its output. Also returns the kernel that was booted, if one was.
pub(crate) fn run(suite: &Suite, kernel: &str, programs: &[PathBuf]) -> (Row, Option<String>) {
    let command = std::iter::once("conntrack-guest").chain(suite.args.iter().copied()).collect::<Vec<_>>();
    let request = VmRequest {
        timeout: suite.timeout,
        extras: suite.extra.into_iter().collect(),
        ..VmRequest::new(kernel, &command)
    };
    let row = |result, figures, seconds| Row {
        suite: suite.name.to_owned(),
        kernel: kernel.to_owned(),
        result,
        figures,
        seconds,
    };
    let started = Instant::now();
    match vm::run(&request, programs) {
        Ok(outcome) => {
            let result = verdict(outcome.end, suite.timeout);
            if result.is_err() {
                eprintln!("the guest's console:\n{}", outcome.console_tail(40));
            }
            (row(result, report::figures(&outcome.output), outcome.took.as_secs_f64()), Some(outcome.kernel))
        }
        Err(error) => (row(Err(format!("{error:#}")), Vec::new(), started.elapsed().as_secs_f64()), None),
    }
}

fn verdict(end: End, timeout: Duration) -> Result<(), String> {
    match end {
        End::Exited(0) => Ok(()),
        End::Exited(status) => Err(format!("exit status {status}")),
        End::Panicked => Err("the kernel stopped".to_owned()),
        End::TimedOut => Err(format!("no end within {} s", timeout.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exit_with_zero_is_green() {
        let timeout = Duration::from_secs(5);
        assert_eq!(verdict(End::Exited(0), timeout), Ok(()));
        for end in [End::Exited(1), End::Panicked, End::TimedOut] {
            assert!(verdict(end, timeout).is_err(), "{end:?}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_never_green() {
        let (row, booted) = run(&SUITES[0], "/nonexistent/kernel", &[]);
        assert!(row.result.is_err_and(|why| why.starts_with("not obtainable: ")));
        assert_eq!(booted, None);
    }

    #[test]
    fn suites_have_names_of_their_own() {
        let names = SUITES.iter().map(|suite| suite.name).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names.len(), SUITES.len());
    }
}

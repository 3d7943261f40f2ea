//! `test` and `matrix`: everything that must hold, step by step, and how it ended.

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::attempts::{Attempt, Attempts};
use crate::report::{self, Report};
use crate::suites::{self, KERNELS, SUITES};
use crate::{build, lint, proc, seen, setup};

/// Counts steps and tells of each.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        println!("== {name}");
        let started = Instant::now();
        let result = run().map_err(|error| format!("{error:#}"));
        self.told(name, &result, started.elapsed().as_secs_f64());
    }

    fn told(&mut self, name: &str, result: &std::result::Result<(), String>, seconds: f64) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok {name} ({seconds:.1} s)");
            }
            Err(why) => {
                self.failed += 1;
                println!("FAILED {name} ({seconds:.1} s): {why}");
            }
        }
    }

    /// Prints the last line.
    fn end(&self) -> ExitCode {
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Sets up, lints, runs unit and host tests, then the guest tests (`quick`: on the first kernel of each only).
///
/// # Errors
/// When setting up is refused; a test that fails is counted instead.
pub(crate) fn test(yes: bool, quick: bool) -> Result<ExitCode> {
    println!("== setup");
    setup::ensure(true, yes)?;
    let mut tally = Tally::default();
    tally.step("lint", lint::all);
    tally.step("unit and host tests", || {
        proc::run(build::cargo()?.args(["test", "--quiet", "--workspace", "--exclude", "conntrack-ebpf"]))
    });
    let runs = SUITES.iter().flat_map(|suite| {
        let kernels = if quick { &suite.test_on[..suite.test_on.len().min(1)] } else { suite.test_on };
        kernels.iter().map(move |&kernel| (suite, kernel))
    });
    let mut programs = Vec::new();
    tally.step("programs for guests", || {
        programs = build::guest_programs()?;
        Ok(())
    });
    for (suite, kernel) in runs {
        let name = format!("{} on {kernel}", suite.name);
        println!("== {name}");
        let (row, _) = suites::run(suite, kernel, &programs);
        tally.told(&name, &row.result, row.seconds);
    }
    if let Some(why) = report::staleness(&build::workspace()?)? {
        println!("warning: {why}: `cargo xtask matrix` writes a new one");
    }
    Ok(tally.end())
}

/// Runs the guest tests named on the kernels named (all, when none is) and, once every test was run on every kernel
/// from these sources, be it in parts, writes the report. What passed before from the same sources is not run again
/// unless `again`.
///
/// # Errors
/// When setting up is refused, the programs do not build, or the report cannot be written.
pub(crate) fn matrix(kernels: &[String], only: &[String], again: bool, yes: bool) -> Result<ExitCode> {
    setup::ensure(true, yes)?;
    let workspace = build::workspace()?;
    let source_hash = report::source_hash(&workspace)?;
    let mut attempts = Attempts::of(&build::target_dir()?, &source_hash)?;
    let programs = build::guest_programs()?;
    let all = KERNELS.map(str::to_owned);
    let kernels = if kernels.is_empty() { &all[..] } else { kernels };
    let mut tally = Tally::default();
    for kernel in kernels {
        for suite in SUITES.iter().filter(|s| only.is_empty() || only.iter().any(|o| o == s.name)) {
            let name = format!("{} on {kernel}", suite.name);
            println!("== {name}");
            if !again && attempts.passed(suite.name, kernel) {
                println!("ok {name}: passed before, from these sources");
                tally.passed += 1;
                continue;
            }
            let (row, booted) = suites::run(suite, kernel, &programs);
            tally.told(&name, &row.result, row.seconds);
            attempts.keep(Attempt { row, booted })?;
        }
    }
    let report = Report::of(date()?, source_hash, attempts.all());
    seen::write(&workspace, &report.rows, &report.kernels)?;
    let missing = pairs().filter(|(suite, kernel)| !attempts.made(suite, kernel)).count();
    if missing == 0 {
        let path = workspace.join(report::PATH);
        fs::create_dir_all(workspace.join("docs"))?;
        fs::write(&path, report.markdown()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {}", report::PATH);
    } else {
        println!("{}\nnot written to {}: {missing} are yet to run", report.markdown(), report::PATH);
    }
    Ok(tally.end())
}

/// Every test on every kernel.
fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    KERNELS.iter().flat_map(|&kernel| SUITES.iter().map(move |suite| (suite.name, kernel)))
}

/// Says whether the committed report speaks of these sources.
///
/// # Errors
/// When the sources cannot be read.
pub(crate) fn check_matrix() -> Result<ExitCode> {
    match report::staleness(&build::workspace()?)? {
        None => {
            println!("{} is of these sources", report::PATH);
            Ok(ExitCode::SUCCESS)
        }
        Some(why) => {
            println!("stale: {why}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Now, to the minute.
///
/// # Errors
/// When `date` does not run.
pub(crate) fn date() -> Result<String> {
    let text = proc::text(std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?;
    Ok(text.trim().to_owned())
}

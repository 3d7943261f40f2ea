//! `bench`: what the probes cost, and what they see, beside others.

mod bpftrace;
mod churn;
mod dump;
mod figures;
mod native;
mod page;
mod programs;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{build, proc, report, setup};

/// Where the table is, in the workspace.
const PAGE: &str = "docs/performance.md";
/// Where the same is for programs.
const DATA: &str = "docs/performance.json";

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The guest's kernel.
    pub(crate) kernel: String,
    /// How often each variant runs.
    pub(crate) rounds: u32,
    /// Connections of one run.
    pub(crate) connections: u32,
    /// Only print: leave the files in docs as they are.
    pub(crate) print_only: bool,
    /// Only the dump of a full table on this host.
    pub(crate) dump_only: bool,
}

/// Measures on this host and in a guest, prints the tables, and writes them.
///
/// # Errors
/// When setting up is refused, a program does not build, the guest fails, or a file cannot be written.
pub(crate) fn run(request: &Request, yes: bool) -> Result<ExitCode> {
    if request.dump_only {
        setup::ensure(false, yes)?;
        dump::measure()?.iter().for_each(|figure| println!("figure: {figure}"));
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure(true, yes)?;
    let workspace = build::workspace()?;
    let source_hash = report::source_hash(&workspace)?;
    let native = native::measure();
    if let Err(why) = &native {
        eprintln!("native figures: not run: {why:#}");
    }
    let dump = dump::measure();
    if let Err(why) = &dump {
        eprintln!("dump of a full table: not run: {why:#}");
    }
    let churn::Measured { kernel, runs, programs } = churn::measure(request)?;
    let results = page::Results {
        date: proc::text(std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?
            .trim()
            .to_owned(),
        source_hash,
        host: page::host(),
        kernel,
        connections: request.connections,
        native: native.map_err(|why| format!("{why:#}")),
        dump: dump.map_err(|why| format!("{why:#}")),
        churn: figures::summed_up(&runs)?,
        programs,
    };
    let text = results.markdown();
    println!("{text}");
    if request.print_only {
        println!("not written to {PAGE}: only printed");
        return Ok(ExitCode::SUCCESS);
    }
    for (path, content) in [(PAGE, text), (DATA, serde_json::to_string_pretty(&results.json())? + "\n")] {
        fs::write(workspace.join(path), content).with_context(|| format!("cannot write {path}"))?;
        println!("written: {path}");
    }
    Ok(ExitCode::SUCCESS)
}

//! What each of our programs takes of the same connections, by the kernel's own statistics of programs.

use std::fs;

use anyhow::Context as _;
use serde_json::Value;

use super::load::{self, Server};
use super::watcher::{Variant, Watcher};
use crate::lab::command::output;

/// Counts runs of programs and how long they took; it costs something, so no ratio is taken with it.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Prints one JSON object for each program that ran, behind `program `.
pub(super) fn tell(server: &Server, connections: u64, number: u64) -> anyhow::Result<()> {
    for (variant, number) in [Variant::Fentry, Variant::Kprobe].into_iter().zip(number..) {
        let Ok(watcher) = Watcher::start(variant)? else { continue };
        fs::write(STATISTICS, "1").context("cannot have programs' runs counted")?;
        let run = load::run(server, connections, number)?;
        fs::write(STATISTICS, "0")?;
        let programs: Value = serde_json::from_str(&output("bpftool", &["-j", "prog", "list"])?)?;
        for program in programs.as_array().context("bpftool lists no programs")? {
            let Some(runs) = program["run_cnt"].as_u64().filter(|runs| *runs > 0) else { continue };
            println!(
                "program {}",
                serde_json::json!({
                    "variant": variant.name(), "program": program["name"], "connections": run.made,
                    "runs": runs, "ns": program["run_time_ns"],
                })
            );
        }
        watcher.stop()?;
    }
    Ok(())
}

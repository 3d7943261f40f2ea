//! Nanoseconds of the handlers on this host.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{build, proc};

/// One program, as `conntrack-bench` prints it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name.
    pub(crate) program: String,
    /// Runs of one measurement.
    pub(crate) repeat: u32,
    /// Nanoseconds of one run: the median of the measurements.
    pub(crate) ns: u64,
    /// Their least.
    pub(crate) ns_min: u64,
    /// Their greatest.
    pub(crate) ns_max: u64,
}

/// Builds `conntrack-bench` and runs it, as root.
///
/// # Errors
/// When it does not build, this is not root, or the kernel does not run the programs.
pub(crate) fn measure() -> Result<Vec<Program>> {
    ensure!(proc::is_root(), "root is needed to run BPF programs");
    let mut cargo = build::cargo()?;
    cargo.args(["build", "--quiet", "--release", "--package", "conntrack-user"]);
    cargo.args(["--features", "bench", "--bin", "conntrack-bench"]);
    proc::run(&mut cargo).context("conntrack-bench does not build")?;
    parse(&proc::text(&mut Command::new(build::target_dir()?.join("release/conntrack-bench")))?)
}

fn parse(text: &str) -> Result<Vec<Program>> {
    text.lines()
        .map(|line| serde_json::from_str(line).context("conntrack-bench printed no figures"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_of_figures() {
        let line = r#"{"ns":35,"ns_max":36,"ns_min":34,"program":"empty","repeat":1000000}"#;
        let programs = parse(line).unwrap();
        assert_eq!((programs[0].program.as_str(), programs[0].ns), ("empty", 35));
        assert!(parse("nothing").is_err());
    }
}

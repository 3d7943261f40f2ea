//! The tier without probes on this host: a full table dumped, read and given to its owners.

use anyhow::{Context, Result, bail};

use crate::{build, proc};

/// How its test marks a figure.
const MARK: &str = "figure: ";
/// How it begins where it cannot run.
const SKIPPED: &str = "skipped: ";

/// Builds the host test of it with optimization, runs it, and gives the figures it prints. It fails unless each owner
/// got what is its own, and all of them together what the kernel counts.
///
/// # Errors
/// When it does not build, fails, or cannot run here.
pub(crate) fn measure() -> Result<Vec<String>> {
    let mut cargo = build::cargo()?;
    cargo.args(["test", "--quiet", "--release", "--package", "conntrack-user", "--test", "host_dump"]);
    cargo.args(["--", "--nocapture"]);
    figures(&proc::text(&mut cargo).context("the test host_dump")?)
}

fn figures(text: &str) -> Result<Vec<String>> {
    if let Some(why) = text.lines().find_map(|line| line.strip_prefix(SKIPPED)) {
        bail!("{why}");
    }
    // The harness writes dots into the first line.
    let found = text.lines().filter_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
    let found: Vec<String> = found.collect();
    if found.is_empty() {
        bail!("it printed no figures");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_figures_and_why_there_are_none() {
        let text = "\nrunning 1 test\nfigure: a 1\nelse\n.figure: b 2\n";
        assert_eq!(figures(text).unwrap(), ["a 1", "b 2"]);
        assert_eq!(figures("skipped: not root\n").unwrap_err().to_string(), "not root");
        assert!(figures("running 1 test\n").is_err());
    }
}

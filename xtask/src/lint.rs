//! Formatting, lints, and the size of files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{build, proc};

/// A source file is at most this many lines.
const LONGEST: usize = 500;

/// Checks everything; the probes are checked by being built (conntrack-user's build script does it).
///
/// # Errors
/// The first thing that is not as it should be.
pub(crate) fn all() -> Result<()> {
    lengths()?;
    proc::run(build::cargo()?.args(["fmt", "--all", "--", "--check"]))
        .context("not formatted: run `cargo fmt` (if it is not installed: `rustup component add rustfmt`)")?;
    proc::run(build::cargo()?.args([
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude",
        "conntrack-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
    .context("clippy complains (if it is not installed: `rustup component add clippy`)")
}

fn lengths() -> Result<()> {
    let workspace = build::workspace()?;
    let mut long = Vec::new();
    for file in sources(&workspace)? {
        let lines = fs::read_to_string(&file)?.lines().count();
        if lines > LONGEST {
            let name = file.strip_prefix(&workspace).unwrap_or(&file);
            long.push(format!("{} has {lines} lines", name.display()));
        }
    }
    if !long.is_empty() {
        bail!("more than {LONGEST} lines in a file: {}: split by purpose", long.join(", "));
    }
    Ok(())
}

/// Every Rust file of the workspace's crates.
fn sources(workspace: &Path) -> Result<Vec<PathBuf>> {
    let files = crate::report::tracked_files(workspace)?;
    let rust = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "rs");
    Ok(files.into_iter().filter(rust).collect())
}

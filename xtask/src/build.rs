//! Building the project's own programs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::proc;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's folder.
///
/// # Errors
/// When xtask does not lie in a workspace.
pub(crate) fn workspace() -> Result<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    parent.map(Path::to_owned).context("xtask lies outside its workspace")
}

/// The cargo that runs this command, called in the workspace.
///
/// # Errors
/// When xtask does not lie in a workspace.
pub(crate) fn cargo() -> Result<Command> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()?);
    for (name, _) in env::vars_os() {
        // What `cargo run` sets for xtask is not meant for the next build.
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(&name);
        }
    }
    Ok(cargo)
}

/// Where builds go.
///
/// # Errors
/// When xtask does not lie in a workspace.
pub(crate) fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(workspace()?.join(folder)),
        None => Ok(workspace()?.join("target")),
    }
}

/// Builds the daemon for this host and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn daemon() -> Result<PathBuf> {
    proc::run(cargo()?.args([
        "build",
        "--release",
        "--package",
        "conntrack-user",
        "--bin",
        "conntrack-pressure",
    ]))
    .context("the daemon does not build")?;
    Ok(target_dir()?.join("release/conntrack-pressure"))
}

/// Builds what every guest carries, linked statically: the daemon and `conntrack-guest`.
///
/// # Errors
/// When the build fails.
pub(crate) fn guest_programs() -> Result<Vec<PathBuf>> {
    let folder = target_dir()?.join("static");
    let mut cargo = cargo()?;
    cargo
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .args(["--package", "conntrack-user", "--bin", "conntrack-pressure"])
        .args(["--package", "xtask", "--bin", "conntrack-guest"])
        .arg("--target-dir")
        .arg(&folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    proc::run(&mut cargo).context("the programs for guests do not build")?;
    let built = folder.join(TARGET).join("release");
    Ok(["conntrack-pressure", "conntrack-guest"].map(|name| built.join(name)).to_vec())
}

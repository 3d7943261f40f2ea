//! `run`, `demo` and `lab`: the daemon on this host, and in a guest.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::guest::vm::VmRequest;
use crate::suites::LAB;
use crate::{build, cli, proc, setup};

/// Sets up what is missing, builds the daemon, and becomes it; through sudo unless root.
///
/// # Errors
/// When setting up is refused, the build fails, or the daemon does not start.
pub(crate) fn run(args: &[String], yes: bool) -> Result<ExitCode> {
    setup::ensure(false, yes)?;
    let daemon = build::daemon()?;
    let mut command = if proc::is_root() {
        Command::new(&daemon)
    } else {
        let sudo =
            proc::find("sudo").context("the probes need root, and there is no sudo: run this as root")?;
        let mut command = Command::new(sudo);
        command.arg(&daemon);
        command
    };
    let error = command.arg("run").args(args).exec();
    Err(anyhow!(error).context(format!("`{}` does not start", proc::shown(&command))))
}

/// Shows in a guest how a table overruns and what the daemon says; this host is not touched.
///
/// # Errors
/// When setting up is refused or the guest cannot be had.
pub(crate) fn demo(kernel: &str, yes: bool) -> Result<ExitCode> {
    setup::ensure(true, yes)?;
    let timeout = Duration::from_secs(600);
    cli::boot(&VmRequest { timeout, ..VmRequest::new(kernel, &["conntrack-guest", "demo"]) })
}

/// Holds the daemon's word on many connections against the truth, in a guest.
///
/// # Errors
/// When setting up is refused or the guest cannot be had.
pub(crate) fn lab(
    kernel: &str,
    seed: u64,
    size: u32,
    default_syn_retries: bool,
    yes: bool,
) -> Result<ExitCode> {
    setup::ensure(true, yes)?;
    let (seed, size_text) = (seed.to_string(), size.to_string());
    let mut command = vec!["conntrack-guest", LAB, "--seed", &seed, "--size", &size_text];
    // A round of some hundred cases takes ten seconds or so, on a slow machine several times that.
    let mut timeout = Duration::from_secs(600 + u64::from(size) / 3);
    if default_syn_retries {
        command.extend(["--syn-retries", "default"]);
        timeout += Duration::from_secs(u64::from(size));
    }
    cli::boot(&VmRequest { timeout, ..VmRequest::new(kernel, &command) })
}

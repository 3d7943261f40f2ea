//! Running programs of the guest.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, ensure};

/// Runs a program and gives its standard output. A program runs in the calling thread's network namespace.
///
/// # Errors
/// When it cannot be run, or fails: with what it said.
pub(crate) fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    checked(program, args, out)
}

/// Runs a program with this standard input.
///
/// # Errors
/// As [`output`].
pub(crate) fn feed(program: &str, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    checked(program, args, child.wait_with_output()?)
}

fn checked(program: &str, args: &[&str], out: Output) -> anyhow::Result<String> {
    ensure!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

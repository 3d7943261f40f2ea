//! `bare`: the README's commands, as they stand there, on a fresh Debian with only a Rust toolchain.

mod readme;
mod root;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::root::Root;
use crate::{build, proc, report, test};

/// Where the report is, in the workspace.
const PATH: &str = "docs/bare-report.md";
/// Where `cargo xtask run` serves when nothing else is asked for.
const ADDRESS: &str = "127.0.0.1:9466";
/// For any one command.
const PATIENCE: Duration = Duration::from_secs(45 * 60);
/// For the daemon to end when told to.
const STOPPING: Duration = Duration::from_secs(30);

/// A step, and how long it took in seconds.
type Step = (String, f64);

/// Makes the root, runs the README's commands in it, and writes the report.
///
/// # Errors
/// When a step fails or takes too long; then no report is written.
pub(crate) fn bare() -> Result<ExitCode> {
    ensure!(page().is_none(), "something serves on {ADDRESS} already: stop it first");
    let workspace = build::workspace()?;
    let mut steps = Vec::new();
    let root = timed(&mut steps, "debootstrap, minimal", Root::make)?;
    let clone = root.clone(&workspace)?;
    let commands = readme::commands(&fs::read_to_string(clone.join("README.md"))?);
    ensure!(commands.len() == 2, "the README begins with {} commands, not two", commands.len());
    timed(&mut steps, "apt-get install build-essential, which the README asks for", || {
        proc::run(&mut root.command(&["apt-get", "-q", "update"]))?;
        let install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", "build-essential"];
        proc::run(&mut root.command(&install))
    })?;
    for turn in ["", ", again"] {
        for command in &commands {
            let shown = command.join(" ");
            let words = command.iter().map(String::as_str).collect::<Vec<_>>();
            if readme::serves(command) {
                let name = format!("`{shown}`, to its first page of metrics{turn}");
                timed(&mut steps, &name, || first_page(&mut root.command(&words)))?;
            } else {
                timed(&mut steps, &format!("`{shown}`{turn}"), || ended(&mut root.command(&words)))?;
            }
        }
    }
    let text = markdown(&test::date()?, &report::source_hash(&clone)?, &root.version()?, &steps);
    fs::write(workspace.join(PATH), &text)?;
    println!("{text}\nwritten: {PATH}");
    Ok(ExitCode::SUCCESS)
}

fn timed<T>(steps: &mut Vec<Step>, name: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let started = Instant::now();
    let done = run().with_context(|| format!("failed: {name}"))?;
    let took = started.elapsed().as_secs_f64();
    println!("ok {name} ({took:.1} s)");
    steps.push((name.to_owned(), took));
    Ok(done)
}

/// Runs to the end, which must be a good one.
fn ended(command: &mut Command) -> Result<()> {
    let mut child = Running(command.spawn()?);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.0.try_wait()? {
            ensure!(status.success(), "`{}` ended with {status}", proc::shown(command));
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no end within {} s", PATIENCE.as_secs())
}

/// Runs until it serves a page, then tells it to stop.
fn first_page(command: &mut Command) -> Result<()> {
    let mut child = Running(command.spawn()?);
    let deadline = Instant::now() + PATIENCE;
    let page = loop {
        if let Some(status) = child.0.try_wait()? {
            bail!("`{}` ended with {status} before it served", proc::shown(command));
        }
        if let Some(page) = page() {
            break page;
        }
        ensure!(Instant::now() < deadline, "no page within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(page.contains("\nconntrack_build_info{"), "that is no page of ours:\n{page}");
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let deadline = Instant::now() + STOPPING;
    while Instant::now() < deadline {
        if let Some(status) = child.0.try_wait()? {
            ensure!(status.success(), "it ended with {status} on SIGTERM");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("it does not end on SIGTERM")
}

/// The page of metrics, if one is served.
fn page() -> Option<String> {
    let mut stream = TcpStream::connect(ADDRESS).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Killed, should this end before it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn markdown(date: &str, source_hash: &str, version: &str, steps: &[Step]) -> String {
    let mut text = format!(
        "# The README's commands on a fresh Debian\n\nWritten by `cargo xtask bare`: a root made by debootstrap, with \
         only the Rust toolchain bound in, and a clean clone.\n\n- Date: {date}\n- {}`{source_hash}`\n- Debian \
         {version}\n\n| step | seconds |\n|---|---|\n",
        report::HASH
    );
    for (name, seconds) in steps {
        text.push_str(&format!("| {name} | {seconds:.1} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_tells_every_step() {
        let text = markdown("2026-01-02 03:04 UTC", "abc", "12.11", &[("`x y`".to_owned(), 61.26)]);
        assert!(text.contains("- Source hash: `abc`\n- Debian 12.11\n"), "{text}");
        assert!(text.ends_with("| `x y` | 61.3 |\n"), "{text}");
    }
}

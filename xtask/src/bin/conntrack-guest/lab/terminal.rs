//! A terminal of 80 columns and 24 lines that tmux keeps: keys go in, screens come out.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::daemon::DEADLINE;

const COLUMNS: usize = 80;
const LINES: usize = 24;
/// What the terminal shows before the program starts, and again when it has left.
const BEFORE: &str = "before";

/// The terminal; gone when dropped.
#[derive(Debug)]
pub(crate) struct Terminal(());

impl Terminal {
    /// Starts a program in it.
    ///
    /// # Errors
    /// When tmux fails.
    pub(crate) fn start(program: &str) -> anyhow::Result<Self> {
        let shell = format!("echo {BEFORE}; {program}; echo \"exit status $?\"; exec sleep 1000");
        let (columns, lines) = (COLUMNS.to_string(), LINES.to_string());
        tmux(&["new-session", "-d", "-x", &columns, "-y", &lines, &shell])?;
        Ok(Self(()))
    }

    /// Types keys, by tmux's names for them.
    ///
    /// # Errors
    /// When tmux fails.
    pub(crate) fn keys(&self, keys: &[&str]) -> anyhow::Result<()> {
        tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// What it shows: lines, without blanks at their ends.
    ///
    /// # Errors
    /// When tmux fails, or a line is longer than the terminal.
    pub(crate) fn screen(&self) -> anyhow::Result<Vec<String>> {
        let text = tmux(&["capture-pane", "-p"])?;
        let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        ensure!(lines.len() <= LINES, "{} lines:\n{text}", lines.len());
        for line in &lines {
            ensure!(line.chars().count() <= COLUMNS, "too long: {line}");
        }
        Ok(lines)
    }

    /// Waits until it shows what satisfies.
    ///
    /// # Errors
    /// At the deadline, with what it shows then.
    pub(crate) fn until(
        &self,
        what: &str,
        mut is: impl FnMut(&[String]) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let until = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen()?;
            if is(&screen) {
                return Ok(screen);
            }
            if Instant::now() > until {
                bail!("waited for {what}, but the terminal shows:\n{}", screen.join("\n"));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Types `key`, and the program must end well and leave the terminal as it was.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn end(self, key: &str) -> anyhow::Result<()> {
        self.keys(&[key])?;
        let left = [BEFORE, "exit status 0"];
        self.until("the program to leave", |screen| {
            screen.iter().filter(|line| !line.is_empty()).eq(left.iter())
        })
        .map(drop)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _: anyhow::Result<String> = tmux(&["kill-server"]);
    }
}

fn tmux(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("tmux")
        .args(["-u", "-f", "/dev/null"])
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .context("cannot start tmux")?;
    ensure!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

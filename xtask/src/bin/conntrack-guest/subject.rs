//! The daemon with its log in this process's hands: every line with the moment it could be read.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{ADDRESS, DEADLINE, forced, get, value};

/// A log line and when it was read.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Read at.
    pub(crate) at: Instant,
    /// As printed.
    pub(crate) text: String,
}

/// A running daemon; killed when dropped.
pub(crate) struct Subject {
    child: Child,
    lines: Arc<(Mutex<Vec<Line>>, Condvar)>,
}

impl Subject {
    /// Starts `run` with these arguments beside the address and the log's format. Waits for nothing.
    pub(crate) fn start(args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new("conntrack-pressure")
            .args(["run", "--web.listen-address", ADDRESS, "--log.format", "json"])
            .args(forced())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start conntrack-pressure")?;
        let log = child.stdout.take().context("the daemon has no output")?;
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let sink = lines.clone();
        std::thread::spawn(move || tail(log, &sink));
        Ok(Self { child, lines })
    }

    /// As [`Self::start`], and waits until this probe is attached.
    pub(crate) fn attached(args: &[&str], probe: &str) -> anyhow::Result<Self> {
        let mut subject = Self::start(args)?;
        subject
            .page(&format!("the probe {probe} to be attached"), |page| mechanism(page, probe).is_some())?;
        Ok(subject)
    }

    /// Fails if the daemon has ended.
    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("conntrack-pressure ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Scrapes until the page satisfies, and returns it.
    pub(crate) fn page(&mut self, what: &str, mut is: impl FnMut(&str) -> bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut last = String::new();
        while Instant::now() < deadline {
            self.alive()?;
            if let Ok(page) = get("/metrics") {
                if is(&page) {
                    return Ok(page);
                }
                last = page;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("waited for {what}, last page:\n{last}")
    }

    /// Waits for `enough` lines that `is` true of, and returns all of them.
    pub(crate) fn lines(
        &self,
        what: &str,
        enough: usize,
        is: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<Line>> {
        let deadline = Instant::now() + DEADLINE;
        let (mut from, mut found) = (0, Vec::new());
        let mut lines = lock(&self.lines.0);
        loop {
            found.extend(lines[from..].iter().filter(|line| is(&line.text)).cloned());
            from = lines.len();
            if found.len() >= enough {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited for {what}: {} of {enough} lines came", found.len());
            lines = self.lines.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal, and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), signal)?;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("conntrack-pressure does not end on {signal:?}")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
    }
}

/// By what this probe is attached, as the page says.
pub(crate) fn mechanism<'a>(page: &'a str, probe: &str) -> Option<&'a str> {
    let series = format!("conntrack_probe_attached{{probe=\"{probe}\",mechanism=\"");
    page.lines().find_map(|line| line.strip_prefix(&series)?.strip_suffix("\"} 1"))
}

/// A count that must be on the page.
pub(crate) fn count(page: &str, series: &str) -> anyhow::Result<u64> {
    value(page, series).map(|n| n as u64).with_context(|| format!("no {series} on the page:\n{page}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tail(log: impl Read, sink: &(Mutex<Vec<Line>>, Condvar)) {
    for line in BufReader::new(log).lines() {
        let at = Instant::now();
        let Ok(text) = line else { return };
        lock(&sink.0).push(Line { at, text });
        sink.1.notify_all();
    }
}

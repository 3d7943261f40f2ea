//! Who watches: nobody, this project, bpftrace on the same functions, or a reader of ctnetlink's events.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::daemon::{DEADLINE, Daemon, value};
use crate::lab::command::output;

const INSERTS: &str = "conntrack_inserts_total{table=\"host\",namespace=\"\",pod=\"\",netns=\"\"}";
const LOG: &str = "/tmp/watcher.log";
/// bpftrace and all it needs, as the host packed it.
const PACKED: &str = "/usr/local/bin/bpftrace.tar";
const UNPACKED: &str = "/opt/bpftrace";
const HOOKS: [&str; 3] = ["__nf_conntrack_alloc", "__nf_conntrack_confirm", "nf_conntrack_free"];
const SCRIPT: &str = "kretprobe:__nf_conntrack_alloc { @alloc = count(); } \
                      kretprobe:__nf_conntrack_confirm { @confirm = count(); } \
                      kprobe:nf_conntrack_free { @free = count(); }";
/// `NETLINK_NETFILTER`.
const NETFILTER: &str = "12";

/// A way to watch, or not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Bare,
    BareAgain,
    Readings,
    Fentry,
    Kprobe,
    Bpftrace,
    Events,
}

impl Variant {
    pub(crate) const ALL: [Self; 7] = [
        Self::Bare,
        Self::BareAgain,
        Self::Readings,
        Self::Fentry,
        Self::Kprobe,
        Self::Bpftrace,
        Self::Events,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::BareAgain => "bare again",
            Self::Readings => "conntrack-pressure's readings alone",
            Self::Fentry => "conntrack-pressure by fentry",
            Self::Kprobe => "conntrack-pressure by kprobe",
            Self::Bpftrace => "bpftrace on the same hooks",
            Self::Events => "conntrack -E -o id",
        }
    }
}

/// One that is watching.
pub(crate) enum Watcher {
    Nobody,
    Readings(Daemon),
    Us { daemon: Daemon, inserts: f64 },
    Bpftrace(Child),
    Events(Child),
}

impl Watcher {
    /// Starts it and waits until it sees; the inner error says why it cannot be had here.
    pub(crate) fn start(variant: Variant) -> anyhow::Result<Result<Self, String>> {
        Ok(Ok(match variant {
            Variant::Bare | Variant::BareAgain => Self::Nobody,
            Variant::Readings => Self::Readings(Daemon::start_by(LOG, "receive_reset", "none")?),
            Variant::Fentry if !fs::exists("/sys/kernel/btf/nf_conntrack")? => {
                return Ok(Err("this kernel has no BTF of nf_conntrack".to_owned()));
            }
            Variant::Fentry => us("fentry")?,
            Variant::Kprobe => us("kprobe")?,
            Variant::Bpftrace if !fs::exists(PACKED)? => {
                return Ok(Err("bpftrace could not be had".to_owned()));
            }
            Variant::Bpftrace => bpftrace()?,
            Variant::Events => events()?,
        }))
    }

    /// Connections it saw, and runs it missed, if it tells.
    pub(crate) fn saw(&mut self) -> anyhow::Result<(Option<u64>, Option<u64>)> {
        match self {
            Self::Nobody | Self::Readings(_) => Ok((None, None)),
            Self::Us { daemon, inserts } => {
                let page = daemon.page()?;
                let now = value(&page, INSERTS).context("no count of inserts")?;
                Ok((Some((now - *inserts) as u64), missed(&page)))
            }
            Self::Bpftrace(child) => {
                end(child, rustix::process::Signal::INT)?;
                let said = fs::read_to_string(LOG)?;
                let count =
                    said.lines().find_map(|line| line.strip_prefix("@confirm: ")?.trim().parse().ok());
                Ok((Some(count.with_context(|| format!("bpftrace told no count:\n{said}"))?), None))
            }
            Self::Events(child) => {
                // What is still in its socket it has not lost.
                until("conntrack -E to have read all", || Ok(reader()?.is_none_or(|unread| unread == "0")))?;
                // Started in the background of no shell, INT would do; TERM always does.
                end(child, rustix::process::Signal::TERM)?;
                let said = fs::read_to_string(LOG)?;
                Ok((Some(said.lines().filter(|line| line.contains("[NEW]")).count() as u64), None))
            }
        }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Us { daemon, .. } | Self::Readings(daemon) => daemon.stop(),
            Self::Nobody | Self::Bpftrace(_) | Self::Events(_) => Ok(()),
        }
    }
}

fn us(mechanism: &str) -> anyhow::Result<Watcher> {
    let mut daemon = Daemon::start_by(LOG, "alloc", mechanism)?;
    // Before its first entry a table has no count.
    let inserts = value(&daemon.page()?, INSERTS).unwrap_or(0.0);
    Ok(Watcher::Us { daemon, inserts })
}

fn missed(page: &str) -> Option<u64> {
    let lines = page.lines().filter(|line| line.starts_with("conntrack_probe_missed_total{"));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

fn bpftrace() -> anyhow::Result<Watcher> {
    if !fs::exists(UNPACKED)? {
        fs::create_dir_all(UNPACKED)?;
        output("tar", &["-xf", PACKED, "-C", UNPACKED])?;
    }
    let child = Command::new(format!("{UNPACKED}/ld-linux-x86-64.so.2"))
        .args(["--library-path", UNPACKED, &format!("{UNPACKED}/bpftrace"), "-e", SCRIPT])
        .env_remove("BPFTRACE_BTF")
        .stdout(File::create(LOG)?)
        .stderr(Stdio::inherit())
        .spawn()
        .context("bpftrace does not start")?;
    let mut watcher = child;
    until("bpftrace to attach", || {
        if let Some(status) = watcher.try_wait()? {
            bail!("bpftrace ended by itself: {status}: {}", fs::read_to_string(LOG)?);
        }
        let probes = fs::read_to_string("/sys/kernel/debug/kprobes/list")?;
        Ok(HOOKS.iter().all(|hook| probes.contains(hook)))
    })?;
    Ok(Watcher::Bpftrace(watcher))
}

fn events() -> anyhow::Result<Watcher> {
    let child = Command::new("conntrack")
        .args(["-E", "-o", "id"])
        .stdout(File::create(LOG)?)
        .stderr(Stdio::null())
        .spawn()
        .context("conntrack does not start")?;
    until("conntrack -E to listen", || Ok(reader()?.is_some()))?;
    Ok(Watcher::Events(child))
}

/// Bytes unread in the socket that listens to ctnetlink's events; None: nobody listens.
fn reader() -> anyhow::Result<Option<String>> {
    let sockets = fs::read_to_string("/proc/net/netlink")?;
    Ok(sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, protocol, _, groups, unread, ..] = fields.as_slice() else { return None };
        (*protocol == NETFILTER && *groups != "00000000").then(|| (*unread).to_owned())
    }))
}

fn end(child: &mut Child, signal: rustix::process::Signal) -> anyhow::Result<()> {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal)?;
    child.wait()?;
    Ok(())
}

fn until(what: &str, mut is: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if is()? {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bail!("waited for {what}")
}

//! A network namespace, and running something inside it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::output;

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    /// What to open to enter it.
    path: PathBuf,
    /// Its inode, as the metrics' label `netns` has it.
    pub(crate) inum: u64,
    /// Is it the guest's own, the one of PID 1?
    pub(crate) host: bool,
}

impl Netns {
    /// The guest's own.
    ///
    /// # Errors
    /// When procfs cannot be read.
    pub(crate) fn host() -> anyhow::Result<Self> {
        Self::at(PathBuf::from("/proc/1/ns/net"), true)
    }

    /// Makes one, with its loopback up. It stays until the guest ends.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        output("ip", &["netns", "add", name])?;
        output("ip", &["-n", name, "link", "set", "lo", "up"])?;
        Self::at(PathBuf::from("/run/netns").join(name), false)
    }

    /// A process's. It is gone when the process and all sockets in it are.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        Self::at(PathBuf::from(format!("/proc/{pid}/ns/net")), false)
    }

    fn at(path: PathBuf, host: bool) -> anyhow::Result<Self> {
        let inum = std::fs::metadata(&path).with_context(|| path.display().to_string())?.ino();
        Ok(Self { path, inum, host })
    }

    /// Runs `f` on a thread of its own inside the namespace and gives what it gave. Sockets made there stay in
    /// the namespace wherever they go; programs started there run in it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and what `f` fails with.
    ///
    /// # Panics
    /// When `f` does.
    pub(crate) fn run<T: Send>(&self, f: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                f()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", self.path.display()))
    }

    /// Runs a program inside and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        self.run(|| output(program, args))
    }
}

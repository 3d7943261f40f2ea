//! A process of the lab in a cgroup of its own, and in a network namespace of its own if that is wanted. It makes
//! the connections that the test asks for, so that they are its.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};

use super::netns::Netns;

const CGROUPS: &str = "/sys/fs/cgroup";

/// The process; ended when dropped, and its cgroup removed.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Made for it.
    cgroup: Option<PathBuf>,
    /// Its network namespace.
    pub(crate) netns: Netns,
}

impl Process {
    /// In the guest's own namespace; `cgroup` is a path below the root, empty for the root itself.
    ///
    /// # Errors
    /// When it cannot be started, or its cgroup not be made.
    pub(crate) fn on_the_node(cgroup: &str) -> anyhow::Result<Self> {
        let mut process = Self::of(Command::new(std::env::current_exe()?).arg("agent"))?;
        let cgroup = Path::new(CGROUPS).join(cgroup.trim_start_matches('/'));
        std::fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        std::fs::write(cgroup.join("cgroup.procs"), process.pid().to_string())
            .with_context(|| cgroup.display().to_string())?;
        process.cgroup = Some(cgroup);
        Ok(process)
    }

    /// By a command that runs the agent and hands it standard input and output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn of(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, orders, answers, cgroup: None, netns: Netns::host()? })
    }

    /// In a network namespace of its own, which it enters after its cgroup, as containers do.
    ///
    /// # Errors
    /// As [`Process::on_the_node`].
    pub(crate) fn in_its_netns(cgroup: &str) -> anyhow::Result<Self> {
        let mut process = Self::on_the_node(cgroup)?;
        process.ask("unshare")?;
        process.netns = Netns::of(process.pid())?;
        Ok(process)
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command; [`Process::hear`] waits for its answer.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{command}").with_context(|| format!("the agent does not take: {command}"))
    }

    /// The answer to a command: connections made, and those refused.
    ///
    /// # Errors
    /// What went wrong in the process.
    pub(crate) fn hear(&mut self) -> anyhow::Result<[u64; 2]> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.split_whitespace().collect::<Vec<_>>()[..] {
            ["ok", first, second] => Ok([first.parse()?, second.parse()?]),
            _ => bail!("the agent says {answer:?}"),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// As both.
    pub(crate) fn ask(&mut self, command: &str) -> anyhow::Result<[u64; 2]> {
        self.tell(command)?;
        self.hear().with_context(|| command.to_owned())
    }

    /// Takes connections and datagrams to a port.
    ///
    /// # Errors
    /// As [`Process::ask`].
    pub(crate) fn listen(&mut self, port: u16) -> anyhow::Result<()> {
        self.ask(&format!("listen {port}")).map(drop)
    }

    /// Opens TCP connections and holds them.
    ///
    /// # Errors
    /// When one cannot be established.
    pub(crate) fn tcp(&mut self, from: Option<IpAddr>, to: SocketAddr, count: u64) -> anyhow::Result<()> {
        self.ask(&format!("tcp {} {to} {count}", source(from))).map(drop)
    }

    /// Sends one datagram from each of so many new sockets: those taken and those refused with EPERM.
    ///
    /// # Errors
    /// As [`Process::ask`].
    pub(crate) fn udp(
        &mut self,
        from: Option<IpAddr>,
        to: SocketAddr,
        count: u64,
    ) -> anyhow::Result<[u64; 2]> {
        self.ask(&format!("udp {} {to} {count}", source(from)))
    }

    /// Closes all connections, made and taken.
    ///
    /// # Errors
    /// As [`Process::ask`].
    pub(crate) fn close(&mut self) -> anyhow::Result<()> {
        self.ask("close").map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<_> = self.child.wait();
        // Parents that others are in stay.
        let folders = self.cgroup.iter().flat_map(|cgroup| cgroup.ancestors());
        for folder in folders.take_while(|folder| *folder != Path::new(CGROUPS)) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// How the agent is told a source.
pub(crate) fn source(from: Option<IpAddr>) -> String {
    from.map_or_else(|| "-".to_owned(), |from| from.to_string())
}

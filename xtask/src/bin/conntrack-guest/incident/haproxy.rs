//! HAProxy in a pod: a new connection to the Service for each request, given up after a second.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::daemon::DEADLINE;
use crate::lab::workload::Workload;

/// Where it listens.
pub(super) const PORT: u16 = 8_080;
/// The Service that it sends requests on to.
pub(super) const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);

const SOCKET: &str = "/tmp/haproxy.sock";
const CONFIG: &str = "/tmp/haproxy.cfg";

/// It; killed when dropped.
pub(super) struct Haproxy(Child);

impl Haproxy {
    /// Starts it in the pod, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn start(pod: &Workload) -> anyhow::Result<Self> {
        // Each request has a connection of its own, is tried once, and not put off.
        let config = format!(
            "global\n  stats socket {SOCKET} mode 600 level admin\n  maxconn 1000\n\
             defaults\n  mode http\n  option http-server-close\n  retries 0\n  timeout connect 1s\n  timeout client 60s\n  \
             timeout server 10s\n\
             frontend shop\n  bind :{PORT}\n  default_backend service\n\
             backend service\n  server service {SERVICE}\n"
        );
        std::fs::write(CONFIG, config)?;
        let child = pod.process.netns.run(|| {
            Command::new("haproxy").args(["-db", "-f", CONFIG]).spawn().context("cannot start haproxy")
        })?;
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", pod.process.pid()))?;
        let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup")?;
        std::fs::write(format!("/sys/fs/cgroup{path}/cgroup.procs"), child.id().to_string())?;
        let mut haproxy = Self(child);
        let deadline = Instant::now() + DEADLINE;
        while haproxy.failed_connects().is_err() {
            ensure!(haproxy.0.try_wait()?.is_none(), "haproxy ended by itself");
            ensure!(Instant::now() < deadline, "haproxy does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(haproxy)
    }

    /// Its own count of connections to the Service that did not come about (`econ`).
    ///
    /// # Errors
    /// When it does not tell.
    pub(super) fn failed_connects(&self) -> anyhow::Result<u64> {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.write_all(b"show stat\n")?;
        let mut told = String::new();
        socket.read_to_string(&mut told)?;
        let mut lines = told.lines();
        let names = lines.next().context("no statistics")?.trim_start_matches("# ").split(',');
        let column = names.into_iter().position(|name| name == "econ").context("no column econ")?;
        let backend = lines.find(|line| line.starts_with("service,BACKEND,")).context("no backend")?;
        Ok(backend.split(',').nth(column).context("a short line")?.parse()?)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

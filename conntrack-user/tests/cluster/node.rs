//! What a kubelet and a runtime would leave of a pod on this host, and the daemon that looks at it.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::netns_pair::Netns;

use super::server::{Cluster, Server, spawn};

/// A process in a namespace and a cgroup of its own; both go with it.
pub(crate) struct HostPod {
    netns: Netns,
    process: Child,
    cgroup: PathBuf,
}

impl HostPod {
    pub(crate) fn new(uid: &str, address: &str) -> Self {
        let netns = Netns::new(&uid[uid.len() - 6..]);
        netns.run(&["ip", "addr", "add", &format!("{address}/32"), "dev", "lo"]);
        let track = "table inet t { chain in { type filter hook input priority 0; ct state new counter; }\n}";
        netns.run(&["nft", track]);
        let process = Command::new("ip").args(["netns", "exec", &netns.0, "sleep", "1000"]).spawn().unwrap();
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let cgroup = root.join(format!("kubepods/pod{uid}"));
        std::fs::create_dir_all(&cgroup).unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), process.id().to_string()).unwrap();
        Self { netns, process, cgroup }
    }

    /// Makes an entry in its table.
    pub(crate) fn talk(&self) {
        self.netns.inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let _ = socket.send_to(b"x", "127.0.0.1:9");
        });
    }
}

impl Drop for HostPod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir(&self.cgroup);
        let _ = std::fs::remove_dir(self.cgroup.parent().unwrap());
    }
}

/// The daemon itself.
pub(crate) struct Daemon {
    address: String,
    _process: Server,
}

impl Daemon {
    pub(crate) fn run(cluster: &Cluster, podlogs: &Path, args: &[&str]) -> Self {
        let address = super::server::url("http").replace("http://", "");
        let mut command = program(podlogs);
        command.args(["run", "--probe.mechanism", "none", "--web.listen-address", &address]).args(args);
        Self { address, _process: spawn(&cluster.folder, "daemon", &mut command) }
    }

    /// A page of metrics; empty where none is served yet.
    pub(crate) fn metrics(&self) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(&self.address) {
            let _ =
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    /// The value of a series that begins so.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        let page = self.metrics();
        let line = page.lines().find(|line| line.starts_with(series))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// The program, before its subcommand; told nothing by this environment.
pub(crate) fn program(podlogs: &Path) -> Command {
    let built = std::env::var_os("CONNTRACK_CLUSTER_DAEMON");
    let mut command = Command::new(built.unwrap_or_else(|| env!("CARGO_BIN_EXE_conntrack-pressure").into()));
    command.env_remove("KUBERNETES_SERVICE_HOST").env_remove("NODE_NAME");
    command.arg("--path.podlogs").arg(podlogs);
    command
}

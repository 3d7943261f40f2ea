//! A pod as a kubelet leaves its traces: cgroup, namespace, log directory.

use std::process::{Child, Command};

use anyhow::Context as _;

use super::netns::Netns;

const UID: &str = "0a1b2c3d-1111-4222-8333-1234567890ab";

/// A process of the pod, ended when dropped.
pub(crate) struct Pod(Child);

impl Pod {
    /// In this network namespace and in a cgroup of its own; its log directory tells its name.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(crate) fn start(netns: &Netns, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let cgroup = format!("/sys/fs/cgroup/kubepods/burstable/pod{UID}/app");
        std::fs::create_dir_all(&cgroup)?;
        std::fs::create_dir_all(format!("/var/log/pods/{namespace}_{name}_{UID}"))?;
        let child = netns.run(|| Ok(Command::new("sleep").arg("100000").spawn()?))?;
        std::fs::write(format!("{cgroup}/cgroup.procs"), child.id().to_string()).context("cgroup.procs")?;
        Ok(Self(child))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

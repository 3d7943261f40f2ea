//! Real containers, of podman and runc, whose first process is the lab's agent.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::command::output;
use super::netns::Netns;
use super::process::Process;

/// Where their roots are; each has the agent and nothing else.
const ROOTS: &str = "/tmp/roots";
const AGENT: &str = "/agent";

/// A running container; removed when dropped.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its process, which takes orders through the runtime.
    pub(crate) process: Process,
    /// That process's id.
    pub(crate) pid: u32,
    /// Its cgroup, as the kernel has it.
    pub(crate) cgroup: String,
    removal: [String; 5],
}

impl Container {
    /// One of podman's, with its word for the network: `none` (a namespace with nothing in it), `host`, or
    /// `container:NAME`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn of_podman(name: &str, network: &str) -> anyhow::Result<Self> {
        let root = root(name)?;
        let mut run = Command::new("podman");
        run.args(["run", "-i", "--no-hosts", "--log-driver", "none", "--security-opt", "seccomp=unconfined"])
            .args(["--name", name, "--network", network, "--rootfs"])
            .arg(root)
            .args([AGENT, "agent"]);
        let state = || output("podman", &["inspect", "--format", "{{.State.Pid}} {{.Id}}", name]);
        let (pid, id, process) = start(&mut run, || {
            let state = state()?;
            let (pid, id) = state.trim().split_once(' ').context("podman inspect")?;
            Ok((pid.parse()?, id.to_owned()))
        })?;
        let removal = ["podman", "rm", "-f", "-t0", name].map(str::to_owned);
        let container = Self { process, pid, cgroup: cgroup(pid)?, removal };
        let wanted = format!("/libpod_parent/libpod-{id}");
        ensure!(container.cgroup == wanted, "podman put it into {}, not {wanted}", container.cgroup);
        Ok(container)
    }

    /// One of runc's, in a cgroup with this path and a network namespace of its own.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn of_runc(id: &str, path: &str) -> anyhow::Result<Self> {
        let root = root(id)?;
        let bundle = format!("{ROOTS}/bundle-{id}");
        std::fs::create_dir_all(&bundle)?;
        output("runc", &["spec", "--bundle", &bundle])?;
        let file = Path::new(&bundle).join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!([AGENT, "agent"]);
        config["root"] = json!({"path": root});
        config["linux"]["cgroupsPath"] = json!(path);
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        let mut run = Command::new("runc");
        run.args(["run", "--no-pivot", "--bundle", &bundle, id]);
        let (pid, _, process) = start(&mut run, || {
            let state: Value = serde_json::from_str(&output("runc", &["state", id])?)?;
            Ok((u32::try_from(state["pid"].as_u64().context("runc state: no pid")?)?, String::new()))
        })?;
        let removal = ["runc", "delete", "--force", "--", id].map(str::to_owned);
        let container = Self { process, pid, cgroup: cgroup(pid)?, removal };
        ensure!(container.cgroup == path, "runc put it into {}, not {path}", container.cgroup);
        Ok(container)
    }

    /// Ends its process, as `podman kill` does; others in its namespace stay.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_raw(self.pid.cast_signed()).context("no process")?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::KILL)?)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let [program, args @ ..] = &self.removal;
        let _: std::io::Result<_> = Command::new(program).args(args).output();
    }
}

/// Starts the runtime, waits until the agent obeys, and asks for its id.
fn start(
    run: &mut Command,
    state: impl FnOnce() -> anyhow::Result<(u32, String)>,
) -> anyhow::Result<(u32, String, Process)> {
    let mut process = Process::of(run)?;
    process.close().with_context(|| format!("{run:?}"))?;
    let (pid, id) = state()?;
    process.netns =
        if Netns::of(pid)?.inum == Netns::host()?.inum { Netns::host()? } else { Netns::of(pid)? };
    Ok((pid, id, process))
}

/// A root with the agent in it.
fn root(name: &str) -> anyhow::Result<PathBuf> {
    let root = Path::new(ROOTS).join(name);
    std::fs::create_dir_all(&root)?;
    std::fs::copy(std::env::current_exe()?, root.join(&AGENT[1..])).context("cannot copy the agent")?;
    Ok(root)
}

/// The process's cgroup, as the kernel has it.
fn cgroup(pid: u32) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup")?;
    Ok(path.to_owned())
}

//! The command line, as typed. [`crate::config`] checks it.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::attribute::api::settings::Mode;

/// Who fills this node's conntrack tables, who is hurt, and what to do.
#[derive(Clone, Debug, Parser)]
#[command(name = "conntrack-pressure", version, max_term_width = 100)]
#[command(after_help = "Flags win over environment variables, which win over defaults.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where the system is, and how to probe it.
    #[command(flatten)]
    pub common: CommonArgs,
    /// How to ask a Kubernetes API.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch, and serve metrics and log events until told to stop
    Run(RunArgs),
    /// Say what attaches on this kernel, what does not, why, and what to do
    Doctor(DoctorArgs),
    /// Say whether the tables are in trouble: exit code 0 no, 1 warning, 2 critical or cannot tell
    Check(CheckArgs),
    /// Print all that is known now, once
    Snapshot(SnapshotArgs),
    /// Show who fills the tables and who is hurt, live
    Top(TopArgs),
}

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where to serve /metrics, /livez and /readyz; an empty host means all IPv4 addresses
    #[arg(
        long = "web.listen-address",
        env = "CONNTRACK_PRESSURE_WEB_LISTEN_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "0.0.0.0:9466"
    )]
    pub listen_address: String,
    /// How to print log events [default: text on a terminal, else json]
    #[arg(long = "log.format", env = "CONNTRACK_PRESSURE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
    /// Pods and cgroups that get metrics of their own; the rest is summed as `_other`
    #[arg(long = "max-pods", env = "CONNTRACK_PRESSURE_MAX_PODS", value_name = "N", default_value_t = 128)]
    pub max_pods: usize,
}

/// Flags of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: OutputArg,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Fill from which to warn, as a ratio of the limit
    #[arg(long, env = "CONNTRACK_PRESSURE_CHECK_WARNING", value_name = "RATIO", default_value_t = 0.75)]
    pub warning: f64,
    /// Fill from which it is critical, as a ratio of the limit
    #[arg(long, env = "CONNTRACK_PRESSURE_CHECK_CRITICAL", value_name = "RATIO", default_value_t = 0.9)]
    pub critical: f64,
}

/// Flags of `snapshot`.
#[derive(Clone, Debug, Args)]
pub struct SnapshotArgs {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    pub output: SnapshotOutputArg,
}

/// Flags of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The running daemon to ask; if none is there, probes of its own are attached (as root)
    #[arg(
        long = "web.address",
        env = "CONNTRACK_PRESSURE_WEB_ADDRESS",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9466"
    )]
    pub address: String,
    /// Print one screen as text, with all rows, and end; COLUMNS says how wide [default: 80]
    #[arg(long)]
    pub once: bool,
}

/// Flags of every subcommand, before its name or after.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "System")]
pub struct CommonArgs {
    /// Where procfs is mounted
    #[arg(
        global = true,
        long = "path.procfs",
        env = "CONNTRACK_PRESSURE_PATH_PROCFS",
        value_name = "DIR",
        default_value = "/proc"
    )]
    pub procfs: PathBuf,
    /// Where sysfs is mounted
    #[arg(
        global = true,
        long = "path.sysfs",
        env = "CONNTRACK_PRESSURE_PATH_SYSFS",
        value_name = "DIR",
        default_value = "/sys"
    )]
    pub sysfs: PathBuf,
    /// Where the cgroup hierarchy is mounted [default: fs/cgroup below --path.sysfs]
    #[arg(
        global = true,
        long = "path.cgroupfs",
        env = "CONNTRACK_PRESSURE_PATH_CGROUPFS",
        value_name = "DIR"
    )]
    pub cgroupfs: Option<PathBuf>,
    /// Where the kubelet keeps pod logs, whose names tell pods' names; need not exist
    #[arg(
        global = true,
        long = "path.podlogs",
        env = "CONNTRACK_PRESSURE_PATH_PODLOGS",
        value_name = "DIR",
        default_value = "/var/log/pods"
    )]
    pub podlogs: PathBuf,
    /// How to attach to conntrack: the best this kernel allows, or only by this mechanism; `none` does without
    #[arg(
        global = true,
        long = "probe.mechanism",
        env = "CONNTRACK_PRESSURE_PROBE_MECHANISM",
        value_name = "MECHANISM",
        default_value = "auto"
    )]
    pub mechanism: MechanismArg,
    /// Treat this probe (or NAME:MECHANISM, that way of it) as refused by the kernel; repeatable, for tests
    #[arg(global = true, long = "test.refuse-probe", value_name = "NAME", hide = true)]
    pub refuse_probe: Vec<String>,
}

/// Flags of every subcommand that say how to ask a Kubernetes API.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Whether to ask the Kubernetes API for this node's pods
    #[arg(
        global = true,
        long = "kubernetes.mode",
        env = "CONNTRACK_PRESSURE_KUBERNETES_MODE",
        value_name = "MODE",
        default_value = "auto"
    )]
    pub mode: Mode,
    /// Ask as this file says, not as the service account here does
    #[arg(
        global = true,
        long = "kubernetes.kubeconfig",
        env = "CONNTRACK_PRESSURE_KUBERNETES_KUBECONFIG",
        value_name = "FILE"
    )]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name in the cluster
    #[arg(global = true, long = "kubernetes.node-name", env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
}

/// Values of `--log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// One JSON object a line
    Json,
    /// key=value pairs
    Text,
}

/// Values of `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Values of `snapshot -o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SnapshotOutputArg {
    /// For programs
    Json,
}

/// Values of `--probe.mechanism`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MechanismArg {
    /// Each probe by fentry where it loads, else by kprobe, else without
    #[default]
    Auto,
    /// By fentry only
    Fentry,
    /// By kprobe only
    Kprobe,
    /// No probes on conntrack: statistics and raw tracepoints, marked as inferred
    None,
}

/// A mistake on the command line in one line; None for what was asked for (help, version).
#[must_use]
pub fn one_line(error: &clap::Error) -> Option<String> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut said = String::new();
    for line in lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")) {
        let between = if said.is_empty() || said.ends_with(':') { " " } else { "; " };
        said.push_str(between);
        said.push_str(line);
    }
    Some(format!("{}; try --help", said.trim().trim_start_matches("error: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> Option<String> {
        one_line(&Cli::try_parse_from([&["conntrack-pressure"], args].concat()).unwrap_err())
    }

    #[test]
    fn a_mistake_is_one_line_that_names_it() {
        for (args, names) in [
            (&["run", "--nonsense"][..], "--nonsense"),
            (&["run", "--max-pods", "many"], "--max-pods"),
            (&["run", "--log.format", "xml"], "json, text"),
            (&["doctor", "--path.procfs"], "--path.procfs"),
            (&["nonsense"], "nonsense"),
        ] {
            let said = line(args).unwrap();
            assert!(said.contains(names) && !said.contains(['\n', '\u{1b}']), "{args:?}: {said:?}");
            assert!(said.ends_with("; try --help") && !said.contains("Usage"), "{args:?}: {said:?}");
        }
    }

    #[test]
    fn help_that_was_asked_for_is_no_mistake() {
        for args in [&["--help"][..], &["run", "--help"], &["--version"], &[]] {
            assert_eq!(line(args), None, "{args:?}");
        }
    }
}

//! The command line, checked: what the rest of the program works with.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::attribute::api::settings::Settings;
use crate::cli::{Cli, Command, CommonArgs, KubernetesArgs, LogFormatArg, MechanismArg, OutputArg, RunArgs};
use crate::export::record::LogFormat;
use crate::probe::table::PROBES;

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the system is and how to probe it.
    pub system: System,
    /// Whether and how to ask a Kubernetes API.
    pub kubernetes: Settings,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Watch and serve.
    Run(Run),
    /// Say what attaches.
    Doctor {
        /// Print JSON?
        json: bool,
    },
    /// Say whether there is trouble.
    Check(Thresholds),
    /// Print the state as JSON.
    Snapshot,
    /// Show it live.
    Top(Top),
}

/// Settings of `top`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// HOST:PORT of the daemon to ask.
    pub address: String,
    /// Print one screen as text?
    pub once: bool,
}

/// Settings of `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// HOST:PORT, with a host.
    pub listen_address: String,
    /// How to print log lines.
    pub log_format: LogFormat,
    /// Pods and cgroups with series of their own.
    pub max_pods: usize,
}

/// Fill from which `check` complains, 0 < warning ≤ critical ≤ 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Ratio of the limit.
    pub warning: f64,
    /// Ratio of the limit.
    pub critical: f64,
}

/// Where the system is and how to probe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Mount point of procfs.
    pub procfs: PathBuf,
    /// Mount point of sysfs.
    pub sysfs: PathBuf,
    /// Mount point of the cgroup hierarchy.
    pub cgroupfs: PathBuf,
    /// Directory of pod logs; need not exist.
    pub podlogs: PathBuf,
    /// How to attach.
    pub mechanism: MechanismArg,
    /// Probes to treat as refused.
    pub refuse_probes: Vec<String>,
}

impl Config {
    /// Checks what was typed; touches nothing.
    ///
    /// # Errors
    /// One line naming the flag.
    pub fn new(cli: Cli) -> anyhow::Result<Self> {
        let action = match cli.command {
            Command::Run(args) => Action::Run(run(&args)?),
            Command::Doctor(args) => Action::Doctor { json: args.output == OutputArg::Json },
            Command::Check(args) => Action::Check(thresholds(args.warning, args.critical)?),
            Command::Snapshot(_) => Action::Snapshot,
            Command::Top(args) => Action::Top(Top {
                address: host_and_port("--web.address", &args.address, "127.0.0.1")?,
                once: args.once,
            }),
        };
        for name in &cli.common.refuse_probe {
            let known = || PROBES.iter().map(|probe| probe.name).collect::<Vec<_>>().join(", ");
            ensure!(
                PROBES.iter().any(|probe| probe.is_meant(name)),
                "--test.refuse-probe {name}: there is no such probe; want one of {}",
                known()
            );
        }
        let KubernetesArgs { mode, kubeconfig, node_name } = cli.kubernetes;
        let kubernetes = Settings::of_this_process(mode, kubeconfig, node_name);
        Ok(Self { system: system(cli.common), kubernetes, action })
    }
}

impl System {
    /// Looks whether the directories can be read at all.
    ///
    /// # Errors
    /// One line naming the directory and the flag.
    pub fn check_paths(&self) -> anyhow::Result<()> {
        let stat = self.procfs.join("stat");
        readable(&stat).with_context(|| unreadable("procfs", &self.procfs, "--path.procfs"))?;
        fs::read_dir(&self.sysfs).map(drop).with_context(|| unreadable("sysfs", &self.sysfs, "--path.sysfs"))
    }
}

fn unreadable(what: &str, path: &Path, flag: &str) -> String {
    format!("cannot read {what} at {}; mount it there or name its place with {flag}", path.display())
}

fn readable(file: &Path) -> std::io::Result<()> {
    std::io::Read::read(&mut fs::File::open(file)?, &mut [0; 1]).map(drop)
}

fn run(args: &RunArgs) -> anyhow::Result<Run> {
    let log_format = match args.log_format {
        Some(LogFormatArg::Json) => LogFormat::Json,
        Some(LogFormatArg::Text) => LogFormat::Text,
        None if std::io::stdout().is_terminal() => LogFormat::Text,
        None => LogFormat::Json,
    };
    Ok(Run {
        listen_address: host_and_port("--web.listen-address", &args.listen_address, "0.0.0.0")?,
        log_format,
        max_pods: args.max_pods,
    })
}

/// HOST:PORT with the host filled in.
fn host_and_port(flag: &str, text: &str, default_host: &str) -> anyhow::Result<String> {
    let wrong = || {
        format!("{flag} {text:?}: want HOST:PORT, such as {default_host}:9466, [::1]:9466 or localhost:9466")
    };
    let (host, port) = text.rsplit_once(':').with_context(wrong)?;
    let Ok(port) = port.parse::<u16>() else { bail!(wrong()) };
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    ensure!(!bare_v6 && !host.contains('/'), wrong());
    Ok(format!("{}:{port}", if host.is_empty() { default_host } else { host }))
}

fn thresholds(warning: f64, critical: f64) -> anyhow::Result<Thresholds> {
    ensure!(
        0.0 < warning && warning <= critical && critical <= 1.0,
        "--warning {warning} --critical {critical}: want 0 < warning ≤ critical ≤ 1"
    );
    Ok(Thresholds { warning, critical })
}

fn system(args: CommonArgs) -> System {
    let cgroupfs = args.cgroupfs.unwrap_or_else(|| args.sysfs.join("fs/cgroup"));
    System {
        procfs: args.procfs,
        sysfs: args.sysfs,
        cgroupfs,
        podlogs: args.podlogs,
        mechanism: args.mechanism,
        refuse_probes: args.refuse_probe,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(args: &[&str]) -> anyhow::Result<Config> {
        Config::new(Cli::try_parse_from([&["conntrack-pressure"], args].concat()).unwrap())
    }

    fn run_of(args: &[&str]) -> Run {
        match config(args).unwrap().action {
            Action::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults() {
        let run = run_of(&["run"]);
        assert_eq!((run.listen_address.as_str(), run.max_pods), ("0.0.0.0:9466", 128));
        let system = config(&["run", "--path.sysfs", "/host/sys"]).unwrap().system;
        assert_eq!(system.cgroupfs, Path::new("/host/sys/fs/cgroup"));
        assert_eq!(system.mechanism, MechanismArg::Auto);
        let before = config(&["--path.sysfs", "/host/sys", "run"]).unwrap().system;
        assert_eq!(before, system, "before the subcommand or after");
        let thresholds = Thresholds { warning: 0.75, critical: 0.9 };
        assert_eq!(config(&["check"]).unwrap().action, Action::Check(thresholds));
    }

    #[test]
    fn addresses() {
        for (typed, meant) in
            [(":9466", "0.0.0.0:9466"), ("[::]:1", "[::]:1"), ("localhost:80", "localhost:80")]
        {
            assert_eq!(run_of(&["run", "--web.listen-address", typed]).listen_address, meant);
        }
        for wrong in ["9466", "host", "host:", "host:99999", "::1:80", "http://x:80"] {
            let error = config(&["run", "--web.listen-address", wrong]).unwrap_err().to_string();
            assert!(error.contains("--web.listen-address") && !error.contains('\n'), "{wrong}: {error}");
        }
    }

    #[test]
    fn top_asks_the_daemon_of_this_host() {
        let top = |args: &[&str]| match config(args).unwrap().action {
            Action::Top(top) => top,
            other => panic!("{other:?}"),
        };
        assert_eq!(top(&["top"]), Top { address: "127.0.0.1:9466".into(), once: false });
        let elsewhere = top(&["top", "--web.address", ":80", "--once"]);
        assert_eq!(elsewhere, Top { address: "127.0.0.1:80".into(), once: true });
        let error = config(&["top", "--web.address", "http://x:1"]).unwrap_err().to_string();
        assert!(error.starts_with("--web.address") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn thresholds_must_make_sense() {
        for (warning, critical) in [("0.9", "0.8"), ("0", "0.5"), ("0.5", "1.5"), ("NaN", "0.9")] {
            let error = config(&["check", "--warning", warning, "--critical", critical]).unwrap_err();
            assert!(error.to_string().starts_with("--warning"), "{error}");
        }
    }

    #[test]
    fn bad_flags_are_refused_with_exit_code_2() {
        for args in
            [&["run", "--nonsense"][..], &["run", "--max-pods", "-1"], &["snapshot", "-o", "xml"], &[]]
        {
            let error = Cli::try_parse_from([&["conntrack-pressure"], args].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn the_test_switch_repeats() {
        let args = ["check", "--test.refuse-probe", "alloc", "--test.refuse-probe", "free"];
        assert_eq!(config(&args).unwrap().system.refuse_probes, ["alloc", "free"]);
        assert!(config(&["check", "--test.refuse-probe", "alloc:fentry"]).is_ok());
        assert!(config(&["check", "--test.refuse-probe", "alloc:ptrace"]).is_err());
        let error = config(&["check", "--test.refuse-probe", "aloc"]).unwrap_err().to_string();
        assert!(error.contains("aloc") && error.contains("early_drop") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_procfs_that_is_not_there_is_one_line() {
        let system = config(&["check", "--path.procfs", "/nonexistent"]).unwrap().system;
        let error = format!("{:#}", system.check_paths().unwrap_err());
        assert!(error.contains("/nonexistent") && error.contains("--path.procfs") && !error.contains('\n'));
        config(&["check"]).unwrap().system.check_paths().unwrap();
    }
}

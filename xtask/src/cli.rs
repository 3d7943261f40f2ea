//! The commands and their flags.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::guest::extra::{CONTAINERS, HAPROXY};
use crate::guest::vm::{self, End, VmRequest};
use crate::kernel::obtain::NotObtainable;
use crate::setup::{self, Refused};
use crate::{bare, bench, build, cluster, daemon, lint, test};

/// Builds, runs and tests conntrack-pressure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Installs what this machine lacks to build and run the daemon.
    Setup {
        /// Also what guests need.
        #[arg(long)]
        guests: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Builds the daemon and runs it on this host: `conntrack-pressure run ARGS`.
    Run {
        #[command(flatten)]
        consent: Consent,
        /// Arguments for the daemon.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Lints, unit tests, host tests and guest tests.
    Test {
        #[command(flatten)]
        consent: Consent,
        /// Each guest test on one kernel only.
        #[arg(long)]
        quick: bool,
    },
    /// Every guest test on every kernel, and a report of it. What passed before from the same sources is not run again.
    Matrix {
        #[command(flatten)]
        consent: Consent,
        /// Only this kernel; may be given more than once.
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<String>,
        /// Only this guest test; may be given more than once.
        #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(crate::suites::SUITES.iter().map(|s| s.name)))]
        suite: Vec<String>,
        /// Run what passed before from these sources once more.
        #[arg(long)]
        again: bool,
        /// Only say whether the report is of these sources (exit status 1: it is not).
        #[arg(long, conflicts_with_all = ["kernel", "suite", "again"])]
        check: bool,
    },
    /// Shows in a guest how a small table overruns, and what the daemon makes of it.
    Demo {
        #[command(flatten)]
        consent: Consent,
        /// The kernel to boot.
        #[arg(long, value_name = "KERNEL", default_value = "6.12")]
        kernel: String,
    },
    /// Makes connections that a conntrack table hurts, and look-alikes that it does not, all in one guest; finds out the
    /// truth of each by the wires and its own socket, and holds the daemon's word against it.
    ///
    /// Prints a confusion matrix. The exit status is 1 if less than 0.99 of what the table did is told, less than 0.999
    /// of what is blamed on it was its doing, or the right pod is named in less than 0.999; a single mistake is let pass.
    Lab {
        #[command(flatten)]
        consent: Consent,
        /// Order and mixture are drawn from this number.
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// The kernel to boot.
        #[arg(long, value_name = "KERNEL", default_value = "6.12")]
        kernel: String,
        /// Connections that a table is to hurt; the look-alikes are five for every three.
        #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=9_000))]
        size: u32,
        /// The kernel gives connections up when its default tells it to (127 s), not after 3 s.
        #[arg(long)]
        default_syn_retries: bool,
    },
    /// Measures what the probes cost and what they see, beside others, and writes docs/performance.md.
    Bench {
        #[command(flatten)]
        consent: Consent,
        /// The kernel to boot.
        #[arg(long, value_name = "KERNEL", default_value = "6.12")]
        kernel: String,
        /// How often each variant runs.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
        /// Connections of one run.
        #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        connections: u32,
        /// Only print the tables.
        #[arg(long)]
        print_only: bool,
        /// Only dump a full table on this host and give it to its owners; prints how long that takes.
        #[arg(long, conflicts_with_all = ["kernel", "rounds", "connections", "print_only"])]
        dump_only: bool,
    },
    /// Formatting, clippy, the probes' build, and the size of files.
    Lint {
        #[command(flatten)]
        consent: Consent,
    },
    /// The README's commands in a fresh Debian root (debootstrap, as root), with times; writes a report.
    Bare,
    /// Builds a kube-apiserver once, runs it here with etcd, lets the daemon learn pods from it (as root); writes a report.
    Cluster {
        #[command(flatten)]
        consent: Consent,
    },
    /// Boots a kernel, runs a command in it, and ends with the command's status (70: panic, 124: time was up,
    /// 3: that kernel cannot be had).
    Vm(VmArgs),
}

#[derive(Clone, Copy, Debug, Args)]
struct Consent {
    /// Install what is missing without asking.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct VmArgs {
    #[command(flatten)]
    consent: Consent,
    /// 5.10, 6.1, 6.12, 6.18, newest, a package version, or a folder with an unpacked kernel.
    #[arg(long, value_name = "KERNEL")]
    kernel: String,
    /// A file to put into the guest's PATH, with the libraries it needs.
    #[arg(long, value_name = "FILE")]
    add: Vec<PathBuf>,
    /// With podman and runc in the guest.
    #[arg(long)]
    containers: bool,
    /// With HAProxy in the guest.
    #[arg(long)]
    haproxy: bool,
    /// The guest's memory.
    #[arg(long, visible_alias = "memory", value_name = "M", default_value = "1G")]
    mem: String,
    /// The guest's processors.
    #[arg(long, value_name = "N", default_value_t = 2)]
    smp: u32,
    /// Count instructions instead of time (one processor).
    #[arg(long)]
    icount: bool,
    /// Kill the guest after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// The command, and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What the command could not do; [`code_of`] says which exit status that is.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            Cmd::Setup { guests, consent } => {
                let installed = setup::ensure(guests, consent.yes)?;
                println!("{}", if installed { "installed" } else { "all is there" });
                Ok(ExitCode::SUCCESS)
            }
            Cmd::Run { consent, args } => daemon::run(&args, consent.yes),
            Cmd::Test { consent, quick } => test::test(consent.yes, quick),
            Cmd::Matrix { check: true, .. } => test::check_matrix(),
            Cmd::Matrix { consent, kernel, suite, again, .. } => {
                test::matrix(&kernel, &suite, again, consent.yes)
            }
            Cmd::Demo { consent, kernel } => daemon::demo(&kernel, consent.yes),
            Cmd::Lab { consent, seed, kernel, size, default_syn_retries } => {
                daemon::lab(&kernel, seed, size, default_syn_retries, consent.yes)
            }
            Cmd::Bench { consent, kernel, rounds, connections, print_only, dump_only } => {
                let request = bench::Request { kernel, rounds, connections, print_only, dump_only };
                bench::run(&request, consent.yes)
            }
            Cmd::Lint { consent } => {
                setup::ensure(false, consent.yes)?;
                lint::all()?;
                Ok(ExitCode::SUCCESS)
            }
            Cmd::Bare => bare::bare(),
            Cmd::Cluster { consent } => cluster::cluster(consent.yes),
            Cmd::Vm(args) => run_vm(args),
        }
    }
}

/// The exit status of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    if error.is::<NotObtainable>() {
        ExitCode::from(3)
    } else if error.is::<Refused>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

fn run_vm(args: VmArgs) -> Result<ExitCode> {
    setup::ensure(true, args.consent.yes)?;
    boot(&VmRequest {
        kernel: args.kernel,
        command: args.command,
        add: args.add,
        extras: [(args.containers, &CONTAINERS), (args.haproxy, &HAPROXY)]
            .into_iter()
            .filter_map(|(wanted, extra)| wanted.then_some(extra))
            .collect(),
        memory: args.mem,
        cpus: args.smp,
        icount: args.icount,
        timeout: Duration::from_secs(args.timeout),
        stream: true,
    })
}

/// Boots with the project's programs on board and tells what went wrong with the guest itself.
///
/// # Errors
/// As [`vm::run`], or when the programs do not build.
pub(crate) fn boot(request: &VmRequest) -> Result<ExitCode> {
    let outcome = vm::run(request, &build::guest_programs()?)?;
    match outcome.end {
        End::Exited(_) => {}
        End::Panicked => {
            eprintln!("{}\nthe kernel stopped before the command ended", outcome.console_tail(40))
        }
        End::TimedOut => {
            eprintln!("{}\nno end within {} s", outcome.console_tail(20), request.timeout.as_secs());
        }
    }
    Ok(ExitCode::from(outcome.end.code()))
}

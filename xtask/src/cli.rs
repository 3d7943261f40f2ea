//! The commands and their flags.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::build;
use crate::guest::vm::{self, End, VmRequest};
use crate::kernel::obtain::NotObtainable;

/// Builds, runs and tests conntrack-pressure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Boots a kernel, runs a command in it, and ends with the command's status (70: panic, 124: time was up,
    /// 3: that kernel cannot be had).
    Vm(VmArgs),
}

#[derive(Debug, Args)]
struct VmArgs {
    /// 5.10, 6.1, 6.12, 6.18, newest, a package version, or a folder with an unpacked kernel.
    #[arg(long, value_name = "KERNEL")]
    kernel: String,
    /// A file to put into the guest's PATH, with the libraries it needs.
    #[arg(long, value_name = "FILE")]
    add: Vec<PathBuf>,
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
            Cmd::Vm(args) => run_vm(args),
        }
    }
}

/// The exit status of an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    if error.is::<NotObtainable>() { ExitCode::from(3) } else { ExitCode::FAILURE }
}

fn run_vm(args: VmArgs) -> Result<ExitCode> {
    let programs = build::guest_programs()?;
    let request = VmRequest {
        kernel: args.kernel,
        command: args.command,
        add: args.add,
        memory: args.mem,
        cpus: args.smp,
        icount: args.icount,
        timeout: Duration::from_secs(args.timeout),
        stream: true,
    };
    let outcome = vm::run(&request, &programs)?;
    match outcome.end {
        End::Exited(_) => {}
        End::Panicked => {
            eprintln!("{}\nthe kernel stopped before the command ended", outcome.console_tail(40))
        }
        End::TimedOut => eprintln!("{}\nno end within {} s", outcome.console_tail(20), args.timeout),
    }
    Ok(ExitCode::from(outcome.end.code()))
}

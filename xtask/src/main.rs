//! Developer commands: `cargo xtask <command>`.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | the commands and their flags, and who serves each |
//! | `cache`, `proc`, `apt`, `build` | downloads, programs, Debian's packages, cargo |
//! | `kernel` | which kernels there are, and getting one |
//! | `guest` | a guest's root, and running a command in it |
//! | `setup` | what a machine needs, and installing it |
//! | `daemon` | `run`, `demo` and `lab` |
//! | `bare` | the README's commands on a fresh Debian |
//! | `cluster` | discovery of pods against a real kube-apiserver |
//! | `bench` | what the probes cost, and the page that says so |
//! | `suites` | the guest tests, a table of data |
//! | `test`, `lint`, `report`, `seen` | `test`, `lint` and `matrix`, and the files it writes |
//!
//! A new command is a variant in `cli` and a module in this table.

mod apt;
mod attempts;
mod bare;
mod bench;
mod build;
mod cache;
mod cli;
mod cluster;
mod daemon;
mod guest;
mod kernel;
mod lint;
mod proc;
mod report;
mod seen;
mod setup;
mod suites;
mod test;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            cli::code_of(&error)
        }
    }
}

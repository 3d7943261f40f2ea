//! Developer commands: `cargo xtask <command>`.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | the commands and their flags, and who serves each |
//! | `cache`, `proc`, `apt`, `build` | downloads, programs, Debian's packages, cargo |
//! | `kernel` | which kernels there are, and getting one |
//! | `guest` | a guest's root, and running a command in it |

mod apt;
mod build;
mod cache;
mod cli;
mod guest;
mod kernel;
mod proc;

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

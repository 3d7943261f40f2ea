//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod attach;
mod daemon;
mod evictions;
mod forwarded;
mod gc;
mod lab;
mod owners;
mod protocols;
mod refusals;
mod resets;

use std::process::ExitCode;

/// A command, and what it does.
type Command = (&'static str, fn() -> anyhow::Result<()>);

/// Every command. A new suite is a new row.
const COMMANDS: &[Command] = &[
    ("attach", attach::test),
    ("refusals", refusals::test),
    ("demo", refusals::demo),
    ("forwarded", forwarded::test),
    ("forwarded-node", forwarded::on_the_node),
    ("owners", owners::test),
    ("protocols", protocols::test),
    ("evictions", evictions::test),
    ("gc", gc::test),
    ("resets", resets::test),
];

fn main() -> ExitCode {
    let asked = std::env::args().nth(1);
    let command = COMMANDS.iter().find(|(name, _)| Some(*name) == asked.as_deref());
    let Some((_, run)) = command else {
        let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: conntrack-guest {}", names.join("|"));
        return ExitCode::FAILURE;
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

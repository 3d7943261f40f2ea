//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod absent;
mod agent;
mod attach;
mod balance;
mod broken;
mod churn;
mod containers;
mod cost;
mod culprit;
mod daemon;
mod demo;
mod ends;
mod events;
mod evictions;
mod forwarded;
mod gc;
mod incident;
mod invalid;
mod lab;
mod laboratory;
mod many;
mod options;
mod ordinary;
mod owners;
mod preempted;
mod probes;
mod protocols;
mod races;
mod refusals;
mod resets;
mod soon;
mod subject;
mod usage;
mod whose;

use std::process::ExitCode;

/// A command, and what it does.
type Command = (&'static str, fn() -> anyhow::Result<()>);

/// Every command. A new suite is a new row.
const COMMANDS: &[Command] = &[
    ("attach", attach::test),
    ("refusals", refusals::test),
    ("demo", demo::demo),
    ("forwarded", forwarded::test),
    ("forwarded-node", forwarded::on_the_node),
    ("owners", owners::test),
    ("protocols", protocols::test),
    ("evictions", evictions::test),
    ("gc", gc::test),
    ("resets", resets::test),
    ("races", races::test),
    ("churn", churn::test),
    ("cost", cost::run),
    ("events", events::test),
    ("probes", probes::test),
    ("absent", absent::test),
    ("ends", ends::test),
    ("usage", usage::test),
    ("whose", whose::test),
    ("audited", balance::audited::test),
    ("balance", balance::churn::test),
    ("restart", balance::restart::test),
    ("moved", balance::moved::test),
    ("passing", balance::passing::test),
    ("culprit", culprit::test),
    ("broken", broken::test),
    ("invalid", invalid::test),
    ("ordinary", ordinary::test),
    ("incident", incident::test),
    ("soon", soon::test),
    ("lab", laboratory::test),
    ("many", many::test),
    ("preempted", preempted::test),
    ("preempted-crowd", preempted::crowd),
    ("containers", containers::test),
    ("agent", agent::run),
];

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let command = COMMANDS.iter().find(|(name, _)| Some(*name) == args.first().map(String::as_str));
    let Some((_, run)) = command else {
        let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "usage: conntrack-guest {} [--mechanism fentry|kprobe|mixed] [--size N] [--seed N]",
            names.join("|")
        );
        return ExitCode::FAILURE;
    };
    match options::take(&args[1..]).and_then(|()| run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

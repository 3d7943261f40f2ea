//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod absent;
mod daemon;
mod ends;
mod events;
mod probes;
mod refusals;
mod subject;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("refusals") => refusals::test(),
        Some("events") => events::test(),
        Some("probes") => probes::test(),
        Some("absent") => absent::test(),
        Some("ends") => ends::test(),
        Some("usage") => usage::test(),
        Some("demo") => refusals::demo(),
        _ => Err(anyhow::anyhow!("usage: conntrack-guest refusals|demo|events|probes|absent|ends|usage")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod daemon;
mod events;
mod refusals;
mod subject;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("refusals") => refusals::test(),
        Some("events") => events::test(),
        Some("demo") => refusals::demo(),
        _ => Err(anyhow::anyhow!("usage: conntrack-guest refusals|demo|events")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

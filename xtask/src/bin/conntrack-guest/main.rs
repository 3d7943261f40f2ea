//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod attach;
mod daemon;
mod refusals;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("attach") => attach::test(),
        Some("refusals") => refusals::test(),
        Some("demo") => refusals::demo(),
        _ => Err(anyhow::anyhow!("usage: conntrack-guest attach|refusals|demo")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! What tests run inside a guest: real sockets, and the kernel's own word for the truth.

mod daemon;
mod refusals;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    if let [_, flag, mechanism] = args.as_slice()
        && flag == "--mechanism"
    {
        daemon::force(mechanism.clone());
    }
    let outcome = match args.first().map(String::as_str) {
        Some("refusals") => refusals::test(),
        Some("demo") => refusals::demo(),
        _ => Err(anyhow::anyhow!("usage: conntrack-guest refusals|demo [--mechanism fentry|kprobe]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conntrack-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

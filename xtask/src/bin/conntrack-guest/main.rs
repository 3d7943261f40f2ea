//! What tests run inside a guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("hello") => {
            let name = rustix::system::uname();
            println!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: conntrack-guest hello");
            ExitCode::from(2)
        }
    }
}

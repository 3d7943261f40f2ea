//! The cost of watching: the same connections with nobody watching, with us, and with others, in turn.
//!
//! Run under instruction counting the guest's clock counts instructions, whatever the host is doing. Rounds and
//! connections come from the environment: `COST_ROUNDS`, `COST_CONNECTIONS`.

mod load;
mod programs;
mod watcher;

use anyhow::Context as _;

use self::watcher::{Variant, Watcher};
use crate::lab::command::output;
use crate::lab::kernel;
use crate::lab::netns::Netns;

/// Room for every connection of a run, so that none is refused.
const LIMIT: u64 = 200_000;

/// Prints one JSON object for each run, behind `cost `, and then what each program takes.
///
/// # Errors
/// When the guest cannot be prepared or a connection fails. A watcher that is not there is no error: it is said.
pub(crate) fn run() -> anyhow::Result<()> {
    let rounds = number("COST_ROUNDS", 10)?;
    let connections = number("COST_CONNECTIONS", 2_000)?;
    prepare()?;
    let server = load::Server::start()?;
    // The first run warms caches up and is not told.
    load::run(&server, connections, 0)?;
    let mut absent = Vec::new();
    for round in 1..=rounds {
        for variant in Variant::ALL {
            if absent.contains(&variant) {
                continue;
            }
            let mut watcher = match Watcher::start(variant)? {
                Ok(watcher) => watcher,
                Err(why) => {
                    absent.push(variant);
                    tell(&serde_json::json!({ "variant": variant.name(), "not_run": why }));
                    continue;
                }
            };
            let before = kernel::own_count()?;
            let run = load::run(&server, connections, round * 10 + variant as u64)?;
            let after = kernel::own_count()?;
            let (saw, missed) = watcher.saw()?;
            watcher.stop()?;
            tell(&serde_json::json!({
                "round": round, "variant": variant.name(), "connections": run.made, "ns": run.ns,
                "saw": saw, "missed": missed, "entries_before": before, "entries_after": after,
            }));
        }
    }
    programs::tell(&server, connections, (rounds + 1) * 10)
}

fn tell(line: &serde_json::Value) {
    println!("cost {line}");
}

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}

fn prepare() -> anyhow::Result<()> {
    kernel::load()?;
    // Scrapes are kept out of the table: they are not of the connections made.
    let scrape = "tcp dport 9466 notrack; tcp sport 9466 notrack;";
    let rules = format!(
        "table inet cost {{ \
           chain out {{ type filter hook output priority 0; ct state new counter; }}; \
           chain raw_out {{ type filter hook output priority -300; {scrape} }}; \
           chain raw_in {{ type filter hook prerouting priority -300; {scrape} }}; }}"
    );
    output("nft", &[&rules])?;
    kernel::set_size(LIMIT, Some(65_536))?;
    let host = Netns::host()?;
    for timeout in ["fin_wait", "close_wait", "last_ack", "time_wait", "close"] {
        kernel::set(&host, &format!("tcp_timeout_{timeout}"), 1)?;
    }
    Ok(())
}

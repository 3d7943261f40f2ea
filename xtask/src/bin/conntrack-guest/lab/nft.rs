//! nft rules in a namespace, and its named counters read back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::command::feed;
use super::netns::Netns;

/// Packets of each named counter.
pub(crate) type Counters = BTreeMap<String, u64>;

/// Loads rules, as `nft -f` reads them.
///
/// # Errors
/// When nft refuses them.
pub(crate) fn load(netns: &Netns, rules: &str) -> anyhow::Result<()> {
    netns.run(|| feed("nft", &["-f", "-"], rules)).map(drop)
}

/// Reads every named counter.
///
/// # Errors
/// When nft fails.
pub(crate) fn counters(netns: &Netns) -> anyhow::Result<Counters> {
    parse(&netns.output("nft", &["-j", "list", "counters"])?)
}

/// Reads the counters until two readings in a row agree: no packet is under way any more.
///
/// # Errors
/// When they do not come to rest within 20 s.
pub(crate) fn counters_at_rest(netns: &Netns) -> anyhow::Result<Counters> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = counters(netns)?;
    while Instant::now() < deadline {
        let now = counters(netns)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    bail!("packets still come after 20 s: {last:?}")
}

fn parse(json: &str) -> anyhow::Result<Counters> {
    let json: serde_json::Value = serde_json::from_str(json).context("nft printed no JSON")?;
    let objects = json["nftables"].as_array().context("nft printed no list")?;
    let counter = |object: &serde_json::Value| {
        let counter = object.get("counter")?;
        Some((counter["name"].as_str()?.to_owned(), counter["packets"].as_u64()?))
    };
    Ok(objects.iter().filter_map(counter).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_counters_are_read() {
        let json = r#"{"nftables":[{"metainfo":{"version":"1"}},{"counter":{"family":"inet","name":"before",
            "table":"t","handle":1,"packets":12,"bytes":99}}]}"#;
        assert_eq!(parse(json).unwrap(), Counters::from([("before".to_owned(), 12)]));
        assert!(parse("{}").is_err());
    }
}

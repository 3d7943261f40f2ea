//! The daemon's word: its events, and its counters by pod.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::Value;

use super::case::{TCP, UDP};

/// An event that names an effect.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// Cause and effect, as [`super::case::Kind::name`] has them.
    pub(super) what: String,
    pub(super) proto: u8,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Who had made the entry.
    pub(super) maker: Option<SocketAddr>,
    pub(super) pod: String,
    /// Exact, or near in time.
    pub(super) is_sure: bool,
    pub(super) suppressed: u64,
    pub(super) event: Value,
}

/// Every effect that the log tells of, but those that were counted at their other end.
///
/// # Errors
/// When an event lacks a field.
pub(super) fn events(log: &str) -> anyhow::Result<Vec<Told>> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let effects = events.filter(|e| e["effect"].is_string() && e["repeated"] != true);
    effects.map(|event| told(event).context("an event lacks a field")).collect()
}

fn told(event: Value) -> Option<Told> {
    let text = |name: &str| event[name].as_str();
    let end = |of: &Value, ip: &str, port: &str| {
        Some(SocketAddr::new(of[ip].as_str()?.parse().ok()?, of[port].as_u64()?.try_into().ok()?))
    };
    let proto = if text("proto")? == "udp" { UDP } else { TCP };
    let effect = match text("effect")? {
        "stall" if proto == UDP => "dns_stall",
        effect => effect,
    };
    let by = text("by").map(|by| format!(" by {by}")).unwrap_or_default();
    Some(Told {
        what: format!("{} {effect}{by}", text("cause")?),
        proto,
        from: end(&event, "src", "sport")?,
        to: end(&event, "dst", "dport")?,
        maker: end(&event["token"], "src", "sport"),
        pod: text("pod").unwrap_or("nobody").to_owned(),
        is_sure: matches!(text("confidence")?, "exact" | "window"),
        suppressed: event["suppressed"].as_u64()?,
        event,
    })
}

/// What is counted together: (pod, cause and effect without who gave up).
pub(super) type Counted = BTreeMap<(String, String), u64>;

/// Cause and effect, without who gave up.
pub(super) fn counted_as(what: &str) -> String {
    what.split(" by ").next().unwrap_or(what).to_owned()
}

/// The counters of outcomes, of all confidences but that of what is unrelated too.
pub(super) fn counters(page: &str) -> Counted {
    let mut counted = Counted::new();
    for (metric, effect) in [
        ("tcp_resets", "reset"),
        ("tcp_connect_timeouts", "connect_timeout"),
        ("tcp_slow_connects", "slow_connect"),
        ("tcp_stalls", "stall"),
        ("udp_refused", "udp_refused"),
        ("dns_stalls", "dns_stall"),
    ] {
        let name = format!("conntrack_{metric}_total{{");
        for line in page.lines().filter_map(|line| line.strip_prefix(&name)) {
            let label = |label: &str| {
                let (_, rest) = line.split_once(&format!("{label}=\""))?;
                rest.split('"').next().map(str::to_owned)
            };
            let (Some(pod), Some(cause)) = (label("pod"), label("cause")) else { continue };
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0);
            *counted.entry((pod, format!("{cause} {effect}"))).or_default() += count as u64;
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_confidences() {
        let page = "conntrack_tcp_resets_total{owner=\"pod\",namespace=\"shop\",pod=\"a\",cgroup=\"\",cause=\"evicted\",confidence=\"exact\"} 3\n\
                    conntrack_tcp_resets_total{owner=\"pod\",namespace=\"shop\",pod=\"a\",cgroup=\"\",cause=\"evicted\",confidence=\"window\"} 2\n";
        assert_eq!(counters(page), Counted::from([(("a".into(), "evicted reset".into()), 5)]));
        assert_eq!(counted_as("table_full connect_timeout by kernel"), "table_full connect_timeout");
    }

    #[test]
    fn an_effect_is_read() {
        let line = "{\"effect\":\"stall\",\"cause\":\"race\",\"proto\":\"udp\",\"src\":\"10.0.0.1\",\"sport\":9,\"dst\":\"10.0.0.2\",\
                    \"dport\":53,\"confidence\":\"exact\",\"suppressed\":0,\"pod\":\"a\"}";
        let told = events(line).unwrap();
        assert_eq!(
            (told[0].what.as_str(), told[0].pod.as_str(), told[0].is_sure),
            ("race dns_stall", "a", true)
        );
        assert!(events("{\"effect\":\"stall\"}").is_err());
    }
}

//! What is not covered on this node, or only in part: judged from facts, without touching anything.

use std::collections::BTreeSet;

use serde::Serialize;

use super::snapshot::ProbeState;
use crate::drain::nftables::Ruleset;
use crate::drain::surroundings::Surroundings;

mod datapath;
mod rights;
#[cfg(test)]
mod tests;

pub(crate) use rights::may_load;

/// The kind of the gap that conntrack itself is not there.
pub const NOT_LOADED: &str = "not_loaded";

/// Is there such a gap?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapState {
    /// No.
    Absent,
    /// Yes.
    Present,
    /// It could not be found out.
    Unknown,
}

/// One kind of gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Which, in a word: a label of the metric.
    pub kind: &'static str,
    /// Is there one?
    pub state: GapState,
    /// What was found, and what it means; one line. None where there is none.
    pub found: Option<String>,
    /// What to do; one line.
    pub advice: Option<String>,
}

impl Gap {
    fn absent(kind: &'static str) -> Self {
        Self { kind, state: GapState::Absent, found: None, advice: None }
    }
    fn present(kind: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::told(kind, GapState::Present, found.into(), advice)
    }
    fn unknown(kind: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::told(kind, GapState::Unknown, found.into(), advice)
    }
    fn told(kind: &'static str, state: GapState, found: String, advice: &str) -> Self {
        Self { kind, state, found: Some(found), advice: Some(advice.to_owned()) }
    }
}

/// Every kind, whether there is one or not, in the order of what hides most.
#[must_use]
pub fn gaps(around: &Surroundings, probes: &[ProbeState]) -> Vec<Gap> {
    vec![
        not_loaded(around),
        datapath::cilium(around),
        datapath::calico(around),
        notrack(around),
        flow_offload(around),
        datapath::ipvs(around),
        zones(around),
        rights::capabilities(around),
        rights::user_namespace(around),
        rights::lockdown(around),
        rights::btf(around),
        rights::kprobes(around),
        rights::fentry(around, probes),
        rights::hidden_namespaces(around),
    ]
}

fn not_loaded(around: &Surroundings) -> Gap {
    if around.conntrack_loaded {
        return Gap::absent(NOT_LOADED);
    }
    Gap::present(
        NOT_LOADED,
        "conntrack (nf_conntrack) is not in this kernel: there is no table, and no figure about one",
        "nothing: it is picked up as soon as a firewall rule or a program loads it; it is never loaded from here",
    )
}

fn notrack(around: &Surroundings) -> Gap {
    const KIND: &str = "notrack";
    const MEANS: &str = "what they match has no entry, and so no owner, no refusal and no figure here";
    let found = Rules::of(around, |rules| &rules.notrack);
    match found {
        Rules { places, .. } if !places.is_empty() => Gap::present(
            KIND,
            format!("rules exempt packets from tracking in {}: {MEANS}", list(&places)),
            "nothing if that is meant; `nft list ruleset` or `iptables -t raw -S` shows what they match",
        ),
        Rules { unread: Some(why), .. } => Gap::unknown(
            KIND,
            format!("the rules could not be read: {why}"),
            "run as root with CAP_NET_ADMIN",
        ),
        _ => legacy(around, KIND),
    }
}

/// What iptables-legacy may hold besides.
fn legacy(around: &Surroundings, kind: &'static str) -> Gap {
    const LOOK: &str = "`iptables-legacy -t raw -S` and `ip6tables-legacy -t raw -S` show its rules";
    match around.legacy_raw {
        Some(false) => Gap::absent(kind),
        Some(true) => Gap::unknown(
            kind,
            "iptables-legacy has a raw table, whose rules cannot be read from here: CT or NOTRACK may be among them",
            LOOK,
        ),
        None => Gap::unknown(kind, "the tables of iptables-legacy could not be read", LOOK),
    }
}

fn zones(around: &Surroundings) -> Gap {
    const KIND: &str = "zones";
    const MEANS: &str = "entries are counted against the one limit and here, but events do not name the zone: \
                         one address may be several hosts, and then its owner is not to be trusted";
    const DO: &str = "read `conntrack -L` for the zone of an entry";
    let rules = Rules::of(around, |rules| &rules.zones);
    let links = around.links.iter().flatten();
    let ovs = links.filter(|l| l.kind.as_deref() == Some("openvswitch")).map(|l| l.name.clone()).next();
    let mut by: Vec<String> = Vec::new();
    if !rules.places.is_empty() {
        by.push(format!("rules in {}", list(&rules.places)));
    }
    by.extend(ovs.map(|name| format!("Open vSwitch ({name})")));
    if around.act_ct {
        by.push("tc rules (act_ct is loaded)".to_owned());
    }
    match rules.unread {
        _ if !by.is_empty() => {
            Gap::present(KIND, format!("connections can be put into zones by {}: {MEANS}", by.join(", ")), DO)
        }
        Some(why) => Gap::unknown(
            KIND,
            format!("the rules could not be read: {why}"),
            "run as root with CAP_NET_ADMIN",
        ),
        None => legacy(around, KIND),
    }
}

fn flow_offload(around: &Surroundings) -> Gap {
    const KIND: &str = "flow_offload";
    let found = Rules::of(around, |rules| &rules.flowtables);
    let hardware = around.rulesets.iter().flat_map(|n| &n.rules).any(|rules| rules.hardware);
    match found {
        Rules { places, .. } if !places.is_empty() => Gap::present(
            KIND,
            format!(
                "flow tables{}: {}; offloaded connections keep their entry and are counted, but their packets \
                 pass conntrack by: nothing is seen INVALID or evicted of them, and resets only where they end",
                if hardware { ", in hardware too" } else { "" },
                list(&places)
            ),
            "nothing if that is meant; `conntrack -L | grep OFFLOAD` lists them",
        ),
        Rules { unread: Some(why), .. } => Gap::unknown(
            KIND,
            format!("the flow tables could not be read: {why}"),
            "run as root with CAP_NET_ADMIN",
        ),
        _ => Gap::absent(KIND),
    }
}

/// One kind of place over all namespaces.
struct Rules {
    places: Vec<String>,
    /// Why a ruleset could not be read; the first reason.
    unread: Option<String>,
}

impl Rules {
    fn of(around: &Surroundings, pick: fn(&Ruleset) -> &BTreeSet<String>) -> Self {
        let mut found = Self { places: Vec::new(), unread: None };
        for namespace in &around.rulesets {
            match &namespace.rules {
                Ok(rules) if namespace.host => {
                    found.places.extend(pick(rules).iter().map(|p| format!("`{p}`")))
                }
                Ok(rules) => {
                    let netns = namespace.netns;
                    found.places.extend(pick(rules).iter().map(|p| format!("`{p}` of netns:{netns}")));
                }
                Err(why) => found.unread = found.unread.or_else(|| Some(why.clone())),
            }
        }
        found
    }
}

/// The first few, and how many more.
fn list(places: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = places.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match places.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

//! One rare fact with its owner: what a log event is made from.

use std::net::IpAddr;
use std::time::SystemTime;

use conntrack_common::EventKind;
use serde::Serialize;

use super::api::services::ServiceName;
use super::owner::{Evidence, Owner};
use super::verdict::Verdict;
use crate::aggregate::snapshot::{OwnerPart, Owners};

/// Addresses of one direction, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Source port; ICMP: the echo id.
    pub sport: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port; ICMP: type << 8 | code.
    pub dport: u16,
    /// IP protocol number.
    pub protonum: u8,
}

/// The token that an outcome was matched with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenEvidence {
    /// What left it.
    #[serde(skip)]
    pub kind: Option<EventKind>,
    /// Age when the outcome matched it; of several refusals, since the first.
    pub age: std::time::Duration,
    /// Inode of the namespace whose table left it.
    pub netns: u32,
    /// Original tuple of the entry, or would-be entry.
    pub orig: Option<Flow>,
    /// Was the entry translated (NAT)?
    pub nat: bool,
    /// How many packets had been refused.
    pub refusals: Option<u32>,
}

/// Who holds most of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The owner.
    pub owner: Owner,
    /// Entries it holds.
    pub entries: u64,
    /// Part of all entries, of 100, rounded down.
    pub percent: u64,
}

impl Culprit {
    /// Who holds most. None: nobody known does.
    #[must_use]
    pub fn of(owners: &Owners) -> Option<Self> {
        let held = |part: &OwnerPart| u64::try_from(part.entries).ok().filter(|entries| *entries > 0);
        let all: u64 = owners.parts.iter().filter_map(held).sum();
        let most = owners.parts.iter().max_by_key(|part| part.entries)?;
        let entries = held(most)?;
        Some(Self { owner: most.owner.clone(), entries, percent: entries * 100 / all })
    }
}

/// A fact, attributed.
#[derive(Clone, Debug)]
pub struct Observed {
    /// When it happened (not when it was read).
    pub time: SystemTime,
    /// What.
    pub kind: EventKind,
    /// Namespace where it happened.
    pub netns: u32,
    /// Namespace whose table it is about: of an outcome, the one that left its token.
    pub table: u32,
    /// Is that the host's?
    pub host: bool,
    /// Original tuple, or the outcome's tuple; None where the record has none.
    pub orig: Option<Flow>,
    /// Reply tuple where known.
    pub reply: Option<Flow>,
    /// Input or output device, by name where it could be found.
    pub device: Option<String>,
    /// Whose connection it was.
    pub owner: Owner,
    /// By what evidence.
    pub evidence: Evidence,
    /// The responder, where a local pod is one.
    pub responder: Option<Owner>,
    /// The Service that the original destination is, where one is known.
    pub service: Option<ServiceName>,
    /// Refusals and what comes of them: who held most of the table.
    pub culprit: Option<Culprit>,
    /// Outcomes: the token matched.
    pub token: Option<TokenEvidence>,
    /// What it is an outcome of; None: of nothing that is proved.
    pub verdict: Option<Verdict>,
    /// Further connections of this source that were held back since its last event.
    pub suppressed: u32,
    /// True when this reset's token was already matched before: the same connection's other end.
    pub repeated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_culprit_holds_most() {
        let part = |owner, entries| OwnerPart {
            owner,
            entries,
            responder_entries: 0,
            inserts: None,
            inserts_per_second: None,
        };
        let owners = |parts| Owners { source: "probes", parts };
        let most = Culprit::of(&owners(vec![
            part(Owner::Host, 30),
            part(Owner::External, 61),
            part(Owner::Unknown, -1),
        ]));
        assert_eq!(most, Some(Culprit { owner: Owner::External, entries: 61, percent: 67 }));
        assert_eq!(Culprit::of(&owners(vec![part(Owner::Host, 0)])), None);
        assert_eq!(Culprit::of(&owners(Vec::new())), None);
    }
}

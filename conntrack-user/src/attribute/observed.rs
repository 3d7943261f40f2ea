//! One rare fact with its owner: what a log event is made from.

use std::net::IpAddr;
use std::time::SystemTime;

use conntrack_common::EventKind;
use serde::Serialize;

use super::owner::{Evidence, Owner};
use super::resets::ResetVerdict;

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

/// The eviction that a reset was matched with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenEvidence {
    /// What left it.
    #[serde(skip)]
    pub kind: Option<EventKind>,
    /// Age when the reset matched it.
    pub age: std::time::Duration,
    /// Inode of the namespace whose table lost the entry.
    pub netns: u32,
    /// Original tuple of the evicted entry.
    pub orig: Option<Flow>,
    /// Was the entry translated (NAT)?
    pub nat: bool,
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
    /// Is that the host's?
    pub host: bool,
    /// Original tuple, or the reset's tuple; None where the record has none.
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
    /// Resets: the token matched.
    pub token: Option<TokenEvidence>,
    /// Resets: what the token proves; None: nothing.
    pub verdict: Option<ResetVerdict>,
    /// Further connections of this source that were held back since its last event.
    pub suppressed: u32,
    /// True when this reset's token was already matched before: the same connection's other end.
    pub repeated: bool,
}

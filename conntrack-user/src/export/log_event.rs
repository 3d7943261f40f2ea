//! A fact, as a log event.

use conntrack_common::EventKind;

use super::log_sentence::sentence;
use super::record::{Level, Record, Value};
use super::timestamp::rfc3339;
use crate::attribute::observed::{Flow, Observed, TokenEvidence};
use crate::attribute::owner::{Evidence, Owner};
use crate::attribute::verdict::{CAUSE_UNRELATED, CONFIDENCE_EXACT, CONFIDENCE_INFERRED};

fn confidence(o: &Observed) -> &'static str {
    match o.kind {
        EventKind::InferredRefusal => CONFIDENCE_INFERRED,
        kind if kind.is_outcome() => o.verdict.map_or(CONFIDENCE_INFERRED, |verdict| verdict.confidence),
        _ => CONFIDENCE_EXACT,
    }
}

/// The fields of the event, in the order of [`super::log_fields::FIELDS`].
#[must_use]
pub fn record(o: &Observed) -> Record {
    let mut r = Record::default();
    r.push("ts", rfc3339(o.time));
    r.push("level", level(o).name());
    r.push("event", event_name(o.kind));
    match o.kind {
        EventKind::RefusedTableFull | EventKind::InferredRefusal => r.push("reason", "table_full"),
        EventKind::RefusedNoMemory => r.push("reason", "no_memory"),
        EventKind::EvictedEarlyDrop => r.push("cause", "early_drop"),
        EventKind::EvictedGc => r.push("cause", "gc"),
        _ => {}
    }
    r.push_known("effect", o.verdict.map(|verdict| verdict.effect.name()));
    match o.verdict {
        Some(verdict) => r.push("cause", verdict.cause),
        None if o.kind.is_outcome() => r.push("cause", CAUSE_UNRELATED),
        None => {}
    }
    r.push_known("rule", o.verdict.map(|verdict| verdict.rule));
    r.push_known("by", o.verdict.and_then(|verdict| verdict.by));
    if o.kind.is_reset() {
        r.push("direction", if o.kind == EventKind::ResetSent { "sent" } else { "received" });
    }
    r.push("confidence", confidence(o));
    r.push("table", table_name(o));
    r.push("netns", o.netns);
    if let Some(orig) = &o.orig {
        flow(&mut r, orig);
    }
    if let (Some(orig), Some(reply)) = (&o.orig, &o.reply)
        && translated(orig, reply)
    {
        r.push("reply_src", reply.src.to_string());
        r.push_known("reply_sport", has_ports(reply).then_some(reply.sport));
        r.push("reply_dst", reply.dst.to_string());
        r.push_known("reply_dport", has_ports(reply).then_some(reply.dport));
    }
    owner(&mut r, &o.owner);
    r.push("evidence", evidence_name(o.evidence));
    r.push_known("device", o.device.as_deref());
    if let Some(responder) = &o.responder {
        let mut inner = Record::default();
        owner(&mut inner, responder);
        r.push("responder", Value::Fields(inner));
    }
    if let Some(service) = &o.service {
        r.push("service_namespace", service.namespace.as_str());
        r.push("service", service.name.as_str());
    }
    if let Some(culprit) = &o.culprit {
        let mut inner = Record::default();
        owner(&mut inner, &culprit.owner);
        inner.push("entries", culprit.entries);
        inner.push("percent", culprit.percent);
        r.push("culprit", Value::Fields(inner));
    }
    if let Some(t) = &o.token {
        r.push("token", Value::Fields(token(t)));
    }
    if o.kind.is_reset() {
        r.push("repeated", o.repeated);
    }
    r.push("suppressed", o.suppressed);
    r.push("message", sentence(o));
    r
}

/// Warn where a connection was hurt.
fn level(o: &Observed) -> Level {
    let harmless = o.kind.is_outcome() && o.token.is_none();
    if harmless { Level::Info } else { Level::Warn }
}

/// The value of the field `event`.
#[must_use]
pub const fn event_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::RefusedTableFull | EventKind::RefusedNoMemory | EventKind::Refused => "refused",
        EventKind::EvictedEarlyDrop | EventKind::EvictedGc => "evicted",
        EventKind::ResetSent | EventKind::ResetReceived => "reset",
        EventKind::InferredRefusal => "inferred_refusal",
        EventKind::ClashLost => "clash_lost",
        EventKind::Invalid => "invalid",
        EventKind::ConnectedLate => "slow_connect",
        EventKind::ConnectGivenUp => "connect_timeout",
        EventKind::Stalled => "stall",
    }
}

/// The value of the field `table`.
pub(crate) fn table_name(o: &Observed) -> String {
    if o.host { "host".to_owned() } else { format!("netns:{}", o.table) }
}

const fn evidence_name(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Namespace => "namespace",
        Evidence::Device => "device",
        Evidence::SourceAddress => "source_address",
        Evidence::DestinationAddress => "destination_address",
        Evidence::SocketCgroup => "socket_cgroup",
        Evidence::Entry => "entry",
        Evidence::None => "none",
    }
}

/// Name of an IP protocol that conntrack knows by name, else its number.
#[must_use]
pub fn proto_name(protonum: u8) -> String {
    match protonum {
        1 => "icmp".to_owned(),
        2 => "igmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        33 => "dccp".to_owned(),
        47 => "gre".to_owned(),
        50 => "esp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        136 => "udplite".to_owned(),
        n => n.to_string(),
    }
}

pub(crate) const fn has_ports(f: &Flow) -> bool {
    matches!(f.protonum, 6 | 17 | 33 | 132 | 136)
}

const fn is_icmp(f: &Flow) -> bool {
    matches!(f.protonum, 1 | 58)
}

/// Is the reply anything but the inverse of the original? ICMP's type differs by nature (echo, echo reply).
fn translated(orig: &Flow, reply: &Flow) -> bool {
    let addresses = orig.src != reply.dst || orig.dst != reply.src;
    addresses || (has_ports(orig) && (orig.sport != reply.dport || orig.dport != reply.sport))
}

fn flow(r: &mut Record, f: &Flow) {
    r.push("proto", proto_name(f.protonum));
    r.push("src", f.src.to_string());
    r.push_known("sport", has_ports(f).then_some(f.sport));
    r.push("dst", f.dst.to_string());
    r.push_known("dport", has_ports(f).then_some(f.dport));
    if is_icmp(f) {
        r.push("icmp_id", f.sport);
        r.push("icmp_type", f.dport >> 8);
        r.push("icmp_code", f.dport & 0xff);
    }
}

/// Who an owner is, as fields.
pub(crate) fn owner(r: &mut Record, owner: &Owner) {
    let labels = super::labels::owner_labels(owner);
    r.push("owner", labels.owner);
    match owner {
        Owner::Pod { namespace, pod, uid } => {
            r.push_known("namespace", (!namespace.is_empty()).then_some(namespace.as_str()));
            r.push("pod", pod.as_str());
            r.push("pod_uid", uid.as_str());
        }
        Owner::Cgroup { cgroup } => r.push("cgroup", cgroup.as_str()),
        Owner::Host | Owner::External | Owner::Unknown => {}
    }
}

fn token(t: &TokenEvidence) -> Record {
    let mut r = Record::default();
    r.push_known("kind", t.kind.map(token_name));
    r.push_known("refusals", t.refusals);
    r.push("age_ms", u64::try_from(t.age.as_millis()).unwrap_or(u64::MAX));
    r.push("netns", t.netns);
    r.push("nat", t.nat);
    if let Some(orig) = &t.orig {
        flow(&mut r, orig);
    }
    r
}

/// What left a token.
pub(crate) const fn token_name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::EvictedEarlyDrop => "early_drop",
        EventKind::EvictedGc => "gc",
        EventKind::RefusedTableFull => "table_full",
        EventKind::RefusedNoMemory => "no_memory",
        kind => event_name(kind),
    }
}

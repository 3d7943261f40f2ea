//! What happened, in one sentence a person can act on.

use conntrack_common::EventKind;

use super::log_event::{has_ports, proto_name, table_name, token_name};
use crate::attribute::observed::{Flow, Observed};
use crate::attribute::owner::Owner;

/// The sentence.
#[must_use]
pub fn sentence(o: &Observed) -> String {
    let (who, table) = (who(&o.owner), table(o));
    let service = o.service.as_ref().map(|service| format!(" (Service {service})")).unwrap_or_default();
    let what = connection(o.orig.as_ref()) + &service;
    let mut s = match o.kind {
        EventKind::RefusedTableFull => match &o.culprit {
            Some(culprit) => format!(
                "{who}: {what} was refused: {table} is full, {} % of it held by {}; have that one hold fewer connections, or raise nf_conntrack_max",
                culprit.percent,
                self::who(&culprit.owner)
            ),
            None => format!(
                "{who}: {what} was refused: {table} is full; raise nf_conntrack_max or find who fills it (conntrack_owner_entries)"
            ),
        },
        EventKind::Refused => format!(
            "{who}: {what} was refused an entry in {table}; whether the table was full was not seen (doctor says why)"
        ),
        EventKind::InferredRefusal => format!(
            "{who}: {what} was dropped while {table} was full, most likely for that; raise nf_conntrack_max or find who fills it"
        ),
        EventKind::RefusedNoMemory => {
            format!(
                "{who}: {what} was refused: the kernel had no memory for an entry; the node is short of memory"
            )
        }
        EventKind::EvictedEarlyDrop => {
            format!(
                "{who}: the entry of {what} was evicted to make room: {table} is at its limit; raise nf_conntrack_max"
            )
        }
        EventKind::EvictedGc => format!(
            "{who}: the entry of {what} was evicted before its time: {table} is near its limit; raise nf_conntrack_max"
        ),
        EventKind::ResetSent | EventKind::ResetReceived => reset(o, &who, &what),
        EventKind::ConnectedLate => {
            format!("{who}: {what} came about only {}{}", after(o), why(o, &table))
        }
        EventKind::ConnectGivenUp => {
            let by = o.verdict.and_then(|verdict| verdict.by).unwrap_or("application");
            format!("{who}: {what} was given up by the {by} {}{}", after(o), why(o, &table))
        }
        EventKind::Stalled => {
            format!("{who}: {what} stalls: its entry is gone, and {}{}", refused(o), why(o, &table))
        }
        EventKind::ClashLost => {
            format!(
                "{who}: a packet of {what} was dropped: another packet made the same entry first; its sender will retry"
            )
        }
        EventKind::Invalid => format!("{who}: a packet of {what} was INVALID"),
    };
    if o.suppressed > 0 {
        s.push_str(&format!(" ({} more of this source since its last event)", o.suppressed));
    }
    s
}

fn reset(o: &Observed, who: &str, what: &str) -> String {
    let verb = if o.kind == EventKind::ResetSent { "sent" } else { "received" };
    let Some(token) = &o.token else {
        return format!("{who}: a reset of {what} was {verb}; no eviction explains it");
    };
    if token.kind == Some(EventKind::Invalid) {
        return format!(
            "{who}: a reset of {what} was {verb} because a packet of it was INVALID and passed untranslated; drop INVALID packets by rule, or set nf_conntrack_tcp_be_liberal"
        );
    }
    let by = token.kind.map(|kind| format!(" by {}", token_name(kind))).unwrap_or_default();
    let nat = if token.nat { ", and with it its address translation," } else { "" };
    format!(
        "{who}: a reset of {what} was {verb} because its entry{nat} had been evicted{by} {:.1} s before; raise nf_conntrack_max",
        token.age.as_secs_f64()
    )
}

/// How long an attempt took, and what was refused of it.
fn after(o: &Observed) -> String {
    let age = o.token.as_ref().map_or(0.0, |token| token.age.as_secs_f64());
    format!("{age:.1} s after its first packet was lost; {}", refused(o))
}

fn refused(o: &Observed) -> String {
    match o.token.as_ref().and_then(|token| token.refusals) {
        None | Some(1) => "one packet was refused".to_owned(),
        Some(n) => format!("{n} packets were refused"),
    }
}

/// Why, and what to do.
fn why(o: &Observed, table: &str) -> String {
    match o.token.as_ref().and_then(|token| token.kind) {
        Some(EventKind::RefusedTableFull | EventKind::InferredRefusal) => {
            let by = o.culprit.as_ref();
            let by =
                by.map(|c| format!(", {} % of it held by {}", c.percent, who(&c.owner))).unwrap_or_default();
            format!(": {table} was full{by}; have fewer connections held, or raise nf_conntrack_max")
        }
        Some(EventKind::RefusedNoMemory) => ": the kernel had no memory for an entry".to_owned(),
        Some(EventKind::ClashLost) => ": another packet made the same entry first".to_owned(),
        _ => format!(" an entry in {table}; why was not seen (doctor says)"),
    }
}

/// An owner, in a sentence.
pub(crate) fn who(owner: &Owner) -> String {
    match owner {
        Owner::Pod { namespace, pod, .. } if namespace.is_empty() => format!("pod {pod}"),
        Owner::Pod { namespace, pod, .. } => format!("pod {namespace}/{pod}"),
        Owner::Cgroup { cgroup } => format!("cgroup {cgroup}"),
        Owner::Host => "host".to_owned(),
        Owner::External => "external".to_owned(),
        Owner::Unknown => "owner unknown".to_owned(),
    }
}

fn connection(flow: Option<&Flow>) -> String {
    let Some(f) = flow else { return "a connection".to_owned() };
    let proto = proto_name(f.protonum);
    if has_ports(f) {
        let end = |ip, port| std::net::SocketAddr::new(ip, port);
        format!("{proto} {} -> {}", end(f.src, f.sport), end(f.dst, f.dport))
    } else {
        format!("{proto} {} -> {}", f.src, f.dst)
    }
}

fn table(o: &Observed) -> String {
    if o.host {
        "the host's conntrack table".to_owned()
    } else {
        format!("the conntrack table of {}", table_name(o))
    }
}

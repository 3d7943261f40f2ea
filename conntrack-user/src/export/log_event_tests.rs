//! Events against the schema.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use conntrack_common::EventKind;
use conntrack_common::event::{FLAG_BY_KERNEL, FLAG_DATAGRAM, FLAG_LOOKUP, FLAG_NAT};

use super::log_event::record;
use super::log_fields::FIELDS;
use super::record::{LogFormat, Record, Value};
use super::{fixture, golden};
use crate::attribute::api::services::ServiceName;
use crate::attribute::observed::{Culprit, Flow, Observed, TokenEvidence};
use crate::attribute::owner::{Evidence, Owner};
use crate::attribute::verdict::judge;

fn flow(src: &str, sport: u16, dst: &str, dport: u16, protonum: u8) -> Flow {
    let ip = |s: &str| s.parse::<IpAddr>().unwrap();
    Flow { src: ip(src), sport, dst: ip(dst), dport, protonum }
}

fn observed(kind: EventKind) -> Observed {
    Observed {
        time: UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_901),
        kind,
        netns: 4_026_531_840,
        table: 4_026_531_840,
        host: true,
        orig: Some(flow("10.0.0.7", 40_000, "192.0.2.1", 443, 6)),
        reply: None,
        device: None,
        owner: Owner::Unknown,
        evidence: Evidence::None,
        responder: None,
        service: None,
        culprit: None,
        token: None,
        verdict: None,
        suppressed: 0,
        repeated: false,
    }
}

fn all() -> Vec<Observed> {
    let evicted = Observed {
        reply: Some(flow("192.0.2.1", 443, "198.51.100.9", 50_123, 6)),
        owner: fixture::pod("web-0"),
        evidence: Evidence::Device,
        device: Some("veth1a2b".into()),
        responder: Some(fixture::pod("db-0")),
        ..observed(EventKind::EvictedEarlyDrop)
    };
    let token = TokenEvidence {
        kind: Some(EventKind::EvictedEarlyDrop),
        age: Duration::from_millis(1_234),
        netns: 4_026_531_840,
        orig: evicted.orig,
        nat: true,
        refusals: None,
    };
    let evicted_token = token.clone();
    let refusals = TokenEvidence {
        kind: Some(EventKind::RefusedTableFull),
        nat: false,
        refusals: Some(3),
        ..token.clone()
    };
    let outcome = |kind, flags| Observed {
        verdict: judge(kind, refusals.kind, flags),
        token: Some(refusals.clone()),
        owner: fixture::pod("web-0"),
        evidence: Evidence::Namespace,
        culprit: Some(Culprit { owner: fixture::pod("shop-0"), entries: 900, percent: 90 }),
        ..observed(kind)
    };
    let service = Owner::Cgroup { cgroup: "system.slice/ntp.service".into() };
    let reset = Observed {
        verdict: judge(EventKind::ResetSent, token.kind, FLAG_NAT),
        token: Some(token),
        owner: fixture::pod("web-0"),
        ..observed(EventKind::ResetSent)
    };
    let icmp = Some(flow("fd00::1", 77, "fd00::2", 128 << 8, 58));
    let backend = ServiceName { namespace: "shop".into(), name: "backend".into() };
    vec![
        Observed {
            suppressed: 41,
            owner: fixture::pod("proxy-0"),
            evidence: Evidence::SourceAddress,
            service: Some(backend.clone()),
            culprit: Some(Culprit { owner: fixture::pod("shop-0"), entries: 900, percent: 90 }),
            ..observed(EventKind::RefusedTableFull)
        },
        Observed {
            culprit: Some(Culprit { owner: service.clone(), entries: 5, percent: 50 }),
            ..observed(EventKind::RefusedTableFull)
        },
        Observed {
            orig: Some(flow("203.0.113.5", 50_000, "192.0.2.1", 30_080, 6)),
            owner: Owner::External,
            evidence: Evidence::SourceAddress,
            service: Some(backend),
            ..observed(EventKind::EvictedEarlyDrop)
        },
        Observed { orig: icmp, host: false, owner: Owner::External, ..observed(EventKind::RefusedNoMemory) },
        evicted,
        Observed {
            owner: service.clone(),
            evidence: Evidence::SocketCgroup,
            ..observed(EventKind::EvictedGc)
        },
        reset,
        Observed { responder: Some(service), ..observed(EventKind::ResetReceived) },
        Observed { owner: Owner::Host, ..observed(EventKind::InferredRefusal) },
        observed(EventKind::ClashLost),
        Observed { orig: None, ..observed(EventKind::ResetReceived) },
        Observed {
            verdict: judge(EventKind::ResetSent, Some(EventKind::Invalid), FLAG_NAT),
            token: Some(TokenEvidence { kind: Some(EventKind::Invalid), ..evicted_token }),
            ..observed(EventKind::ResetSent)
        },
        outcome(EventKind::ConnectGivenUp, FLAG_BY_KERNEL),
        outcome(EventKind::ConnectedLate, 0),
        outcome(EventKind::Stalled, 0),
        Observed {
            verdict: judge(EventKind::ClashLost, None, FLAG_DATAGRAM | FLAG_LOOKUP),
            orig: Some(flow("10.0.0.7", 40_000, "192.0.2.53", 53, 17)),
            ..observed(EventKind::ClashLost)
        },
    ]
}

fn names(record: &Record, prefix: &str, out: &mut Vec<String>) {
    for (name, value) in &record.0 {
        match value {
            Value::Fields(inner) => names(inner, &format!("{prefix}{name}."), out),
            _ => out.push(format!("{prefix}{name}")),
        }
    }
}

#[test]
fn every_field_is_in_the_schema_in_its_order_and_all_of_the_schema_is_used() {
    let mut used = BTreeSet::new();
    for o in all() {
        let mut printed = Vec::new();
        names(&record(&o), "", &mut printed);
        let places: Vec<usize> = printed
            .iter()
            .map(|n| FIELDS.iter().position(|f| f.name == n).unwrap_or_else(|| panic!("{n} undocumented")))
            .collect();
        assert!(places.is_sorted(), "{printed:?}");
        for f in FIELDS.iter().filter(|f| f.when == "always") {
            assert!(printed.iter().any(|n| n == f.name), "{} missing in {:?}", f.name, o.kind);
        }
        used.extend(printed);
    }
    for f in FIELDS {
        assert!(used.contains(f.name), "{} never printed", f.name);
    }
}

#[test]
fn lines_of_the_fixtures() {
    let lines = |format| all().iter().map(|o| record(o).line(format)).collect::<String>();
    golden::assert_file("conntrack-user/src/export/testdata/events.jsonl", &lines(LogFormat::Json));
    golden::assert_file("conntrack-user/src/export/testdata/events.txt", &lines(LogFormat::Text));
}

#[test]
fn a_line_is_one_json_object_with_the_documented_types() {
    for o in all() {
        let line = record(&o).line(LogFormat::Json);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        for f in FIELDS {
            let value = f.name.split('.').try_fold(&json, |v, key| v.get(key));
            let ok = value.is_none_or(|v| match f.json {
                "string" => v.is_string(),
                "number" => v.is_u64(),
                _ => v.is_boolean(),
            });
            assert!(ok, "{} is not a {}: {line}", f.name, f.json);
        }
    }
}

#[test]
fn a_reset_is_blamed_on_an_eviction_only_with_its_token() {
    let line = |o: &Observed| record(o).line(LogFormat::Text);
    let with = all().into_iter().find(|o| o.kind == EventKind::ResetSent).unwrap();
    assert!(line(&with).contains("cause=evicted") && line(&with).contains("token.age_ms=1234"));
    let without = Observed { token: None, verdict: None, ..with };
    assert!(line(&without).contains("cause=unrelated") && line(&without).contains("level=info"));
}

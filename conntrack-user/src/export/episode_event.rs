//! An episode, as a log event.

use super::log_event::owner;
use super::log_sentence::who;
use super::record::{Level, Record, Value};
use super::timestamp::rfc3339;
use crate::attribute::episodes::{Episode, State};
use crate::attribute::owner::Owner;
use crate::attribute::verdict::{
    CAUSE_EVICTED, CAUSE_INVALID, CAUSE_NO_MEMORY, CAUSE_RACE, CAUSE_TABLE_FULL, Effect,
};

/// The value of the field `event`.
pub const EPISODE: &str = "episode";

/// Owners that the sentence names.
const NAMED: usize = 3;

/// An outcome's name among the totals. A lookup's stall is told apart from a connection's.
const fn effect_name(effect: Effect) -> &'static str {
    match effect {
        Effect::DnsStall => "dns_stall",
        effect => effect.name(),
    }
}

/// The fields of the event, in the order of [`super::log_fields::EPISODE_FIELDS`]. `host`: the table is the host's.
#[must_use]
pub fn record(state: State, episode: &Episode, host: bool) -> Record {
    let mut r = Record::default();
    r.push("ts", rfc3339(if state == State::Begun { episode.since } else { episode.last }));
    r.push("level", if state == State::Begun { Level::Warn } else { Level::Info }.name());
    r.push("event", EPISODE);
    r.push("state", state_name(state));
    r.push("cause", episode.cause);
    r.push("table", if host { "host".to_owned() } else { format!("netns:{}", episode.table) });
    r.push("netns", episode.table);
    r.push("since", rfc3339(episode.since));
    r.push("seconds", seconds(episode));
    r.push("count", episode.count);
    let mut effects = Record::default();
    for (effect, count) in &episode.effects {
        effects.push(effect_name(*effect), *count);
    }
    r.push_known("effects", (!effects.0.is_empty()).then_some(Value::Fields(effects)));
    let hurt = episode.hurt();
    r.push("hurt", hurt.len() as u64 + u64::from(episode.others() > 0));
    if let Some((victim, times)) = hurt.first() {
        let mut inner = Record::default();
        owner(&mut inner, victim);
        inner.push("count", *times);
        r.push("victim", Value::Fields(inner));
    }
    if let Some(culprit) = &episode.culprit {
        let mut inner = Record::default();
        owner(&mut inner, &culprit.owner);
        inner.push("entries", culprit.entries);
        inner.push("percent", culprit.percent);
        r.push("culprit", Value::Fields(inner));
    }
    r.push("message", sentence(state, episode, host, &hurt));
    r
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Begun => "begun",
        State::Ended => "ended",
        State::CutOff => "cut_off",
    }
}

/// From the first blow to the last.
fn seconds(episode: &Episode) -> f64 {
    let time = episode.last.duration_since(episode.since).unwrap_or_default();
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn sentence(state: State, episode: &Episode, host: bool, hurt: &[(&Owner, u64)]) -> String {
    let table = if host {
        "the host's conntrack table".to_owned()
    } else {
        format!("the conntrack table of netns:{}", episode.table)
    };
    let what = match episode.cause {
        CAUSE_TABLE_FULL => format!("{table} is full"),
        CAUSE_NO_MEMORY => format!("the kernel has no memory for entries in {table}"),
        CAUSE_EVICTED => format!("entries in {table} are evicted before their time"),
        CAUSE_INVALID => format!("INVALID packets pass {table} untranslated, and connections are reset"),
        CAUSE_RACE => format!("packets lose races for an entry in {table}"),
        other => format!("{table}: {other}"),
    };
    let mut named: Vec<String> =
        hurt.iter().take(NAMED).map(|(owner, times)| format!("{} ({times})", who(owner))).collect();
    let more = hurt.len().saturating_sub(NAMED) as u64 + u64::from(episode.others() > 0);
    if more > 0 {
        named.push(format!("{more} more"));
    }
    let hurt = if named.is_empty() { String::new() } else { format!("; hurt: {}", named.join(", ")) };
    let by = episode.culprit.as_ref();
    let by = by.map(|c| format!("; {} % of it is held by {}", c.percent, who(&c.owner))).unwrap_or_default();
    let totals: Vec<String> =
        episode.effects.iter().map(|(effect, count)| format!("{count} {}", effect_name(*effect))).collect();
    let came =
        if totals.is_empty() { String::new() } else { format!("; what came of it: {}", totals.join(", ")) };
    let times = counted(episode);
    match state {
        State::Begun => format!("{what}: {times}{hurt}{by}; {}", advice(episode)),
        State::Ended => format!("over after {} s: {what}: {times} in all{hurt}{by}{came}", seconds(episode)),
        State::CutOff => {
            format!(
                "not over when this program ended, after {} s: {what}: {times}{hurt}{by}{came}",
                seconds(episode)
            )
        }
    }
}

fn counted(episode: &Episode) -> String {
    let n = episode.count;
    let (one, many) = match episode.cause {
        CAUSE_EVICTED => ("entry", "entries"),
        CAUSE_INVALID => ("reset", "resets"),
        CAUSE_RACE => ("packet lost", "packets lost"),
        _ => ("packet refused", "packets refused"),
    };
    format!("{n} {}", if n == 1 { one } else { many })
}

fn advice(episode: &Episode) -> &'static str {
    match episode.cause {
        CAUSE_TABLE_FULL | CAUSE_EVICTED => {
            "have whoever fills it hold fewer connections (conntrack_owner_entries), or raise nf_conntrack_max"
        }
        CAUSE_NO_MEMORY => "the node is short of memory",
        CAUSE_INVALID => "drop INVALID packets in forwarding by rule, or set nf_conntrack_tcp_be_liberal",
        _ => "send lookups of one socket one after the other, or to a resolver on this node",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, UNIX_EPOCH};

    use conntrack_common::EventKind;

    use super::*;
    use crate::attribute::episodes::{Blow, Episodes, GATHER, QUIET};
    use crate::attribute::observed::Culprit;
    use crate::attribute::verdict::judge;
    use crate::export::log_fields::EPISODE_FIELDS;
    use crate::export::record::LogFormat;
    use crate::export::{fixture, golden};

    /// Begun and over: a table full, evictions by nobody known, INVALID packets, a race.
    fn told() -> Vec<Record> {
        let (now, time) = (Instant::now(), UNIX_EPOCH + Duration::from_micros(1_767_323_045_678_901));
        let culprit = Culprit { owner: fixture::pod("shop-0"), entries: 900, percent: 90 };
        let mut episodes = Episodes::default();
        let mut note = |kind, token, owner: &Owner, times, after| {
            let verdict = judge(kind, token, 0);
            let culprit = (kind == EventKind::RefusedTableFull).then(|| culprit.clone());
            let blow = Blow { table: Some(4_026_531_840), kind, verdict, owner, times, culprit };
            episodes.note(blow, now, time + Duration::from_secs(after));
        };
        let full = EventKind::RefusedTableFull;
        for (pod, times) in [("web-0", 40), ("web-1", 9), ("web-2", 8), ("web-3", 7)] {
            note(full, None, &fixture::pod(pod), times, 0);
        }
        note(EventKind::ConnectGivenUp, Some(full), &fixture::pod("web-0"), 3, 12);
        note(EventKind::EvictedGc, None, &Owner::Unknown, 5, 0);
        note(EventKind::ResetSent, Some(EventKind::Invalid), &fixture::pod("web-0"), 1, 0);
        note(EventKind::ClashLost, None, &Owner::Cgroup { cgroup: "system.slice/ntp.service".into() }, 1, 0);
        let mut news = episodes.news(now + GATHER);
        news.extend(episodes.news(now + QUIET));
        news.iter().map(|(state, episode)| record(*state, episode, episode.cause != CAUSE_RACE)).collect()
    }

    #[test]
    fn every_field_is_documented_and_in_order() {
        let mut seen = std::collections::BTreeSet::new();
        for record in told() {
            let mut names = Vec::new();
            for (name, value) in &record.0 {
                match value {
                    Value::Fields(inner) => {
                        names.extend(inner.0.iter().map(|(inner, _)| format!("{name}.{inner}")));
                    }
                    _ => names.push((*name).to_owned()),
                }
            }
            let place = |name: &String| EPISODE_FIELDS.iter().position(|f| f.name == name);
            let places: Vec<_> =
                names.iter().map(|n| place(n).unwrap_or_else(|| panic!("{n} undocumented"))).collect();
            assert!(places.is_sorted(), "{names:?}");
            for field in EPISODE_FIELDS.iter().filter(|f| f.when == "always") {
                assert!(names.iter().any(|name| name == field.name), "{} is missing", field.name);
            }
            seen.extend(names);
        }
        assert!(seen.contains("effects.connect_timeout") && seen.contains("culprit.percent"), "{seen:?}");
    }

    #[test]
    fn they_read_like_this() {
        let lines: String = told().iter().map(|record| record.line(LogFormat::Json)).collect();
        golden::assert_file("conntrack-user/src/export/testdata/episodes.json", &lines);
    }
}

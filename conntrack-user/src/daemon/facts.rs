//! Rare facts, from the ring to the log.

use std::time::SystemTime;

use conntrack_common::event::{FLAG_CGROUP, FLAG_IFINDEX};
use conntrack_common::{Counter, Event, EventKind};

use super::{Daemon, lock, monotonic};
use crate::attribute::decode::{ClockOffset, flows, token_evidence};
use crate::attribute::episodes::{Blow, Episode, State};
use crate::attribute::index::Query;
use crate::attribute::observed::{Culprit, Observed};
use crate::attribute::owner::Evidence;
use crate::attribute::verdict;
use crate::export::{episode_event, log_event};

impl Daemon {
    /// Reports refusals whose packet never came.
    pub(super) fn report_overdue(&self) {
        let Some(overdue) = lock(&self.pending).as_mut().map(|p| p.overdue(monotonic())) else { return };
        for event in overdue {
            if let Some(counters) = &self.counters {
                counters.add_one(event.netns, Counter::RefusalEvents);
            }
            self.observe(&event);
        }
    }

    pub(super) fn observe(&self, event: &Event) {
        let Some(kind) = EventKind::from_raw(event.kind) else { return };
        let time = ClockOffset::new(monotonic(), SystemTime::now())
            .map_or_else(SystemTime::now, |offset| offset.time_of(event.ktime_ns));
        let (orig, reply) = flows(event);
        let mut owners = lock(&self.owners);
        let query = Query {
            netns: event.netns,
            orig: orig.as_ref(),
            reply: reply.as_ref(),
            cgroup_id: (event.flags & FLAG_CGROUP != 0).then_some(event.cgroup_id),
            ifindex: (event.flags & FLAG_IFINDEX != 0).then_some(event.ifindex),
        };
        let mut found = owners.resolve(&query);
        if event.account != 0
            && let Some(held) = lock(&self.held).as_ref()
        {
            if let Some(owner) = held.owner(event.account) {
                (found.owner, found.evidence) = (owner, Evidence::Entry);
            }
            found.responder = held.owner(event.responder).or(found.responder);
        }
        let token = token_evidence(event);
        // Who got a reset may be whoever the connection was with, and who sent it the node, in the place of a connection
        // that it had translated: the one who had made that was hurt.
        if kind.is_reset()
            && !found.owner.is_tenant()
            && let Some(token) = &token
        {
            let made =
                owners.resolve(&Query { netns: token.netns, orig: token.orig.as_ref(), ..Query::default() });
            if made.owner.is_tenant() {
                (found.owner, found.evidence) = (made.owner, made.evidence);
            }
        }
        let device = query
            .ifindex
            .and_then(|ifindex| owners.index.as_ref()?.device(event.netns, ifindex).map(str::to_owned));
        let service = orig.as_ref().zip(owners.services.as_ref()).and_then(|(flow, services)| {
            services
                .addressed(flow, |address| owners.index.as_ref().is_some_and(|index| index.is_hosts(address)))
        });
        let table = token.as_ref().map_or(event.netns, |token| token.netns);
        let host = owners.host == Some(table);
        let token_kind = EventKind::from_raw(event.token_kind);
        let verdict = owners.count(kind, token_kind, event.flags, (event.netns, &found.owner), 1);
        let full = is_refusal(kind) || token_kind.is_some_and(is_refusal);
        let culprit = if full || is_of_pressure(kind) { self.culprit(table) } else { None };
        let blow = Blow {
            table: Some(table),
            kind,
            verdict,
            owner: &found.owner,
            times: 1,
            culprit: culprit.clone().filter(|_| is_of_pressure(kind)),
        };
        owners.note(blow, event.flags, time);
        drop(owners);
        self.log.record(&log_event::record(&Observed {
            time,
            kind,
            netns: event.netns,
            table,
            host,
            orig,
            reply,
            device,
            owner: found.owner,
            evidence: found.evidence,
            responder: found.responder,
            service,
            culprit: culprit.filter(|_| full),
            token,
            verdict,
            suppressed: event.suppressed,
            repeated: verdict::is_repeated(event.flags),
        }));
    }

    /// Who held most of a table at the last reading.
    fn culprit(&self, netns: u32) -> Option<Culprit> {
        let view = lock(&self.latest).clone()?;
        let table = view.snapshot.tables.iter().find(|table| table.netns == netns)?;
        Culprit::of(table.owners.as_ref()?)
    }

    /// Tells of the episodes that have begun or are over.
    pub(super) fn tell_episodes(&self, news: &[(State, Episode)], host: Option<u32>) {
        for (state, episode) in news {
            self.log.record(&episode_event::record(*state, episode, host == Some(episode.table)));
        }
    }
}

/// Is it a refusal by a full table?
const fn is_refusal(kind: EventKind) -> bool {
    matches!(kind, EventKind::RefusedTableFull | EventKind::InferredRefusal)
}

/// Is it the doing of a table that somebody has filled?
const fn is_of_pressure(kind: EventKind) -> bool {
    is_refusal(kind) || matches!(kind, EventKind::EvictedEarlyDrop | EventKind::EvictedGc)
}

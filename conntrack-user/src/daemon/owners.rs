//! Whose the facts are, and what each owner suffered.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use conntrack_common::EventKind;
use conntrack_common::event::{FLAG_CGROUP, FLAG_IFINDEX};

use crate::attribute::api::handle::ServiceHandle;
use crate::attribute::decode::source_flow;
use crate::attribute::episodes::{Blow, Episodes};
use crate::attribute::index::{Attribution, OwnerIndex, Query};
use crate::attribute::ledger::Ledger;
use crate::attribute::owner::{Evidence, Owner};
use crate::attribute::verdict::{self, Verdict};
use crate::drain::sources::Withheld;

/// The index of owners as of now, and the ledger.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) index: Option<Arc<OwnerIndex>>,
    pub(super) host: Option<u32>,
    pub(super) ledger: Ledger,
    pub(super) episodes: Episodes,
    /// The Services of the cluster. None: not asked for.
    pub(super) services: Option<ServiceHandle>,
}

impl Owners {
    /// Before the first round there is no index: the fact is reported, its owner is not known.
    pub(super) fn resolve(&self, query: &Query<'_>) -> Attribution {
        let nobody = Attribution { owner: Owner::Unknown, evidence: Evidence::None, responder: None };
        self.index.as_ref().map_or(nobody, |index| index.resolve(query))
    }

    /// In whose table something happened, as [`crate::export::labels::table_kind`] names it.
    pub(super) fn table(&self, netns: u32) -> &'static str {
        match self.index.as_ref().map(|index| index.owner_of_netns(netns)) {
            _ if self.host == Some(netns) => "host",
            Some(Owner::Pod { .. }) => "pod",
            _ => "netns",
        }
    }

    /// Counts facts of a kind, `times` of them, in the table of a namespace and of an owner: what was lost, and what
    /// that is an outcome of.
    pub(super) fn count(
        &mut self,
        kind: EventKind,
        token: Option<EventKind>,
        flags: u32,
        (netns, owner): (u32, &Owner),
        times: u64,
    ) -> Option<Verdict> {
        self.ledger.lost(kind, self.table(netns), owner, times);
        let verdict = verdict::judge(kind, token, flags);
        if let Some(verdict) = verdict.filter(|_| !verdict::is_repeated(flags)) {
            self.ledger.outcome(owner, &verdict, times);
        }
        verdict
    }

    /// Takes into its episode what [`Self::count`] has counted.
    pub(super) fn note(&mut self, mut blow: Blow<'_>, flags: u32, time: SystemTime) {
        blow.verdict = blow.verdict.filter(|_| !verdict::is_repeated(flags));
        self.episodes.note(blow, Instant::now(), time);
    }

    /// Credits what the limiter held back to whoever its sources belong to: to the owner of the account, where the
    /// entry was in one.
    pub(super) fn withheld(&mut self, withheld: &Withheld, account: Option<Owner>) {
        let key = &withheld.key;
        let Some(kind) = EventKind::from_raw(key.kind) else { return };
        let flow = source_flow(key);
        let resolved = || {
            let query = Query {
                netns: key.netns,
                orig: flow.as_ref(),
                reply: None,
                cgroup_id: (key.flags & FLAG_CGROUP != 0).then_some(key.cgroup_id),
                ifindex: (key.flags & FLAG_IFINDEX != 0).then_some(key.ifindex),
            };
            self.resolve(&query).owner
        };
        let owner = account.unwrap_or_else(resolved);
        let (token, times) = (EventKind::from_raw(key.token_kind), withheld.count);
        let verdict = self.count(kind, token, key.flags, (key.netns, &owner), times);
        // Where an outcome is seen is not where its token was left.
        let table = token.is_none().then_some(key.netns);
        let blow = Blow { table, kind, verdict, owner: &owner, times, culprit: None };
        self.note(blow, key.flags, SystemTime::now());
    }
}

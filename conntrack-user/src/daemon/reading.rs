//! One reading of all that the kernel and the probes say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use conntrack_common::Counter;

use super::audit::Audit;
use super::{Daemon, lock, monotonic};
use crate::aggregate::books::Reading;
use crate::aggregate::calm::calmest;
use crate::aggregate::dump_owners::DumpOwners;
use crate::aggregate::snapshot::{Owners, Snapshot};
use crate::attribute::index::OwnerIndex;
use crate::attribute::ledger::Ledger;
use crate::attribute::owner::Owner;
use crate::attribute::telling::Table;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::{ctnetlink, netns, presence, tcp_sysctls, whole_dump};
use crate::export::coverage::{ALLOC, CONFIRM, Coverage, FREE};
use crate::export::labels::table_kind;
use crate::export::view::{HeldCounts, OwnerCounts, View};
use crate::probe::attach::Probes;

impl Daemon {
    /// One reading of everything; also the view of a scrape.
    pub fn read(&self) -> Arc<View> {
        let mut snapshot = Snapshot {
            conntrack_loaded: presence::conntrack_loaded(&self.system.procfs),
            probes: lock(&self.probes).as_ref().map_or_else(|| self.unloaded.clone(), Probes::states),
            ..Snapshot::default()
        };
        let scan = netns::scan_namespaces(&self.system.procfs);
        snapshot.honesty.collectors.insert("namespaces", scan.is_ok());
        let scan = scan.unwrap_or_default();
        let (loaded, probes) = (snapshot.conntrack_loaded, &snapshot.probes);
        snapshot.coverage = lock(&self.watch).gaps(&self.system, &scan, loaded, probes);
        let namespaces = scan.namespaces;
        // Before the tables: what is told of owners now is what entries from now on are charged by.
        self.index(&namespaces, &mut snapshot);
        if snapshot.conntrack_loaded {
            self.read_tables(&namespaces, &mut snapshot);
        }
        snapshot.honesty.log_events_lost = self.log.lost();
        let mut owners = lock(&self.owners);
        if let Some(sources) = lock(&self.sources).as_mut() {
            for withheld in sources.sweep(monotonic()) {
                let account = lock(&self.held).as_ref().and_then(|held| held.owner(withheld.key.account));
                owners.withheld(&withheld, account);
            }
        }
        if let Some(index) = &owners.index {
            for table in &mut snapshot.tables {
                table.owner = if table.host { Owner::Host } else { index.owner_of_netns(table.netns) };
            }
        }
        // Whose sockets they are is known where the namespace is a pod's; the host's are shared by its services
        // and the pods in its network.
        owners.ledger.unexplained(&snapshot.tables, |table| match &table.owner {
            Owner::Host => Owner::Unknown,
            owner => owner.clone(),
        });
        snapshot.outcomes = owners.ledger.outcomes();
        self.tell_episodes(&owners.episodes.news(Instant::now()), owners.host);
        let view = Arc::new(View { owners: by_owner(&snapshot, &owners.ledger), snapshot });
        drop(owners);
        *lock(&self.latest) = Some(view.clone());
        view
    }

    fn read_tables(&self, namespaces: &[Namespace], snapshot: &mut Snapshot) {
        let buckets = presence::buckets(&self.system.procfs).ok();
        let index = lock(&self.owners).index.clone();
        // One reading at a time. What is held is locked for moments only: the facts of the ring wait for it.
        let mut books = lock(&self.books);
        let mut forecasts = lock(&self.forecasts);
        let now = Instant::now();
        let coverage = Coverage::of(&snapshot.probes);
        let (mut all_read, mut at_limit) = (true, Vec::new());
        for namespace in namespaces {
            // Of the host's table all is told from the start; any other is none before it has had an entry.
            let (accounts, given_back) = lock(&self.held).as_ref().map_or_else(Default::default, |held| {
                (held.accounts.of(namespace.inum), held.accounts.given_back(namespace.inum))
            });
            let tally = |told: bool| {
                let counters = self.counters.as_ref()?;
                let netns = namespace.inum;
                let now = if told { counters.of(netns, &accounts) } else { counters.table(netns, &accounts) };
                now.map(|tally| tally.with_given_back(given_back))
            };
            let after = |counts: Option<&ctnetlink::TableCounts>| {
                tally(namespace.host || counts.is_some_and(|c| c.entries > 0))
            };
            // The probes' counters right before and after the kernel's count, or under churn they would differ
            // by all that came and went while its other figures were read.
            let read = in_namespace(&namespace.path, namespace.inum, || {
                let (before, counts, after) = calmest(|| {
                    let before = tally(true);
                    let counts = ctnetlink::table_counts().ok();
                    let after = after(counts.as_ref());
                    (before, counts, after)
                });
                (before, counts, after, ctnetlink::cpu_stats().ok())
            });
            let (before, counts, after, stats) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) => (None, None, after(None), None),
            };
            all_read &= counts.is_some() && stats.is_some();
            let limit =
                counts.as_ref().and_then(|c| c.limit).or_else(|| presence::max(&self.system.procfs).ok());
            let limit = limit.filter(|l| *l > 0);
            let entries = counts.map(|c| c.entries);
            if entries.zip(limit).is_some_and(|(entries, limit)| entries + 1 >= limit) {
                at_limit.push(namespace.inum);
            }
            let (after, held_now) = after.map(|tally| (tally.sums, tally.accounts)).unzip();
            let before = before.map(|tally| tally.sums);
            let watched = coverage.has(&[ALLOC, FREE]);
            let reading = Reading { entries, limit, stats, before, after, watched };
            if let Some(mut table) = books.enter(namespace.inum, namespace.host, reading) {
                table.buckets = buckets.filter(|_| namespace.host);
                if !watched {
                    table.owners =
                        index.as_ref().and_then(|index| self.owners_by_dump(index, namespace, now));
                } else if let (Some(sums), Some(accounted)) = (&held_now, table.accounted)
                    && let Some(held) = lock(&self.held).as_mut()
                {
                    table.owners = Some(held.accounts.owners(sums, accounted, now, coverage.has(&[CONFIRM])));
                }
                if table.host {
                    snapshot.before_start = table.kernel_at_start;
                    snapshot.honesty.drift_entries =
                        table.accounted.zip(table.entries).map(|(a, e)| a.abs_diff(e.cast_signed()));
                }
                forecasts.enter(&mut table, monotonic());
                snapshot.tables.push(table);
            }
        }
        books.keep_only(namespaces.iter().map(|n| n.inum));
        forecasts.keep_only(namespaces.iter().map(|n| n.inum));
        lock(&self.dumps).keep_only(namespaces.iter().map(|n| n.inum));
        if let Some(counters) = &self.counters {
            let alive = |netns| namespaces.iter().any(|n| n.inum == netns);
            counters.retire(alive);
            if let Some(held) = lock(&self.held).as_mut() {
                held.accounts.retire(
                    now,
                    alive,
                    |account| counters.account(account),
                    |account| counters.zero_account(account),
                );
                snapshot.honesty.accounting = held.overflow();
            }
            snapshot.honesty.repairs = lock(&self.audit).as_ref().map(Audit::repairs);
        }
        drop(books);
        snapshot.honesty.collectors.insert("ctnetlink", all_read);
        snapshot.honesty.tables_in_overflow = u64::from(
            self.counters.as_ref().is_some_and(|c| c.overflow().sums[Counter::Allocs as usize] > 0),
        );
        let procfs = &self.system.procfs;
        let (connect_window, reset_window) =
            (tcp_sysctls::connect_window(procfs), tcp_sysctls::reset_window(procfs));
        if let Some(probes) = lock(&self.probes).as_mut() {
            probes.at_limit(&at_limit);
            probes.windows(connect_window, reset_window, monotonic());
            let [refusals, evictions] = probes.tokens();
            let mut rooms = lock(&self.token_rooms);
            snapshot.honesty.tokens_pushed_out = Some([
                ("refusal", rooms[0].enter(refusals[0], refusals[1], now, connect_window)),
                ("eviction", rooms[1].enter(evictions[0], evictions[1], now, reset_window)),
            ]);
            drop(rooms);
            snapshot.honesty.accounting.unplaced = Some(probes.unplaced());
            probes.print_debug_log();
        }
    }

    /// Where the probes that count entries are not attached: who holds them, by the last dump.
    fn owners_by_dump(&self, index: &OwnerIndex, namespace: &Namespace, now: Instant) -> Option<Owners> {
        let dump = || {
            let begun = Instant::now();
            let fold = || {
                let begin = || DumpOwners::new(index, namespace.inum);
                whole_dump::fold(None, begin, DumpOwners::add).map(|(folded, _)| folded.finish())
            };
            let read = in_namespace(&namespace.path, namespace.inum, fold);
            (read.ok().and_then(Result::ok), begun.elapsed())
        };
        lock(&self.dumps).owners(namespace.inum, now, dump).cloned()
    }

    /// Makes the index of owners anew when something changed that tells them.
    pub(super) fn index(&self, namespaces: &[Namespace], snapshot: &mut Snapshot) {
        let books = lock(&self.books);
        let tables: Vec<_> =
            namespaces.iter().map(|n| Table { netns: n.inum, used: books.has(n.inum) }).collect();
        drop(books);
        *lock(&self.host) = namespaces.iter().find(|n| n.host).cloned();
        let mut survey = lock(&self.survey);
        let found = survey.0.index(&self.system, namespaces, Instant::now());
        if let Some(found) = found {
            survey.1 = found.complete;
            let mut owners = lock(&self.owners);
            owners.host = namespaces.iter().find(|n| n.host).map(|n| n.inum);
            if let Some(held) = lock(&self.held).as_mut() {
                held.tell(&found.index, &tables);
            }
            owners.index = Some(Arc::new(found.index));
        }
        // Who was not seen because not everything could be read must not be forgotten.
        if survey.1 {
            let mut owners = lock(&self.owners);
            if let Some(index) = owners.index.clone() {
                owners.ledger.retire(index.owners(), Instant::now());
            }
        }
        snapshot.honesty.collectors.insert("owners", survey.1);
        self.discovered(&mut survey.0, snapshot);
    }
}

/// What each owner has and suffered, by kind of table.
fn by_owner(snapshot: &Snapshot, ledger: &Ledger) -> Vec<OwnerCounts> {
    let mut all = BTreeMap::<(&'static str, Owner), OwnerCounts>::new();
    let mut entry = |table: &'static str, owner: &Owner, add: &dyn Fn(&mut OwnerCounts)| {
        let nothing = OwnerCounts { table, owner: owner.clone(), held: None, drops: 0, evictions: 0 };
        add(all.entry((table, owner.clone())).or_insert(nothing));
    };
    for (table, owner, losses) in ledger.losses() {
        entry(table, owner, &|counts| {
            counts.drops += losses.drops;
            counts.evictions += losses.evictions;
        });
    }
    for table in &snapshot.tables {
        for part in table.owners.iter().flat_map(|owners| &owners.parts) {
            entry(table_kind(table), &part.owner, &|counts| {
                let held =
                    counts.held.get_or_insert(HeldCounts { inserts: Some(0), ..HeldCounts::default() });
                held.entries += part.entries;
                held.responder_entries += part.responder_entries;
                held.inserts = held.inserts.zip(part.inserts).map(|(before, more)| before + more);
            });
        }
    }
    all.into_values().collect()
}

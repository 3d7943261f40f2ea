//! The running daemon: two threads that drain, and the view the exporter prints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use conntrack_common::event::{FLAG_CGROUP, FLAG_IFINDEX, FLAG_REPEATED};
use conntrack_common::{Counter, Event, EventKind};

use crate::aggregate::books::{Books, Reading};
use crate::aggregate::calm::calmest;
use crate::aggregate::snapshot::{ProbeState, Snapshot, Table};
use crate::aggregate::watch::Watch;
use crate::attribute::decode::{ClockOffset, flows, source_flow, token_evidence};
use crate::attribute::index::{Attribution, OwnerIndex, Query};
use crate::attribute::ledger::Ledger;
use crate::attribute::observed::Observed;
use crate::attribute::owner::{Evidence, Owner};
use crate::attribute::resets;
use crate::attribute::survey::Survey;
use crate::command::check;
use crate::config::System;
use crate::drain::counters::Counters;
use crate::drain::events::Events;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::pending::Pending;
use crate::drain::sources::{Sources, Withheld};
use crate::drain::{ctnetlink, netns, presence};
use crate::export::coverage;
use crate::export::log::Logger;
use crate::export::log_event;
use crate::export::view::{Later, OwnerCounts, SnapshotSource, View};
use crate::probe::attach::{self, Probes};

/// Between two readings of the kernel's own figures.
const ROUND: Duration = Duration::from_secs(1);

/// What the threads and the exporter share.
pub struct Daemon {
    system: System,
    log: Logger,
    probes: Mutex<Option<Probes>>,
    counters: Option<Counters>,
    sources: Mutex<Option<Sources>>,
    pending: Mutex<Option<Pending>>,
    books: Mutex<Books>,
    owners: Mutex<Owners>,
    /// What makes the index of owners, and whether the last one was made from everything.
    survey: Mutex<(Survey, bool)>,
    watch: Mutex<Watch>,
    /// Of probes that could not be loaded.
    unloaded: Vec<ProbeState>,
    latest: Mutex<Option<Arc<View>>>,
    beat: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Owners {
    index: Option<OwnerIndex>,
    host: Option<u32>,
    ledger: Ledger,
}

impl Owners {
    /// Before the first round there is no index: the fact is reported, its owner is not known.
    fn resolve(&self, query: &Query<'_>) -> Attribution {
        let nobody = Attribution { owner: Owner::Unknown, evidence: Evidence::None, responder: None };
        self.index.as_ref().map_or(nobody, |index| index.resolve(query))
    }

    /// In whose table something happened, as [`crate::export::labels::table_kind`] names it.
    fn table(&self, netns: u32) -> &'static str {
        match self.index.as_ref().map(|index| index.owner_of_netns(netns)) {
            _ if self.host == Some(netns) => "host",
            Some(Owner::Pod { .. }) => "pod",
            _ => "netns",
        }
    }

    /// Credits what the limiter held back to whoever its sources belong to.
    fn withheld(&mut self, withheld: &Withheld) {
        let key = &withheld.key;
        let Some(kind) = EventKind::from_raw(key.kind) else { return };
        let flow = source_flow(key);
        let owner = self
            .resolve(&Query {
                netns: key.netns,
                orig: flow.as_ref(),
                reply: None,
                cgroup_id: (key.flags & FLAG_CGROUP != 0).then_some(key.cgroup_id),
                ifindex: (key.flags & FLAG_IFINDEX != 0).then_some(key.ifindex),
            })
            .owner;
        if !matches!(kind, EventKind::ResetSent | EventKind::ResetReceived) {
            self.ledger.lost(kind, self.table(key.netns), &owner, withheld.count);
        } else if key.flags & FLAG_REPEATED == 0 {
            self.ledger.resets_withheld(&owner, withheld.count);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has been reported; its figures are whole, since each is written in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    /// Puts it together; probes are attached by the first round that finds conntrack loaded.
    #[must_use]
    pub fn new(
        system: System,
        log: Logger,
        probes: Option<(Probes, Counters, Sources, Pending)>,
    ) -> Arc<Self> {
        Arc::new(Self::of(system, log, probes, Vec::new()))
    }

    /// Without probes, for this reason: the kernel's own figures only.
    #[must_use]
    pub fn without_probes(system: System, log: Logger, reason: &str) -> Arc<Self> {
        Arc::new(Self::of(system, log, None, attach::unloaded(reason)))
    }

    fn of(
        system: System,
        log: Logger,
        probes: Option<(Probes, Counters, Sources, Pending)>,
        unloaded: Vec<ProbeState>,
    ) -> Self {
        let (probes, counters, sources, pending) = match probes {
            Some((probes, counters, sources, pending)) => {
                (Some(probes), Some(counters), Some(sources), Some(pending))
            }
            None => (None, None, None, None),
        };
        Self {
            system,
            log,
            probes: Mutex::new(probes),
            counters,
            sources: Mutex::new(sources),
            pending: Mutex::new(pending),
            books: Mutex::default(),
            owners: Mutex::default(),
            survey: Mutex::default(),
            watch: Mutex::default(),
            unloaded,
            latest: Mutex::default(),
            beat: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Ends both threads at their next turn.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Reads the kernel's figures every second until stopped.
    pub fn rounds(&self) {
        let mut attached = false;
        let mut told = false;
        let mut absent = false;
        let mut waited = false;
        while !self.stop.load(Ordering::Relaxed) {
            if !attached && presence::conntrack_loaded(&self.system.procfs) {
                attached = true;
                if absent {
                    self.log.info("conntrack is loaded now: attaching", &[]);
                }
                self.attach();
            } else if !attached && !std::mem::replace(&mut absent, true) {
                self.log.warn(
                    "conntrack is not loaded: there is no table to watch; it is picked up when something loads it",
                    &[],
                );
            }
            let view = self.read();
            if !std::mem::replace(&mut told, true)
                && let Some(before) = check::before_start(view.snapshot.before_start.as_ref())
            {
                self.log.warn(&before, &[]);
            }
            let waits = view.snapshot.tables.iter().any(refusals_wait);
            if std::mem::replace(&mut waited, waits) && waits {
                self.report_overdue();
            }
            for gap in lock(&self.watch).news(&view.snapshot.coverage) {
                let fields = [
                    ("kind", gap.kind.into()),
                    ("found", gap.found.unwrap_or_default().into()),
                    ("do", gap.advice.unwrap_or_default().into()),
                ];
                self.log.warn("not covered here, or only in part", &fields);
            }
            *lock(&self.beat) = Some(Instant::now());
            let next = Instant::now() + ROUND;
            while !self.stop.load(Ordering::Relaxed) && Instant::now() < next {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Attaches the probes and logs what did not attach.
    pub fn attach(&self) {
        let mut probes = lock(&self.probes);
        let Some(probes) = probes.as_mut() else { return };
        probes.attach();
        // Second choices have one cause between them, and lose nothing: one line. What is not attached at all has
        // one each.
        let states = probes.states();
        let (second, none): (Vec<_>, Vec<_>) =
            states.iter().filter(|s| s.reason.is_some()).partition(|s| coverage::attached(s));
        let reason = |state: &ProbeState| state.reason.clone().unwrap_or_default();
        if let Some(first) = second.first() {
            let names: Vec<_> = second.iter().map(|s| s.probe).collect();
            let fields = [
                ("probes", names.join(" ").into()),
                ("mechanism", first.mechanism.into()),
                ("reason", reason(first).into()),
            ];
            self.log.info("probes attached by their second choice; doctor says why of each", &fields);
        }
        for state in none {
            let fields = [("probe", state.probe.into()), ("reason", reason(state).into())];
            self.log.warn("probe not attached", &fields);
        }
    }

    /// Drains the ring until stopped.
    pub fn drain(&self, mut events: Events) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = events.wait(Duration::from_millis(200), |event| self.observe(&event)) {
                self.log.error("cannot read the ring of events", &[("error", error.to_string().into())]);
                return;
            }
        }
    }

    /// Reports refusals whose packet never came.
    fn report_overdue(&self) {
        let Some(overdue) = lock(&self.pending).as_mut().map(|p| p.overdue(monotonic())) else { return };
        for event in overdue {
            if let Some(counters) = &self.counters {
                counters.add_one(event.netns, Counter::RefusalEvents);
            }
            self.observe(&event);
        }
    }

    fn observe(&self, event: &Event) {
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
        let found = owners.resolve(&query);
        let device = query
            .ifindex
            .and_then(|ifindex| owners.index.as_ref()?.device(event.netns, ifindex).map(str::to_owned));
        let host = owners.host == Some(event.netns);
        let table = owners.table(event.netns);
        owners.ledger.lost(kind, table, &found.owner, 1);
        let verdict = resets::judge(event, resets::reset_window());
        owners.ledger.reset(&found.owner, verdict.as_ref(), resets::is_repeated(event));
        drop(owners);
        self.log.record(&log_event::record(&Observed {
            time,
            kind,
            netns: event.netns,
            host,
            orig,
            reply,
            device,
            owner: found.owner,
            evidence: found.evidence,
            responder: found.responder,
            token: token_evidence(event),
            verdict,
            suppressed: event.suppressed,
            repeated: resets::is_repeated(event),
        }));
    }

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
        if snapshot.conntrack_loaded {
            self.read_tables(&namespaces, &mut snapshot);
        }
        self.index(&namespaces, &mut snapshot);
        snapshot.honesty.log_events_lost = self.log.lost();
        let mut owners = lock(&self.owners);
        if let Some(sources) = lock(&self.sources).as_mut() {
            sources.sweep(monotonic()).iter().for_each(|withheld| owners.withheld(withheld));
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
        snapshot.resets = owners.ledger.resets();
        let counts = owners.ledger.losses().map(|(table, owner, losses)| OwnerCounts {
            table,
            owner: owner.clone(),
            drops: losses.drops,
            evictions: losses.evictions,
        });
        let view = Arc::new(View { snapshot, owners: counts.collect() });
        drop(owners);
        *lock(&self.latest) = Some(view.clone());
        view
    }

    fn read_tables(&self, namespaces: &[Namespace], snapshot: &mut Snapshot) {
        let buckets = presence::buckets(&self.system.procfs).ok();
        let mut books = lock(&self.books);
        let (mut all_read, mut at_limit) = (true, false);
        for namespace in namespaces {
            // Of the host's table all is told from the start; any other is none before it has had an entry.
            let sums = |told: bool| {
                let counters = self.counters.as_ref()?;
                if told { counters.of(namespace.inum) } else { counters.table(namespace.inum) }
            };
            let after = |counts: Option<&ctnetlink::TableCounts>| {
                sums(namespace.host || counts.is_some_and(|c| c.entries > 0))
            };
            // The probes' counters right before and after the kernel's count, or under churn they would differ
            // by all that came and went while its other figures were read.
            let read = in_namespace(&namespace.path, namespace.inum, || {
                let (before, counts, after) = calmest(|| {
                    let before = sums(true);
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
            at_limit |= entries.zip(limit).is_some_and(|(entries, limit)| entries + 1 >= limit);
            let reading = Reading { entries, limit, stats, before, after };
            if let Some(mut table) = books.enter(namespace.inum, namespace.host, reading) {
                table.buckets = buckets.filter(|_| namespace.host);
                if table.host {
                    snapshot.before_start = table.kernel_at_start;
                    snapshot.honesty.drift_entries =
                        table.accounted.zip(table.entries).map(|(a, e)| a.abs_diff(e.cast_signed()));
                }
                snapshot.tables.push(table);
            }
        }
        books.keep_only(namespaces.iter().map(|n| n.inum));
        if let Some(counters) = &self.counters {
            counters.retire(|netns| namespaces.iter().any(|n| n.inum == netns));
        }
        drop(books);
        snapshot.honesty.collectors.insert("ctnetlink", all_read);
        snapshot.honesty.tables_in_overflow =
            u64::from(self.counters.as_ref().is_some_and(|c| c.overflow()[Counter::Allocs as usize] > 0));
        if let Some(probes) = lock(&self.probes).as_mut() {
            probes.at_limit(at_limit);
            probes.print_debug_log();
        }
    }

    /// Makes the index of owners anew when something changed that tells them.
    fn index(&self, namespaces: &[Namespace], snapshot: &mut Snapshot) {
        let mut survey = lock(&self.survey);
        let found = survey.0.index(&self.system, namespaces, Instant::now());
        if let Some(found) = found {
            survey.1 = found.complete;
            let mut owners = lock(&self.owners);
            owners.host = namespaces.iter().find(|n| n.host).map(|n| n.inum);
            owners.index = Some(found.index);
        }
        snapshot.honesty.collectors.insert("owners", survey.1);
    }
}

/// Has a refusal been counted that is neither logged nor held back nor lost?
fn refusals_wait(table: &Table) -> bool {
    table.counted.is_some_and(|c| c.refused > c.refusal_events + c.refusal_suppressed + c.refusal_lost)
}

/// `CLOCK_MONOTONIC`, as the probes stamp with.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned() as u32)
}

/// The daemon as the exporter sees it.
pub struct Source(pub Arc<Daemon>);

impl SnapshotSource for Source {
    fn refresh(&self) -> Later<'_, anyhow::Result<Arc<View>>> {
        let daemon = self.0.clone();
        Box::pin(async move { Ok(tokio::task::spawn_blocking(move || daemon.read()).await?) })
    }
    fn latest(&self) -> Option<Arc<View>> {
        lock(&self.0.latest).clone()
    }
    fn heartbeat_age(&self) -> Option<Duration> {
        lock(&self.0.beat).map(|beat| beat.elapsed())
    }
}

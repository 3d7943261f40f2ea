//! The running daemon: two threads that drain, and the view the exporter prints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use conntrack_common::event::{FLAG_CGROUP, FLAG_IFINDEX, FLAG_REPEATED};
use conntrack_common::{Counter, Event, EventKind};

use crate::aggregate::books::{Books, Reading};
use crate::aggregate::snapshot::Snapshot;
use crate::attribute::cgroup_tree::{CgroupTree, find_mount};
use crate::attribute::decode::{ClockOffset, flows, source_flow, token_evidence};
use crate::attribute::discover::{FoundNamespace, read_facts};
use crate::attribute::index::{Attribution, Inputs, OwnerIndex, Query};
use crate::attribute::ledger::Ledger;
use crate::attribute::observed::Observed;
use crate::attribute::owner::{Evidence, Owner};
use crate::attribute::{pods, resets};
use crate::command::check;
use crate::config::System;
use crate::drain::counters::Counters;
use crate::drain::events::Events;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::sources::{Sources, Withheld};
use crate::drain::{ctnetlink, netns, presence, rtnetlink};
use crate::export::log::Logger;
use crate::export::log_event;
use crate::export::view::{Later, OwnerCounts, SnapshotSource, View};
use crate::probe::attach::Probes;

/// Between two readings of the kernel's own figures.
const ROUND: Duration = Duration::from_secs(1);

/// What the threads and the exporter share.
pub struct Daemon {
    system: System,
    log: Logger,
    probes: Mutex<Option<Probes>>,
    counters: Option<Counters>,
    sources: Mutex<Option<Sources>>,
    books: Mutex<Books>,
    owners: Mutex<Owners>,
    latest: Mutex<Option<Arc<View>>>,
    beat: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Owners {
    index: Option<OwnerIndex>,
    host: Option<u32>,
    known: Vec<u32>,
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
    pub fn new(system: System, log: Logger, probes: Option<(Probes, Counters, Sources)>) -> Arc<Self> {
        let (probes, counters, sources) = match probes {
            Some((probes, counters, sources)) => (Some(probes), Some(counters), Some(sources)),
            None => (None, None, None),
        };
        Arc::new(Self {
            system,
            log,
            probes: Mutex::new(probes),
            counters,
            sources: Mutex::new(sources),
            books: Mutex::default(),
            owners: Mutex::default(),
            latest: Mutex::default(),
            beat: Mutex::default(),
            stop: AtomicBool::new(false),
        })
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
        for state in probes.states() {
            if let Some(reason) = &state.reason {
                let fields = [
                    ("probe", state.probe.into()),
                    ("mechanism", state.mechanism.into()),
                    ("reason", reason.as_str().into()),
                ];
                self.log.warn("probe not attached, or not by its first choice", &fields);
            }
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
            device: None,
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
            probes: lock(&self.probes).as_ref().map_or_else(Vec::new, Probes::states),
            ..Snapshot::default()
        };
        let namespaces = netns::list_namespaces(&self.system.procfs);
        snapshot.honesty.collectors.insert("namespaces", namespaces.is_ok());
        let namespaces = namespaces.unwrap_or_default();
        if snapshot.conntrack_loaded {
            self.read_tables(&namespaces, &mut snapshot);
        }
        self.index(&namespaces);
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
            let sums = |has_entries: bool| {
                let counters = self.counters.as_ref()?;
                if has_entries { counters.of(namespace.inum) } else { counters.table(namespace.inum) }
            };
            let before = sums(true);
            let read = in_namespace(&namespace.path, namespace.inum, || {
                (ctnetlink::table_counts().ok(), ctnetlink::cpu_stats().ok())
            });
            let (counts, stats) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(_) => (None, None),
            };
            let after = sums(namespace.host || counts.as_ref().is_some_and(|c| c.entries > 0));
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

    /// Makes the index of owners anew when namespaces came or went.
    fn index(&self, namespaces: &[Namespace]) {
        let known: Vec<u32> = namespaces.iter().map(|n| n.inum).collect();
        if lock(&self.owners).index.is_some() && lock(&self.owners).known == known {
            return;
        }
        let facts = namespaces.iter().map(|n| {
            let addresses = in_namespace(&n.path, n.inum, rtnetlink::addresses).ok().and_then(Result::ok);
            read_facts(
                &self.system.procfs,
                FoundNamespace {
                    netns: n.inum,
                    host: n.host,
                    pids: n.pids.clone(),
                    addresses: addresses.unwrap_or_default(),
                },
            )
        });
        let mountinfo = std::fs::read(self.system.procfs.join("self/mountinfo")).unwrap_or_default();
        let tree = find_mount(&mountinfo).map(|mount| Mutex::new(CgroupTree::new(mount)));
        let index = OwnerIndex::new(Inputs {
            namespaces: facts.collect(),
            pods: pods::read(&self.system.podlogs).unwrap_or_default(),
            peers: Default::default(),
            cgroup: Box::new(move |id| lock(tree.as_ref()?).lookup(id, Instant::now()).map(<[u8]>::to_vec)),
        });
        let mut owners = lock(&self.owners);
        owners.host = namespaces.iter().find(|n| n.host).map(|n| n.inum);
        owners.known = known;
        owners.index = Some(index);
    }
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

//! The running daemon: two threads that drain, and the view the exporter prints.

mod audit;
mod discovery;
mod facts;
mod held;
mod owners;
mod reading;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conntrack_common::token::MAX_TOKENS;

use self::audit::Audit;
use self::held::Held;
use self::owners::Owners;
use crate::aggregate::books::Books;
use crate::aggregate::dump_tier::DumpTier;
use crate::aggregate::forecast::Forecasts;
use crate::aggregate::snapshot::{ProbeState, Snapshot, Table};
use crate::aggregate::token_room::TokenRoom;
use crate::aggregate::watch::Watch;
use crate::attribute::survey::Survey;
use crate::command::check;
use crate::config::System;
use crate::drain::counters::Counters;
use crate::drain::events::Events;
use crate::drain::netns::Namespace;
use crate::drain::pending::Pending;
use crate::drain::sources::Sources;
use crate::drain::{netns, presence};
use crate::export::coverage;
use crate::export::log::Logger;
use crate::export::view::{Later, SnapshotSource, View};
use crate::probe::attach::{self, Probes};
use crate::probe::load::Drains;

/// Between two readings of the kernel's own figures.
const ROUND: Duration = Duration::from_secs(1);

/// And at least, however much changes.
const LEAST_REST: Duration = Duration::from_millis(200);

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
    held: Mutex<Option<Held>>,
    audit: Mutex<Option<Audit>>,
    forecasts: Mutex<Forecasts>,
    /// Of refusals, of evictions.
    token_rooms: Mutex<[TokenRoom; 2]>,
    /// The host's namespace, as last found.
    host: Mutex<Option<Namespace>>,
    dumps: Mutex<DumpTier>,
    /// What makes the index of owners, and whether the last one was made from everything.
    survey: Mutex<(Survey, bool)>,
    watch: Mutex<Watch>,
    /// Of probes that could not be loaded.
    unloaded: Vec<ProbeState>,
    latest: Mutex<Option<Arc<View>>>,
    beat: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has been reported; its figures are whole, since each is written in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    /// Puts it together, and hands on the ring of events to drain; probes are attached by the first round that finds
    /// conntrack loaded.
    #[must_use]
    pub fn new(system: System, log: Logger, probes: Option<(Probes, Drains)>) -> (Arc<Self>, Option<Events>) {
        let mut daemon = Self::of(system, log, Vec::new());
        let mut ring = None;
        if let Some((probes, drains)) = probes {
            let Drains { counters, sources, events, pending, directory, places, sweeps } = drains;
            daemon.probes = Mutex::new(Some(probes));
            daemon.counters = Some(counters);
            daemon.sources = Mutex::new(Some(sources));
            daemon.pending = Mutex::new(Some(pending));
            daemon.held = Mutex::new(Some(Held::new(directory)));
            daemon.audit = Mutex::new(Some(Audit::new(places, sweeps)));
            ring = Some(events);
        }
        (Arc::new(daemon), ring)
    }

    /// Without probes, for this reason: the kernel's own figures only.
    #[must_use]
    pub fn without_probes(system: System, log: Logger, reason: &str) -> Arc<Self> {
        Arc::new(Self::of(system, log, attach::unloaded(reason)))
    }

    fn of(system: System, log: Logger, unloaded: Vec<ProbeState>) -> Self {
        Self {
            system,
            log,
            probes: Mutex::default(),
            counters: None,
            sources: Mutex::default(),
            pending: Mutex::default(),
            books: Mutex::default(),
            owners: Mutex::default(),
            held: Mutex::default(),
            audit: Mutex::default(),
            forecasts: Mutex::default(),
            token_rooms: Mutex::new([TokenRoom::new(MAX_TOKENS.into()), TokenRoom::new(MAX_TOKENS.into())]),
            host: Mutex::default(),
            dumps: Mutex::default(),
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
                self.begin();
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
            self.audit(&view.snapshot);
            *lock(&self.beat) = Some(Instant::now());
            self.rest();
        }
        let mut owners = lock(&self.owners);
        self.tell_episodes(&owners.episodes.cut_off(), owners.host);
    }

    /// Waits for the next round; not as long when addresses change: a new pod is to be known at once.
    fn rest(&self) {
        let begun = Instant::now();
        while !self.stop.load(Ordering::Relaxed) && begun.elapsed() < ROUND {
            std::thread::sleep(Duration::from_millis(50));
            let host = lock(&self.host).clone();
            if begun.elapsed() >= LEAST_REST && lock(&self.survey).0.stirred(host.as_ref()) {
                break;
            }
        }
    }

    /// Tells the probes of the owners and attaches them; then they are shown the entries from before.
    fn begin(&self) {
        let namespaces = netns::scan_namespaces(&self.system.procfs).unwrap_or_default().namespaces;
        self.index(&namespaces, &mut Snapshot::default());
        self.attach(&namespaces);
    }

    /// Attaches the probes, shows them the entries there are, and logs what did not attach. Who asks for a reading
    /// meanwhile waits: before it is done, nobody is known to hold anything.
    fn attach(&self, namespaces: &[Namespace]) {
        let mut probes = lock(&self.probes);
        let Some(probes) = probes.as_mut() else { return };
        probes.attach();
        self.adopt(namespaces);
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

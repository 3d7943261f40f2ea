//! What the rest of the program holds: the last directory and how it stands, never waited for.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::directory::{PodDirectory, TOMBSTONE};
use super::failure::Failure;
use super::kind::Kind;
use super::services::{ServiceDirectory, ServiceName};
use super::settings::{Plan, Settings};
use super::state::State;
use super::watch::{Timing, Watch};
use crate::attribute::observed::Flow;

/// How long a command waits for the API.
const ONCE: Duration = Duration::from_secs(10);

/// A watch over the pods of this node, or that there is none.
pub type ApiHandle = Handle<PodDirectory>;

/// A watch over the Services of the cluster, or that there is none.
pub type ServiceHandle = Handle<ServiceDirectory>;

/// A watch, or that there is none.
#[derive(Clone, Debug)]
pub struct Handle<K> {
    shared: Arc<Mutex<Shared<K>>>,
    tombstone: Duration,
}

#[derive(Debug)]
struct Shared<K> {
    directory: Arc<K>,
    state: State,
    /// When the server last told something that held.
    heard: Option<Instant>,
    last_error: Option<String>,
}

/// How it stands, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How it stands.
    pub state: State,
    /// What went wrong last, if anything did; in one line. Stays when it is over.
    pub last_error: Option<String>,
}

impl<K: Kind> Handle<K> {
    /// Nobody is asked, for this reason.
    #[must_use]
    pub fn disabled(reason: String) -> Self {
        Self::new(State::Disabled(reason), TOMBSTONE)
    }

    /// Watches until the runtime ends. To be called in a runtime.
    #[must_use]
    pub fn watch(plan: Plan, timing: Timing) -> Self {
        let handle = Self::new(State::Connecting(None), timing.tombstone);
        tokio::spawn(Watch::new(plan, timing, handle.clone()).run());
        handle
    }

    /// Asks once, for a command that a person waits for.
    #[must_use]
    pub fn ask_once(settings: &Settings) -> Self {
        settings.plan().map_or_else(Self::disabled, |plan| Self::once(plan, ONCE))
    }

    /// Asks once, for at most `patience`: the list, and whether a watch is allowed.
    #[must_use]
    pub fn once(plan: Plan, patience: Duration) -> Self {
        let handle = Self::new(State::Connecting(None), TOMBSTONE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                let asked = Watch::new(plan, Timing::default(), handle.clone()).once();
                if tokio::time::timeout(patience, asked).await.is_err() {
                    let text = format!("the API server took longer than {} s", patience.as_secs());
                    handle.failed(&Failure::other(&text));
                }
            }),
            Err(error) => handle.failed(&Failure::of("cannot ask", &error)),
        }
        handle
    }

    fn new(state: State, tombstone: Duration) -> Self {
        let shared = Shared { directory: Arc::default(), state, heard: None, last_error: None };
        Self { shared: Arc::new(Mutex::new(shared)), tombstone }
    }

    /// What is there, as last known; those that went longer ago than a tombstone stands are forgotten by now.
    #[must_use]
    pub fn latest(&self) -> Arc<K> {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.directory.is_due(now, self.tombstone) {
            Arc::make_mut(&mut shared.directory).forget(now, self.tombstone);
        }
        shared.directory.clone()
    }

    /// The same, unless the server was never heard.
    #[must_use]
    pub fn known(&self) -> Option<Arc<K>> {
        let heard = self.lock().heard.is_some();
        heard.then(|| self.latest())
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = self.lock();
        Status { state: shared.state.clone(), last_error: shared.last_error.clone() }
    }

    /// The server told something that holds.
    pub(super) fn heard(&self, change: impl FnOnce(&mut K)) {
        let mut shared = self.lock();
        change(Arc::make_mut(&mut shared.directory));
        shared.heard = Some(Instant::now());
        shared.state = State::Synced;
    }

    /// The server is there, and has nothing new.
    pub(super) fn alive(&self) {
        let mut shared = self.lock();
        shared.heard = Some(Instant::now());
        shared.state = State::Synced;
    }

    /// An attempt failed.
    pub(super) fn failed(&self, failure: &Failure) {
        let mut shared = self.lock();
        shared.state = State::failed(failure, shared.heard);
        shared.last_error = Some(failure.text.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Shared<K>> {
        // Each change is whole before the next: nothing half-done is left by a panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServiceHandle {
    /// The Service that a flow's destination is, as last known; `of_node`: is that address this node's own?
    #[must_use]
    pub fn addressed(&self, flow: &Flow, of_node: impl FnOnce(IpAddr) -> bool) -> Option<ServiceName> {
        self.lock().directory.addressed(flow, of_node).cloned()
    }

    /// How many there are. None: the server was never heard.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        let shared = self.lock();
        shared.heard.map(|_| shared.directory.len())
    }
}

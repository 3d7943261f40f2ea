//! What the rest of the program holds: the last directory and how it stands, never waited for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::directory::{PodDirectory, TOMBSTONE};
use super::failure::Failure;
use super::settings::{Plan, Settings};
use super::state::State;
use super::watch::{Timing, Watch};

/// How long a command waits for the API.
const ONCE: Duration = Duration::from_secs(10);

/// A watch over the pods of this node, or that there is none.
#[derive(Clone, Debug)]
pub struct ApiHandle {
    shared: Arc<Mutex<Shared>>,
    tombstone: Duration,
}

#[derive(Debug)]
struct Shared {
    directory: Arc<PodDirectory>,
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

impl ApiHandle {
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

    /// The pods, as last known; those that went longer ago than a tombstone stands are forgotten by now.
    #[must_use]
    pub fn latest(&self) -> Arc<PodDirectory> {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.directory.is_due(now, self.tombstone) {
            Arc::make_mut(&mut shared.directory).forget(now, self.tombstone);
        }
        shared.directory.clone()
    }

    /// The same, unless the server was never heard.
    #[must_use]
    pub fn known(&self) -> Option<Arc<PodDirectory>> {
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
    pub(super) fn heard(&self, change: impl FnOnce(&mut PodDirectory)) {
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

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Each change is whole before the next: nothing half-done is left by a panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

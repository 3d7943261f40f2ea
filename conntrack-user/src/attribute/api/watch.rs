//! The loop: a list, a watch from there on, and when something goes wrong, a pause and again.

use std::time::{Duration, Instant};

use super::backoff;
pub use super::client::Patience;
use super::client::{Connection, From, Next};
use super::directory::TOMBSTONE;
use super::failure::{Failure, FailureKind};
use super::handle::Handle;
use super::kind::Kind;
use super::settings::Plan;
use super::wire::Change;

/// Objects asked for at a time.
const PAGE: u32 = 500;

/// Watches in a row that brought not a line, not even a bookmark, after which a list tells whether that can be true.
const BARREN: u32 = 4;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long to wait for the server.
    pub patience: Patience,
    /// The first pause after a failure.
    pub floor: Duration,
    /// The longest pause after a failure.
    pub ceiling: Duration,
    /// The longest pause after a watch that the server ended too soon.
    pub short_watch: Duration,
    /// A watch that lasts so long wipes out the failures before it.
    pub healthy: Duration,
    /// How long a pod that went keeps its name.
    pub tombstone: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            floor: Duration::from_millis(500),
            ceiling: Duration::from_secs(30),
            short_watch: Duration::from_secs(5),
            healthy: Duration::from_secs(10),
            tombstone: TOMBSTONE,
        }
    }
}

/// Where the loop is.
pub(super) struct Watch<K: Kind> {
    plan: Plan,
    timing: Timing,
    handle: Handle<K>,
    /// Up to where all is known. None: nothing yet.
    known: Option<String>,
    /// Make a list before the next watch?
    list: bool,
    /// Must the list be of now, whatever that costs the server?
    now: bool,
    /// Objects asked for at a time; fewer once that was too much.
    page: u32,
    /// In a row.
    failures: u32,
    /// Watches in a row that brought nothing.
    barren: u32,
}

impl<K: Kind> Watch<K> {
    pub(super) fn new(plan: Plan, timing: Timing, handle: Handle<K>) -> Self {
        Self { plan, timing, handle, known: None, list: true, now: false, page: PAGE, failures: 0, barren: 0 }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        let _told = ToldWhenOver(self.handle.clone());
        loop {
            let mut opened = None;
            let ended = self.turn(&mut opened).await;
            let lasted = opened.map_or(Duration::ZERO, |at: Instant| at.elapsed());
            if lasted >= self.timing.healthy {
                self.failures = 0;
            }
            let pause = match ended {
                Ok(()) if lasted >= self.timing.healthy => self.timing.floor.mul_f64(backoff::random()),
                Ok(()) => self.pause(self.timing.short_watch, None),
                Err(failure) => {
                    self.failed(&failure);
                    self.pause(self.timing.ceiling, failure.pause)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// A list, and a watch only to see whether it is allowed.
    pub(super) async fn once(mut self) {
        let connection = Connection::open(&self.plan, self.timing.patience).await;
        let asked = async {
            let connection = connection?;
            self.fill(&connection).await?;
            connection.watch::<K>(self.known.as_deref().unwrap_or_default()).await.map(drop)
        };
        if let Err(failure) = asked.await {
            self.handle.failed(&failure);
        }
    }

    fn pause(&mut self, ceiling: Duration, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = backoff::delay(self.failures, self.timing.floor, ceiling, backoff::random());
        backoff::at_least(delay, asked, backoff::random())
    }

    fn failed(&mut self, failure: &Failure) {
        self.list = true;
        match failure.kind {
            // A list that goes on from what we had, or from the server's memory, would fail again.
            FailureKind::Gone => self.now = true,
            // From its memory a server gives all at once, whatever the limit.
            FailureKind::TooLarge => (self.now, self.page) = (true, (self.page / 2).max(1)),
            FailureKind::Forbidden | FailureKind::Other => {}
        }
        self.handle.failed(failure);
    }

    /// A list if one is due, and a watch to its end; `opened` is when that was.
    async fn turn(&mut self, opened: &mut Option<Instant>) -> Result<(), Failure> {
        let connection = Connection::open(&self.plan, self.timing.patience).await?;
        if self.list {
            self.fill(&connection).await?;
        }
        let mut changes = connection.watch::<K>(self.known.as_deref().unwrap_or_default()).await?;
        *opened = Some(Instant::now());
        self.handle.alive();
        loop {
            match changes.next().await? {
                Next::End | Next::Silence => {
                    self.barren += 1;
                    self.list |= self.barren.is_multiple_of(BARREN);
                    return Ok(());
                }
                Next::Change(Change::Error(code, message), _) => {
                    return Err(Failure::status(K::PLURAL, code, &message, None));
                }
                Next::Change(change, upto) => {
                    self.barren = 0;
                    self.apply(change);
                    self.known = upto.or(self.known.take());
                }
            }
        }
    }

    fn apply(&self, change: Change<K::Item>) {
        match change {
            Change::Put(Some(item)) => self.handle.heard(|directory| {
                if directory.has(&K::key(&item)) || directory.count() < K::MAX {
                    directory.put(item);
                }
            }),
            Change::Gone(Some(key)) => {
                self.handle.heard(|directory| directory.remove(&key, Instant::now()));
            }
            _ => self.handle.alive(),
        }
    }

    /// Puts a whole list in the place of what was known.
    async fn fill(&mut self, connection: &Connection) -> Result<(), Failure> {
        let mut from = match &self.known {
            _ if self.now => From::Now,
            Some(version) => From::NotOlder(version.clone()),
            None => From::NotOlder("0".to_owned()),
        };
        let mut items: Vec<K::Item> = Vec::new();
        let version = loop {
            let page = connection.page::<K>(self.page, &from).await?;
            items.extend(page.items);
            match page.next {
                None => break page.resource_version,
                Some(next) if From::Page(next.clone()) == from => {
                    return Err(Failure::nonsense("a list whose page is followed by itself"));
                }
                Some(_) if items.len() > K::MAX => return Err(too_many::<K>()),
                Some(next) => from = From::Page(next),
            }
        };
        if items.len() > K::MAX {
            return Err(too_many::<K>());
        }
        self.handle.heard(|directory| directory.replace(items, Instant::now()));
        (self.known, self.list, self.now) = (Some(version), false, false);
        Ok(())
    }
}

fn too_many<K: Kind>() -> Failure {
    Failure::nonsense(&format!("more than {} {}", K::MAX, K::PLURAL))
}

/// Should the watch ever end, what it left is not true for long.
struct ToldWhenOver<K: Kind>(Handle<K>);

impl<K: Kind> Drop for ToldWhenOver<K> {
    fn drop(&mut self) {
        self.0.failed(&Failure::other("the watch over the API server has ended"));
    }
}

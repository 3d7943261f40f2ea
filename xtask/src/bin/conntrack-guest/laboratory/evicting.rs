//! A table at its limit, in which entries are evicted: of a connection while its answer is under way, which then arrives
//! untranslated and is reset, by the pod if a Service was called, by the router if it had masqueraded. And of one whose
//! SYN is repeated, or that was not translated: its entry is made anew, and what comes later is none of the table's doing.

use std::time::Duration;

use anyhow::Context as _;

use super::attempts::{Then, attempt, play, share};
use super::case::{Case, Kind, Table};
use super::draw::Draw;
use super::servers::Servers;
use super::site::Site;
use super::wire::FLOOD_PORTS;
use crate::lab::kernel;
use crate::lab::nft;
use crate::lab::queue::Queue;

/// A SYN is sent once, or its repetition would make the entry anew.
const ONCE: &str = "table inet once { set syns { type inet_service; flags dynamic; size 65535; }; \
    chain out { type filter hook output priority 0; \
        tcp dport 80 tcp flags & (syn | ack) == syn tcp sport @syns drop; \
        tcp flags & (syn | ack) == syn add @syns { tcp sport }; }; }";
/// The answers wait.
const HOLD: &str = "table inet hold { chain out { type filter hook output priority 0; \
    tcp sport { 80, 95 } tcp flags & (syn | ack) == (syn | ack) queue num 0 bypass; }; }";
const PODS: usize = 2;
/// New entries that evict others; so many that few of all are left.
const FLOOD: u64 = 4_000;
/// Of what is not to be given up.
const PATIENCE: Duration = Duration::from_secs(8);

/// The router; its last pod floods.
#[derive(Debug)]
pub(super) struct Evicting {
    pub(super) site: Site,
    sent: u64,
    _servers: Servers,
}

impl Evicting {
    /// Builds it.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(super) fn build() -> anyhow::Result<Self> {
        let site = Site::build(30, Table::Evicting, &["evict-0", "evict-1", "flood"])?;
        let servers =
            Servers::start(&site.beyond, false, &[Kind::Evicted.port(), Kind::EvictedUntranslated.port()])?;
        for pod in &site.pods[..PODS] {
            nft::load(&pod.process.netns, ONCE)?;
        }
        nft::load(&site.beyond, HOLD)?;
        kernel::set(&site.router, "udp_timeout", 600)?;
        Ok(Self { site, sent: 0, _servers: servers })
    }

    /// While there is room: makes that there are more entries than this.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(super) fn fill(&mut self, limit: u64) -> anyhow::Result<()> {
        let missing = (limit + 50).saturating_sub(kernel::count(&self.site.router)?);
        self.flood(missing)
    }

    fn flood(&mut self, count: u64) -> anyhow::Result<()> {
        let to = self.site.servers()[0];
        let first = self.sent;
        self.sent += count;
        // The agent's ports begin at FLOOD_PORTS.
        let flood = self.site.pods.last_mut().context("no pod")?;
        flood.process.ask(&format!("spray - {to} {first} {count}")).map(drop)
    }

    /// Connections whose entries are evicted while the answers wait.
    ///
    /// # Errors
    /// When the answers do not come.
    pub(super) fn evict(
        &mut self,
        mut draw: Draw,
        count: usize,
        controls: usize,
    ) -> anyhow::Result<Vec<Case>> {
        const { assert!(FLOOD_PORTS <= 10_000) };
        let queue = self.site.beyond.run(Queue::open)?;
        let mut players = Vec::new();
        for (n, pod) in self.site.pods[..PODS].iter().enumerate() {
            let mut scripts = Vec::new();
            for _ in share(count, n, PODS) {
                let to = if draw.below(2) == 0 { self.site.services() } else { self.site.servers() };
                let case = pod.maker.case(&mut draw, Kind::Evicted, to)?;
                scripts.push(attempt(case, None, draw.between(2_500, 3_000), Then::Abort));
            }
            for kind in [Kind::EvictedForNothing, Kind::EvictedUntranslated] {
                for _ in share(controls, n, PODS) {
                    let case = pod.maker.case(&mut draw, kind, self.site.servers())?;
                    scripts.push(attempt(case, None, PATIENCE, Then::Send));
                }
            }
            draw.shuffle(&mut scripts);
            let path = pod.process.pid();
            players
                .push(std::thread::spawn(move || crate::lab::netns::Netns::of(path)?.run(|| play(scripts))));
        }
        let held = queue.hold(count + controls)?;
        self.flood(FLOOD)?;
        held.accept()?;
        let mut cases = Vec::new();
        for player in players {
            cases.extend(player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?.0);
        }
        Ok(cases)
    }
}

//! A table with room: insert races, INVALID packets, and look-alikes that it tracks.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::net::ipproto;

use super::attempts::{Then, abort, attempt, play, share};
use super::case::{ANYWHERE, Case, Kind, Table, UDP, next_port};
use super::controls;
use super::draw::Draw;
use super::full::Counts;
use super::servers::{Servers, datagrams};
use super::site::Site;
use crate::daemon::DEADLINE;
use crate::lab::nft;
use crate::lab::packet::{Raw, segment};
use crate::lab::queue::Queue;
use crate::lab::sequence;

/// The first packet of a flow that is to race waits between the choice of a masqueraded port and the insert. What comes of
/// packets that are INVALID is counted: the resets that answer them, or that they are to be dropped.
const RACES: &str = "table inet races { counter struck {}; \
    set raced4 { type ipv4_addr . inet_service; flags dynamic; size 65535; }; \
    set raced6 { type ipv6_addr . inet_service; flags dynamic; size 65535; }; \
    chain pre { type filter hook prerouting priority -310; \
        udp dport { 53, 530 } meta mark set 0x77; \
        tcp dport 531 tcp flags & (syn | ack) == syn ip saddr . tcp sport != @raced4 add @raced4 { ip saddr . tcp sport } \
            meta mark set 0x77; \
        tcp dport 531 tcp flags & (syn | ack) == syn ip6 saddr . tcp sport != @raced6 add @raced6 { ip6 saddr . tcp sport } \
            meta mark set 0x77; }; \
    chain struck { type filter hook forward priority -10; \
        ct state invalid tcp dport 80 tcp flags & rst == rst counter name struck; \
        ct state invalid tcp sport 92 counter name struck; }; \
    chain late { type filter hook postrouting priority 200; oifname \"far\" meta mark 0x77 queue num 0; }; }";
/// Pairs that race at once: held for less than a SYN's first repetition.
const PAIRS: usize = 20;
/// So far ahead is outside of any window here.
pub(super) const AHEAD: u32 = 100_000_000;
const ACK_PUSH: u8 = 0x18;

/// The router and who answers beyond.
#[derive(Debug)]
pub(super) struct Roomy {
    pub(super) site: Site,
    servers: Servers,
}

impl Roomy {
    /// Builds it.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(super) fn build() -> anyhow::Result<Self> {
        let site = Site::build(20, Table::Roomy, &["roomy-0", "roomy-1", "roomy-2"])?;
        nft::load(&site.router, RACES)?;
        nft::load(&site.router, &controls::rules(false))?;
        let servers = Servers::start(
            &site.beyond,
            false,
            &[80, Kind::RacedConnect.port(), Kind::InvalidDropped.port()],
        )?;
        Ok(Self { site, servers })
    }

    /// Look-alikes of one pod.
    ///
    /// # Errors
    /// When a socket cannot be made or asked.
    pub(super) fn controls(&self, mut draw: Draw, pod: usize, each: &Counts) -> anyhow::Result<Vec<Case>> {
        let of = &self.site.pods[pod];
        let mut scripts = Vec::new();
        for kind in ANYWHERE {
            for _ in share(each.controls, pod, self.site.pods.len()) {
                scripts.push(controls::script(&of.maker, &mut draw, kind, self.site.servers())?);
            }
        }
        draw.shuffle(&mut scripts);
        Ok(of.process.netns.run(|| play(scripts))?.0)
    }

    /// Pairs of pods that get the same tuple at once.
    ///
    /// # Errors
    /// When the packets do not come into the queue.
    pub(super) fn races(&self, mut draw: Draw, each: &Counts) -> anyhow::Result<Vec<Case>> {
        let mut cases = Vec::new();
        for kind in [Kind::RacedDatagram, Kind::RacedLookup, Kind::RacedConnect] {
            let mut left = each.of_a_kind;
            while left > 0 {
                let pairs = left.min(PAIRS);
                cases.extend(self.race(&mut draw, kind, pairs)?);
                left -= pairs;
            }
        }
        let mut left = each.controls;
        while left > 0 {
            let flows = left.min(PAIRS);
            cases.extend(self.resolve(&mut draw, flows)?);
            left -= flows;
        }
        Ok(cases)
    }

    /// Two datagrams of one flow at once: the kernel gives the second the entry of the first.
    fn resolve(&self, draw: &mut Draw, flows: usize) -> anyhow::Result<Vec<Case>> {
        let queue = self.site.router.run(Queue::open)?;
        let pod = &self.site.pods[draw.below(self.site.pods.len())];
        let case = |_| pod.maker.case(draw, Kind::RaceResolved, self.site.servers());
        let cases = (0..flows).map(case).collect::<anyhow::Result<Vec<_>>>()?;
        pod.process.netns.run(|| {
            cases.iter().try_for_each(|case| {
                let number = u64::from(case.from.port());
                datagrams(case.from, case.to, &[number, 1 << 33 | number])
            })
        })?;
        queue.hold(2 * flows)?.accept()?;
        Ok(cases)
    }

    fn race(&self, draw: &mut Draw, kind: Kind, pairs: usize) -> anyhow::Result<Vec<Case>> {
        let queue = self.site.router.run(Queue::open)?;
        let mut sides = [0, 1];
        draw.shuffle(&mut sides);
        let mut begun = [Vec::new(), Vec::new()];
        for _ in 0..pairs {
            let (port, family) = (next_port()?, draw.below(2));
            for (begun, side) in begun.iter_mut().zip(sides) {
                begun.push(self.site.pods[side].maker.case_from(port, family, kind, self.site.servers()));
            }
        }
        std::thread::scope(|scope| {
            let players = begun.into_iter().zip(sides).map(|(cases, side)| {
                scope.spawn(move || self.site.pods[side].process.netns.run(|| begin(cases)))
            });
            let players: Vec<_> = players.collect();
            queue.hold(2 * pairs)?.accept()?;
            let mut all = Vec::new();
            for player in players {
                all.extend(player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }

    /// Connections by the Service, each struck with a packet out of its window, then aborted. The packet passes
    /// untranslated, or a rule drops it.
    ///
    /// # Errors
    /// When one does not come about.
    pub(super) fn strike(&self, draw: &mut Draw, kind: Kind, count: usize) -> anyhow::Result<Vec<Case>> {
        let open = self.open(draw, kind, count)?;
        let struck = || Ok::<_, anyhow::Error>(nft::counters(&self.site.router)?["struck"]);
        let before = struck()?;
        for (_, stream) in &open {
            let client = stream.local_addr()?;
            let from: IpAddr = self.site.servers()[usize::from(client.is_ipv6())];
            let [sends, expects] = sequence::numbers(stream)?;
            self.site.beyond.run(|| {
                let raw = Raw::open_from(Some(from), client.ip(), ipproto::TCP)?;
                let from = SocketAddr::new(from, kind.port());
                raw.send(&segment(from, client, [expects.wrapping_add(AHEAD), sends], ACK_PUSH, b"xx"))?;
                Ok(())
            })?;
        }
        // An abort that overtakes the answer would be the reset.
        let until = Instant::now() + DEADLINE;
        while struck()? < before + count as u64 {
            ensure!(Instant::now() < until, "of {count} packets that are INVALID nothing came");
            std::thread::sleep(Duration::from_millis(20));
        }
        finish(open)
    }

    /// Connections by the Service, whose entries somebody deletes; then the server speaks.
    ///
    /// # Errors
    /// When one does not come about.
    pub(super) fn delete(&self, mut draw: Draw, each: &Counts) -> anyhow::Result<Vec<Case>> {
        let open = self.open(&mut draw, Kind::Deleted, each.controls)?;
        for family in ["ipv4", "ipv6"] {
            let args = ["-D", "-f", family, "-p", "tcp", "--dport", &Kind::Deleted.port().to_string()];
            // It fails when there is none of this family.
            let _: anyhow::Result<String> = self.site.router.output("conntrack", &args);
        }
        let (until, mut spoken) = (Instant::now() + DEADLINE, 0);
        while spoken < open.len() {
            ensure!(Instant::now() < until, "the server has {spoken} of {} connections", open.len());
            spoken += self.servers.speak()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        finish(open)
    }

    fn open(&self, draw: &mut Draw, kind: Kind, count: usize) -> anyhow::Result<Vec<(Case, TcpStream)>> {
        let mut open = Vec::new();
        for (n, pod) in self.site.pods.iter().enumerate() {
            let mut scripts = Vec::new();
            for _ in share(count, n, self.site.pods.len()) {
                let case = pod.maker.case(draw, kind, self.site.services())?;
                scripts.push(attempt(case, None, DEADLINE, Then::Keep));
            }
            let (cases, kept) = pod.process.netns.run(|| play(scripts))?;
            open.extend(kept.into_iter().map(|(index, stream)| (cases[index].clone(), stream)));
        }
        ensure!(open.len() == count, "{} of {count} are open", open.len());
        Ok(open)
    }

    /// Makes room in the overloaded listener for a while.
    ///
    /// # Errors
    /// When it cannot be made anew.
    pub(super) fn renew(&self) -> anyhow::Result<()> {
        self.servers.renew(&self.site.beyond)
    }

    /// Empties the table, when all connections are closed.
    ///
    /// # Errors
    /// When `conntrack` fails.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        self.site.router.output("conntrack", &["-F"]).map(drop)
    }
}

fn begin(cases: Vec<Case>) -> anyhow::Result<Vec<Case>> {
    if cases.iter().all(|case| case.proto == UDP) {
        for case in &cases {
            // Both ends of a race have the same port: the address is in the number too.
            let side = u64::from(case.pod.ends_with('0')) << 32;
            datagrams(case.from, case.to, &[side | u64::from(case.from.port())])?;
        }
        return Ok(cases);
    }
    let scripts = cases.into_iter().map(|case| attempt(case, None, DEADLINE, Then::Send)).collect();
    Ok(play(scripts)?.0)
}

/// Closes them by resets.
fn finish(open: Vec<(Case, TcpStream)>) -> anyhow::Result<Vec<Case>> {
    open.into_iter().map(|(case, stream)| abort(&stream).map(|()| case)).collect()
}

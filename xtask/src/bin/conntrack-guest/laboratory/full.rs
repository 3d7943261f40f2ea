//! The node's own table, full of what cannot be evicted: what it refuses, and look-alikes that pass it untracked or
//! with an entry that they have already.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::attempts::{Script, Then, attempt, play, share};
use super::case::{ANYWHERE, Case, Kind, Maker, Table};
use super::controls;
use super::draw::Draw;
use super::servers::{Servers, datagrams};
use super::wire::device;
use crate::daemon::DEADLINE;
use crate::lab::kernel;
use crate::lab::nft;
use crate::lab::node::{Node, STRANGERS};
use crate::lab::workload::{Wiring, Workload};
use crate::options::syn_retries;

/// Of its own, or masquerade could give an open connection, when its entry is made anew, another port.
const GREEDY_PORT: u16 = 8080;
const PODS: u16 = 4;
/// Later than any kernel gives a SYN up (127 s by default), on a guest whose clock is not the host's.
const GIVEN_UP: Duration = Duration::from_secs(180);
/// Ports of connections that the table tracks, but the greedy one's.
const TRACKED: [(&str, u16); 4] =
    [("tcp", 80), ("tcp", Kind::AbortedInFull.port()), ("udp", Kind::Datagram.port()), ("udp", 53)];

/// The node.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) node: Node,
    greedy: Workload,
    pods: Vec<(Workload, Maker)>,
    servers: Servers,
}

/// What is open when the table becomes full, by pod.
pub(super) type Open = Vec<Vec<(Case, TcpStream)>>;

impl Full {
    /// Builds it.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(super) fn build() -> anyhow::Result<Self> {
        let mut node = Node::build()?;
        node.outside.listen(GREEDY_PORT)?;
        let servers = Servers::start(&node.outside.netns, true, &[Kind::AbortedInFull.port()])?;
        nft::load(&node.host, &controls::rules(true))?;
        // What is aborted in the full table is to make no room.
        kernel::set(&node.host, "tcp_timeout_close", 600)?;
        let greedy = Workload::start(&node, Wiring::Bridged, 2, "greedy")?;
        let pod = |n: u16| {
            let name = format!("full-{n}");
            let workload = Workload::start(&node, Wiring::Routed, 3 + n, &name)?;
            let maker = Maker { pod: name, table: Table::Full, addresses: workload.addresses };
            Ok((workload, maker))
        };
        let pods = (0..PODS).map(pod).collect::<anyhow::Result<_>>()?;
        Ok(Self { node, greedy, pods, servers })
    }

    /// Numbers of the devices that lead to pods, and of the one that leads outside.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(super) fn devices(&self) -> anyhow::Result<(Vec<i32>, i32)> {
        let near = (0..PODS).map(|n| device(&self.node.host, &format!("cali{}", 3 + n)));
        Ok((near.collect::<anyhow::Result<_>>()?, device(&self.node.host, "eth0")?))
    }

    /// Fills the table with so many connections that stay.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(super) fn fill(&mut self, count: u64) -> anyhow::Result<()> {
        self.greedy.process.tcp(None, (STRANGERS[0], GREEDY_PORT).into(), count)
    }

    /// While there is room: opens connections, and takes the entries away of those that are to stall. What the table
    /// then holds is the limit.
    ///
    /// # Errors
    /// When one does not come about, or the table does not come to rest.
    pub(super) fn prepare(&self, draw: &mut Draw, each: &Counts) -> anyhow::Result<(Open, u64)> {
        self.forget()?;
        let mut scripts = self.pods.iter().map(|_| Vec::new()).collect::<Vec<_>>();
        // In a table that is full for minutes the garbage collector would make room of what was aborted.
        let aborted = if syn_retries().is_none() { 0 } else { each.controls };
        for (kind, count) in [(Kind::Stall, each.of_a_kind), (Kind::AbortedInFull, aborted)] {
            for n in 0..count {
                let pod = n % self.pods.len();
                let case = self.pods[pod].1.case(draw, kind, STRANGERS)?;
                scripts[pod].push(attempt(case, None, DEADLINE, Then::Keep));
            }
        }
        let mut open = Vec::new();
        for ((workload, _), scripts) in self.pods.iter().zip(scripts) {
            let wanted = scripts.len();
            let (cases, kept) = workload.process.netns.run(|| play(scripts))?;
            ensure!(kept.len() == wanted, "{} of {wanted} are open", kept.len());
            let with_case = |(index, stream): (usize, TcpStream)| (cases[index].clone(), stream);
            open.push(kept.into_iter().map(with_case).collect());
        }
        self.established()?;
        self.delete("tcp", 80);
        Ok((open, self.at_rest()?))
    }

    /// While the table is full. The cases, and those that are still to come about when there is room.
    ///
    /// # Errors
    /// When a socket cannot be made or asked.
    pub(super) fn press(&self, draw: &mut Draw, each: &Counts, open: Open) -> anyhow::Result<Pressed> {
        let (mut now, mut later, mut datagrams) = (Vec::new(), Vec::new(), Vec::new());
        for (pod, open) in open.into_iter().enumerate() {
            let maker = &self.pods[pod].1;
            let (mut scripts, mut late) = (Vec::new(), Vec::new());
            for (case, stream) in open {
                let is_stall = case.kind == Kind::Stall;
                let then = if is_stall { Then::Send } else { Then::Abort };
                let script = Script { case, retries: None, patience: DEADLINE, then, open: Some(stream) };
                if is_stall { late.push(script) } else { scripts.push(script) }
            }
            for kind in [Kind::ByKernel, Kind::ByApplication, Kind::Late, Kind::Datagram, Kind::Lookup] {
                for _ in share(each.of_a_kind, pod, self.pods.len()) {
                    let case = maker.case(draw, kind, STRANGERS)?;
                    match kind {
                        Kind::Datagram | Kind::Lookup => datagrams.push((pod, case)),
                        Kind::Late => late.push(attempt(case, None, DEADLINE, Then::Send)),
                        Kind::ByKernel => scripts.push(attempt(case, syn_retries(), GIVEN_UP, Then::Abort)),
                        _ => scripts.push(attempt(case, None, draw.between(1_500, 2_500), Then::Abort)),
                    }
                }
            }
            for _ in share(each.controls, pod, self.pods.len()) {
                let mut case = maker.case(draw, Kind::ByApplication, STRANGERS)?;
                scripts.push(attempt(case.clone(), None, draw.between(1_000, 1_500), Then::Abort));
                case.kind = Kind::Reused;
                later.push((pod, attempt(case, None, DEADLINE, Then::Send)));
            }
            for kind in ANYWHERE {
                for _ in share(each.controls, pod, self.pods.len()) {
                    scripts.push(controls::script(maker, draw, kind, STRANGERS)?);
                }
            }
            draw.shuffle(&mut scripts);
            draw.shuffle(&mut late);
            now.push((scripts, late));
        }
        Ok(Pressed { now, datagrams, reused: later })
    }

    /// Makes room in the overloaded listener for a while.
    ///
    /// # Errors
    /// When it cannot be made anew.
    pub(super) fn renew(&self) -> anyhow::Result<()> {
        self.servers.renew(&self.node.outside.netns)
    }

    /// The namespace of a pod.
    pub(super) fn netns(&self, pod: usize) -> &crate::lab::netns::Netns {
        &self.pods[pod].0.process.netns
    }

    /// Takes all entries away but the greedy one's.
    fn forget(&self) -> anyhow::Result<()> {
        for (proto, port) in TRACKED {
            self.delete(proto, port);
        }
        self.at_rest().map(drop)
    }

    /// Until the last packet of each handshake has come by: it would make the entry anew that is to be deleted, and such a
    /// one can be evicted.
    fn established(&self) -> anyhow::Result<()> {
        let until = Instant::now() + DEADLINE;
        for family in ["ipv4", "ipv6"] {
            for port in [80, Kind::AbortedInFull.port()] {
                let args = ["-L", "-f", family, "-p", "tcp", "--dport", &port.to_string()];
                let all = || self.node.host.output("conntrack", &args);
                while !all()?.lines().all(|entry| entry.contains("[ASSURED]")) {
                    ensure!(Instant::now() < until, "handshakes do not end");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        Ok(())
    }

    fn delete(&self, proto: &str, port: u16) {
        for family in ["ipv4", "ipv6"] {
            // It fails when there is none.
            let args = ["-D", "-f", family, "-p", proto, "--dport", &port.to_string()];
            let _: anyhow::Result<String> = self.node.host.output("conntrack", &args);
        }
    }

    /// Entries, when they are as many twice.
    fn at_rest(&self) -> anyhow::Result<u64> {
        let until = Instant::now() + DEADLINE;
        let mut last = kernel::count(&self.node.host)?;
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
            let now = kernel::count(&self.node.host)?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        anyhow::bail!("the table does not come to rest: {last}")
    }
}

/// How many cases a round has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Of each kind that the table is to do.
    pub(super) of_a_kind: usize,
    /// Of each look-alike at each place.
    pub(super) controls: usize,
}

/// What is done while the table is full.
#[derive(Debug)]
pub(super) struct Pressed {
    /// By pod: what comes to its end meanwhile, and what goes on until there is room.
    pub(super) now: Vec<(Vec<Script>, Vec<Script>)>,
    datagrams: Vec<(usize, Case)>,
    /// The same tuples again, when there is room.
    pub(super) reused: Vec<(usize, Script)>,
}

impl Pressed {
    /// Sends the datagrams.
    ///
    /// # Errors
    /// When one cannot be sent.
    pub(super) fn send(&mut self, full: &Full) -> anyhow::Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (pod, case) in self.datagrams.drain(..) {
            let number = u64::from(case.from.port());
            full.netns(pod).run(|| datagrams(case.from, case.to, &[number])).context("a datagram")?;
            cases.push(case);
        }
        Ok(cases)
    }
}

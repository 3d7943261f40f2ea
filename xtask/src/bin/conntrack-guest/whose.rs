//! Whose a connection is: for every kind of sender and receiver that a node has, its entries are exactly that
//! owner's and that responder's, and nobody else's figures change.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::daemon::Daemon;
use crate::lab::books::tell_missed_runs;
use crate::lab::entries::{self, Ends};
use crate::lab::holdings::{Held, Holder, Holdings, cgroup, other, pod};
use crate::lab::kernel;
use crate::lab::nft;
use crate::lab::node::{NODE_PORT, NODES, Node, PORT, SERVICES, STRANGERS};
use crate::lab::process::Process;
use crate::lab::workload::{HostNetworkPod, Wiring, Workload};

mod latecomer;
mod scenes;

pub(crate) const LOG: &str = "/tmp/conntrack-pressure.log";
const SERVICE_UNIT: &str = "/system.slice/backup.service";
/// For the kernel to have done what it was asked to.
const DEADLINE: Duration = Duration::from_secs(20);
/// A mesh's rules in a pod: what goes to one port is turned to a proxy in the pod.
const MESH: &str = "table inet mesh { \
    chain out { type nat hook output priority -100; meta l4proto { tcp, udp } th dport 15999 redirect to :15001; }; \
    chain in { type filter hook input priority 0; ct state new counter; }; }";
const MESH_PORT: u16 = 15_999;
const PROXY_PORT: u16 = 15_001;

/// All who take part.
pub(crate) struct Cast {
    node: Node,
    bridged: Workload,
    bridged_too: Workload,
    routed: Workload,
    routed_too: Workload,
    mesh: Workload,
    host_network: HostNetworkPod,
    service: Process,
    /// In the root cgroup.
    itself: Process,
}

impl Cast {
    fn assemble() -> anyhow::Result<Self> {
        let node = Node::build()?;
        let bridged = Workload::start(&node, Wiring::Bridged, 2, "bridged")?;
        let bridged_too = Workload::start(&node, Wiring::Bridged, 3, "bridged-too")?;
        let routed = Workload::start(&node, Wiring::Routed, 2 + 10, "routed")?;
        let routed_too = Workload::start(&node, Wiring::Routed, 3 + 10, "routed-too")?;
        let mut mesh = Workload::start(&node, Wiring::Routed, 20, "mesh")?;
        nft::load(&mesh.process.netns, MESH)?;
        kernel::set(&mesh.process.netns, "udp_timeout", 600)?;
        mesh.process.listen(PROXY_PORT)?;
        node.serve(bridged_too.addresses)?;
        let mut host_network = HostNetworkPod::start(30, "host-network")?;
        host_network.process.listen(8_080)?;
        let mut service = Process::on_the_node(SERVICE_UNIT)?;
        service.listen(8_081)?;
        let itself = Process::on_the_node("")?;
        Ok(Self { node, bridged, bridged_too, routed, routed_too, mesh, host_network, service, itself })
    }

    fn everyone(&mut self) -> [&mut Process; 9] {
        [
            &mut self.itself,
            &mut self.service,
            &mut self.host_network.process,
            &mut self.mesh.process,
            &mut self.routed_too.process,
            &mut self.routed.process,
            &mut self.bridged_too.process,
            &mut self.bridged.process,
            &mut self.node.outside,
        ]
    }

    /// Ends all connections, client ends first or last, and empties both tables.
    fn clear(&mut self) -> anyhow::Result<()> {
        self.everyone().into_iter().try_for_each(Process::close)?;
        for netns in [&self.node.host, &self.mesh.process.netns] {
            kernel::empty(netns)?;
        }
        Ok(())
    }
}

/// Who connects where, and whose that is.
pub(crate) struct Scene {
    what: &'static str,
    who: fn(&mut Cast) -> &mut Process,
    /// Sent from here; None: as the kernel chooses.
    source: [Option<std::net::IpAddr>; 2],
    to: [(std::net::IpAddr, u16); 2],
    /// The entry in the node's table; None: there is none.
    on_node: Option<OnNode>,
    /// Entries in the table of the pod `mesh`.
    in_mesh: bool,
}

/// What the node's table has of a scene.
struct OnNode {
    /// v4 and v6, as the kernel lists them.
    ends: [Ends; 2],
    owner: Holder,
    responder: Option<Holder>,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let mut cast = Cast::assemble()?;
    cast.clear()?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    let mut connections = 0;
    let scenes = scenes::all(&cast);
    for (number, scene) in scenes.iter().enumerate() {
        connections += play(&mut daemon, &mut cast, scene, number as u64).context(scene.what)?;
    }
    println!("figure: whose: {connections} connections in {} scenes, each with its owner", scenes.len());
    latecomer::comes(&mut daemon, &cast.node)?;
    tell_missed_runs(&daemon.page()?);
    daemon.stop()
}

/// Connections of both families; returns how many.
fn play(daemon: &mut Daemon, cast: &mut Cast, scene: &Scene, number: u64) -> anyhow::Result<u64> {
    // Different in each scene, so that no figure fits by chance.
    let (streams, datagrams) = (5 + number, 3 + number % 4);
    let before = Holdings::read(&daemon.page()?)?;
    for (source, to) in scene.source.into_iter().zip(scene.to) {
        let process = (scene.who)(cast);
        process.tcp(source, to.into(), streams)?;
        let sent = process.udp(source, to.into(), datagrams)?;
        ensure!(sent == [datagrams, 0], "datagrams sent and refused: {sent:?}");
    }
    let each = streams + datagrams;
    let all = 2 * each;
    let node = if scene.on_node.is_some() { all } else { 0 };
    let mesh = if scene.in_mesh { all } else { 0 };
    counted(&cast.node.host, node).context("the node's table")?;
    counted(&cast.mesh.process.netns, mesh).context("the pod's own table")?;
    if let Some(on_node) = &scene.on_node {
        let listed = entries::list(&cast.node.host)?;
        for ends in on_node.ends {
            let found = listed.iter().filter(|found| **found == ends).count() as u64;
            ensure!(found == each, "the kernel lists {found} of {ends:?}, {each} were made: {listed:?}");
        }
    }
    let page = daemon.page()?;
    let now = Holdings::read(&page)?;
    let sums = [now.sum("host"), now.sum("pod")];
    ensure!(sums == [node, mesh].map(u64::cast_signed), "sums over owners {sums:?}, not {node} and {mesh}");
    let (owned, answered) = (
        Held { entries: all.cast_signed(), inserts: all.cast_signed(), ..Held::default() },
        Held { answers: all.cast_signed(), ..Held::default() },
    );
    let mut wanted = Vec::new();
    if let Some(on_node) = &scene.on_node {
        wanted.push((on_node.owner.clone(), owned));
        wanted.extend(on_node.responder.clone().map(|responder| (responder, answered)));
    }
    if scene.in_mesh {
        wanted.push((pod("pod", "mesh"), owned));
    }
    now.since(&before).must_be(scene.what, &wanted)?;
    cast.clear()?;
    let left = Holdings::read(&daemon.page()?)?;
    let held: Vec<_> = left.0.iter().filter(|(_, held)| held.entries != 0 || held.answers != 0).collect();
    ensure!(held.is_empty(), "the tables are empty, but not the books: {held:?}");
    println!("figure: whose: {}: {all}", scene.what);
    Ok(all)
}

/// Waits until the kernel counts so many.
fn counted(netns: &crate::lab::netns::Netns, wanted: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let count = kernel::count(netns)?;
        if count == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            let list = entries::list(netns)?;
            anyhow::bail!("nf_conntrack_count is {count}, {wanted} connections were made: {list:?}");
        }
    }
}

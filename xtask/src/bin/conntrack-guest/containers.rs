//! Real containers, made by podman and runc: each entry of the kernel's list is exactly its container's.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::daemon::Daemon;
use crate::lab::books::tell_missed_runs;
use crate::lab::container::Container;
use crate::lab::entries::{self, Ends};
use crate::lab::holdings::{Held, Holder, Holdings, cgroup, cgroup_inside, pod};
use crate::lab::kernel;
use crate::lab::nft;
use crate::lab::node::{NODES, Node, PORT, STRANGERS};
use crate::lab::process::Process;
use crate::lab::workload::{self, Wiring, wire};

const LOG: &str = "/tmp/conntrack-pressure.log";
/// For the kernel to have done what it was asked to.
const DEADLINE: Duration = Duration::from_secs(30);
/// The daemon looks around once a second; guests are slow.
const SOON: Duration = Duration::from_secs(15);

/// Rules that give a namespace a table of its own.
const TRACKED: &str =
    "table inet own { chain out { type filter hook output priority 0; ct state new counter; }; }";
/// Where ids of processes go on.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// What one of them does, and whose that is.
struct Scene<'a> {
    what: &'static str,
    process: &'a mut Process,
    from: [IpAddr; 2],
    to: [IpAddr; 2],
    owner: Holder,
    responder: Option<Holder>,
    /// Whose the entries in the namespace's own table are. None: it has no table.
    inside: Option<Holder>,
}

pub(crate) fn test() -> anyhow::Result<()> {
    let mut node = Node::build()?;
    let started = Instant::now();
    let mut alone = Container::of_podman("alone", "none")?;
    let alone_at = wire(&node, Wiring::Bridged, 2, alone.pid, &alone.process.netns)?;
    let mut on_host = Container::of_podman("on-host", "host")?;
    // Who made a namespace has not always the lowest id: they begin anew some day.
    std::fs::write(LAST_PID, "20000").context(LAST_PID)?;
    let mut maker = Container::of_podman("maker", "none")?;
    std::fs::write(LAST_PID, "10000").context(LAST_PID)?;
    let shared = wire(&node, Wiring::Routed, 12, maker.pid, &maker.process.netns)?;
    let mut joined = Container::of_podman("joined", "container:maker")?;
    ensure!(joined.process.netns.inum == maker.process.netns.inum, "they share no namespace");
    ensure!(joined.pid < maker.pid, "the later one's id is {}, the first one's {}", joined.pid, maker.pid);
    let (mut by_cgroupfs, cgroupfs_at, _logs) = in_a_pod(&node, Wiring::Bridged, 30, "by-cgroupfs")?;
    let (mut by_systemd, systemd_at, _logs_too) = in_a_pod(&node, Wiring::Routed, 31, "by-systemd")?;
    println!(
        "figure: containers: 4 of podman and 2 of runc started in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    by_cgroupfs.process.listen(PORT)?;
    let (maker_owns, joined_owns) = (cgroup(&maker.cgroup), cgroup(&joined.cgroup));

    let mut daemon = Daemon::start(LOG, "confirm")?;
    let scenes = [
        scene("podman, a namespace of its own", &mut alone.process, alone_at, cgroup(&alone.cgroup)),
        scene("podman, the host's network", &mut on_host.process, NODES, cgroup(&on_host.cgroup)),
        scene(
            "podman, who made a namespace that another shares",
            &mut maker.process,
            shared,
            maker_owns.clone(),
        ),
        scene("podman, who shares it", &mut joined.process, shared, maker_owns.clone()),
        scene(
            "runc, a pod's cgroup by cgroupfs",
            &mut by_cgroupfs.process,
            cgroupfs_at,
            pod("host", "by-cgroupfs"),
        ),
        scene(
            "runc, a pod's cgroup by systemd",
            &mut by_systemd.process,
            systemd_at,
            pod("host", "by-systemd"),
        ),
    ];
    let mut connections = 0;
    for (number, mut scene) in scenes.into_iter().enumerate() {
        connections += play(&mut daemon, &mut node, &mut scene, 5 + number as u64).context(scene.what)?;
    }
    let mut scene = scene("podman to a pod of runc's", &mut alone.process, alone_at, cgroup(&alone.cgroup));
    scene.to = cgroupfs_at;
    scene.responder = Some(pod("host", "by-cgroupfs"));
    connections += play(&mut daemon, &mut node, &mut scene, 20)?;

    nft::load(&maker.process.netns, TRACKED)?;
    let mut scene =
        self::scene("podman, who shares it, with a table", &mut joined.process, shared, maker_owns);
    scene.inside = Some(cgroup_inside(&maker.cgroup));
    connections += play(&mut daemon, &mut node, &mut scene, 25)?;

    // Who is left in a namespace has it.
    maker.kill()?;
    let deadline = Instant::now() + SOON;
    loop {
        let left = &mut joined.process;
        let mut scene = self::scene("podman, who is left in a namespace", left, shared, joined_owns.clone());
        scene.inside = Some(cgroup_inside(&joined.cgroup));
        match play(&mut daemon, &mut node, &mut scene, 30) {
            Ok(made) => break connections += made,
            Err(error) => ensure!(Instant::now() < deadline, "{error:#}"),
        }
        clear(&mut node, &mut joined.process)?;
    }
    println!("figure: containers: {connections} connections in 9 scenes, each with its owner");
    tell_missed_runs(&daemon.page()?);
    daemon.stop()
}

/// A container of runc's that is a pod's, with its addresses and log directory.
fn in_a_pod(
    node: &Node,
    wiring: Wiring,
    number: u16,
    name: &str,
) -> anyhow::Result<(Container, [IpAddr; 2], workload::Logs)> {
    let container = Container::of_runc(name, &workload::cgroup(wiring, number))?;
    let addresses = wire(node, wiring, number, container.pid, &container.process.netns)?;
    Ok((container, addresses, workload::logs(number, name)?))
}

fn scene<'a>(what: &'static str, process: &'a mut Process, from: [IpAddr; 2], owner: Holder) -> Scene<'a> {
    Scene { what, process, from, to: STRANGERS, owner, responder: None, inside: None }
}

/// Connections of both families, so many each of TCP and UDP; returns how many in all.
fn play(daemon: &mut Daemon, node: &mut Node, scene: &mut Scene<'_>, each: u64) -> anyhow::Result<u64> {
    let before = Holdings::read(&daemon.page()?)?;
    for to in scene.to {
        scene.process.tcp(None, (to, PORT).into(), each)?;
        // To a port each: of many sockets two may get the same port of their own by chance, and so one entry.
        let sent = scene.process.ask(&format!("spray - {to} 0 {each}"))?;
        ensure!(sent == [each, 0], "datagrams sent and refused: {sent:?}");
    }
    let all = 4 * each;
    let inside = scene.inside.as_ref().map(|_| &scene.process.netns);
    let deadline = Instant::now() + DEADLINE;
    for netns in [&node.host].into_iter().chain(inside) {
        while kernel::count(netns)? != all {
            ensure!(Instant::now() < deadline, "not {all} entries: {:?}", entries::list(netns)?);
        }
    }
    let listed = entries::list(&node.host)?;
    for (from, answering) in scene.from.into_iter().zip(scene.to) {
        let found = listed.iter().filter(|ends| **ends == Ends { from, answering }).count() as u64;
        ensure!(found == 2 * each, "of {from} the kernel lists {found}, {} were made: {listed:?}", 2 * each);
    }
    let now = Holdings::read(&daemon.page()?)?;
    let all_signed = all.cast_signed();
    let sums = [now.sum("host"), now.sum("netns")];
    let wanted = [all_signed, inside.map_or(0, |_| all_signed)];
    ensure!(sums == wanted, "the sums over owners are {sums:?}, not {wanted:?}");
    let owned = Held { entries: all_signed, inserts: all_signed, ..Held::default() };
    let answered = Held { answers: all_signed, ..Held::default() };
    let responder = scene.responder.iter().map(|responder| (responder.clone(), answered));
    let owners = [&scene.owner].into_iter().chain(&scene.inside).map(|owner| (owner.clone(), owned));
    let wanted: Vec<_> = owners.chain(responder).collect();
    now.since(&before).must_be(scene.what, &wanted)?;
    clear(node, scene.process)?;
    let left = Holdings::read(&daemon.page()?)?;
    ensure!(left.0.values().all(|held| held.entries == 0 && held.answers == 0), "still held: {left:?}");
    println!("figure: containers: {}: {all}", scene.what);
    Ok(all)
}

/// Ends its connections, at both ends, or another's from the same address and port would find the old one there; and
/// empties the tables.
fn clear(node: &mut Node, process: &mut Process) -> anyhow::Result<()> {
    process.close()?;
    node.outside.close()?;
    kernel::empty(&node.host)?;
    kernel::empty(&process.netns)
}

//! Reads what this host's kernel counts in namespaces made for it, beside what `conntrack` prints there.
//! Needs root, ip, nft and conntrack; says so and passes where one is missing.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as the test does")]

mod netns_pair;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use conntrack_common::Tuple;
use conntrack_user::drain::ct_entry::Entry;
use conntrack_user::drain::ctnetlink::{self, Family};
use conntrack_user::drain::kernel_stats::StatsAccumulator;
use conntrack_user::drain::netns::{Namespace, in_namespace, list_namespaces, scan_namespaces};
use conntrack_user::drain::nftables::{self, Ruleset};
use conntrack_user::drain::{netns_enter, presence, rtnetlink};

use netns_pair::{Netns, pair, ready};

const PROC: &str = "/proc";

/// One datagram from each of `ports`.
fn send(from: IpAddr, to: IpAddr, ports: std::ops::Range<u16>, dport: u16) {
    for port in ports {
        let socket = UdpSocket::bind((from, port)).unwrap();
        socket.send_to(b"x", (to, dport)).unwrap();
    }
}

fn near4() -> IpAddr {
    "10.99.0.1".parse().unwrap()
}

fn far4() -> IpAddr {
    "10.99.0.2".parse().unwrap()
}

/// ICMP messages of one type from the namespace of the thread.
fn send_icmp(kind: u8, id: u16, count: u16) {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketType, ipproto, sendto, socket};
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    let far = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 0);
    for sequence in 0..count {
        let mut message = [kind, 0, 0, 0, 0, 0, 0, 0];
        message[4..6].copy_from_slice(&id.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        let words = message.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
        let sum: u32 = words.sum();
        let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        sendto(&socket, &message, SendFlags::empty(), &far).unwrap();
    }
}

fn dump(family: Option<Family>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let summary = ctnetlink::dump(family, |entry| entries.push(entry)).unwrap();
    assert_eq!((summary.entries, summary.malformed), (entries.len() as u64, 0));
    assert!(!summary.interrupted);
    entries
}

fn addresses_of(tuple: &Tuple) -> (IpAddr, IpAddr) {
    let ip = |half: [u64; 2]| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&half[0].to_ne_bytes());
        bytes[8..].copy_from_slice(&half[1].to_ne_bytes());
        match tuple.l3num {
            2 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap()),
            10 => IpAddr::from(bytes),
            other => panic!("family {other}"),
        }
    };
    (ip(tuple.saddr), ip(tuple.daddr))
}

/// An entry as `conntrack -L` prints its tuples.
fn printed(entry: &Entry) -> String {
    let direction = |tuple: &Tuple| {
        let (src, dst) = addresses_of(tuple);
        match tuple.protonum {
            1 => format!(
                "src={src} dst={dst} type={} code={} id={}",
                tuple.dport >> 8,
                tuple.dport & 255,
                tuple.sport
            ),
            _ => format!("src={src} dst={dst} sport={} dport={}", tuple.sport, tuple.dport),
        }
    };
    format!("{} {}", direction(&entry.orig), direction(&entry.reply))
}

/// The tuples in the output of `conntrack -L`.
fn listed(netns: &Netns, family: &str) -> Vec<String> {
    let text = netns.run(&["conntrack", "-L", "-f", family]);
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| {
            let wanted = ["src=", "dst=", "sport=", "dport=", "type=", "code=", "id="];
            let fields =
                line.split_whitespace().filter(|field| wanted.iter().any(|key| field.starts_with(key)));
            fields.collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn entries_and_counts_are_those_of_the_conntrack_tool() {
    if !ready() {
        return;
    }
    let (near, _far) = pair("dump");
    near.inside(|| {
        send(near4(), far4(), 20_000..20_500, 4000);
        send(near4(), far4(), 21_000..21_003, 4007);
        send(near4(), far4(), 22_000..22_004, 4042);
        send(near4(), far4(), 23_000..23_005, 5353);
        send("fd99::1".parse().unwrap(), "fd99::2".parse().unwrap(), 24_000..24_006, 4000);
        send_icmp(8, 0x1234, 1);
    });

    let (all, v4, v6) = near.inside(|| (dump(None), dump(Some(Family::V4)), dump(Some(Family::V6))));
    assert_eq!(v4.len() + v6.len(), all.len());
    for (entries, family) in [(&v4, "ipv4"), (&v6, "ipv6")] {
        let mut lines: Vec<_> = entries.iter().map(printed).collect();
        lines.sort();
        assert_eq!(lines, listed(&near, family), "{family}");
    }
    let to =
        |port: u16| all.iter().filter(move |entry| entry.orig.protonum == 17 && entry.orig.dport == port);
    assert_eq!(to(4000).count(), 506);
    let ports: BTreeSet<u16> = to(4000).map(|entry| entry.orig.sport).collect();
    assert!((20_000..20_500).chain(24_000..24_006).all(|port| ports.contains(&port)));
    assert!(to(4000).all(|entry| entry.orig.flow_key() == entry.reply.flow_key() && entry.zone == 0));
    assert_eq!(to(4007).filter(|entry| entry.zone == 7).count(), 3);
    assert_eq!(to(4042).filter(|entry| entry.mark == Some(0x2a)).count(), 4);
    assert_eq!(to(5353).filter(|entry| entry.reply.sport == 53).count(), 5, "translated");
    const IPS_CONFIRMED: u32 = 8;
    assert!(all.iter().all(|entry| entry.status & IPS_CONFIRMED != 0));
    let ping = all.iter().find(|entry| entry.orig.protonum == 1).unwrap();
    assert_eq!((ping.orig.sport, ping.orig.dport, ping.reply.dport), (0x1234, 0x0800, 0));

    let (counts, count, max, buckets) = near.inside(|| {
        let procfs = Path::new(PROC);
        let numbers = (presence::count(procfs), presence::max(procfs), presence::buckets(procfs));
        (ctnetlink::table_counts().unwrap(), numbers.0.unwrap(), numbers.1.unwrap(), numbers.2.unwrap())
    });
    println!("{} entries dumped, counts {counts:?}, nf_conntrack_count {count}, max {max}", all.len());
    assert_eq!(counts.entries, all.len() as u64);
    assert_eq!(count, counts.entries);
    assert_eq!(counts.limit, Some(max));
    assert!(buckets > 0);
    let read =
        |name: &str| near.run(&["cat", &format!("/proc/sys/net/netfilter/{name}")]).trim().parse::<u64>();
    assert_eq!(read("nf_conntrack_count"), Ok(count));
    assert_eq!(read("nf_conntrack_max"), Ok(max));

    near.run(&["conntrack", "-D", "-f", "ipv4"]);
    near.run(&["conntrack", "-D", "-f", "ipv6"]);
    assert!(near.inside(|| dump(None)).is_empty());
    // A deleted entry counts until the last packet that refers to it is gone.
    let deadline = Instant::now() + Duration::from_secs(10);
    while near.inside(|| ctnetlink::table_counts().unwrap().entries) != 0 {
        assert!(Instant::now() < deadline, "entries still counted after all were deleted");
        std::thread::yield_now();
    }
}

#[test]
fn a_large_table_is_dumped_whole() {
    if !ready() {
        return;
    }
    const ENTRIES: usize = 60_000;
    let (near, _far) = pair("large");
    near.inside(|| {
        // To discard, from few sockets: one connection for each pair of ports. The peer's refusals are not read.
        for port in 30_000..30_002 {
            let socket = UdpSocket::bind((near4(), port)).unwrap();
            for dport in 6_000..36_000 {
                socket.send_to(b"x", (far4(), dport)).unwrap();
            }
        }
        let (mut entries, mut flows) = (0, BTreeSet::new());
        let begin = Instant::now();
        let summary =
            ctnetlink::dump(None, |entry| entries += usize::from(entry.orig.protonum == 17)).unwrap();
        println!("dumped {} entries in {:?}: {summary:?}", summary.entries, begin.elapsed());
        ctnetlink::dump(None, |entry| {
            flows.insert((entry.orig.protonum, entry.orig.sport, entry.orig.dport));
        })
        .unwrap();
        assert_eq!((entries, summary.malformed), (ENTRIES, 0));
        assert_eq!(flows.iter().filter(|flow| flow.0 == 17).count(), ENTRIES);
    });
}

#[test]
fn statistics_are_those_of_the_conntrack_tool() {
    if !ready() {
        return;
    }
    let (near, _far) = pair("stats");
    let mut sums = StatsAccumulator::default();
    let before = sums.add(&near.inside(|| ctnetlink::cpu_stats().unwrap()));
    assert_eq!(before.invalid, Some(0));
    // An echo reply that nobody asked for is INVALID.
    near.inside(|| send_icmp(0, 1, 7));
    near.inside(|| send(near4(), far4(), 20_000..20_010, 4000));

    let stats = near.inside(|| ctnetlink::cpu_stats().unwrap());
    let after = sums.add(&stats);
    assert_eq!(after.invalid, Some(7));
    assert_eq!(after.drop, Some(0));
    let cpus: BTreeSet<u32> = stats.iter().map(|cpu| cpu.cpu).collect();
    assert_eq!(cpus.len(), stats.len(), "each CPU once");

    let text = near.run(&["conntrack", "-S"]);
    assert_eq!(text.lines().count(), stats.len());
    for line in text.lines() {
        let field = |name: &str| {
            line.split_whitespace().find_map(|field| {
                let (key, value) = field.split_once('=')?;
                (key.trim_end() == name).then(|| value.parse::<u32>().unwrap())
            })
        };
        let cpu = stats.iter().find(|cpu| Some(cpu.cpu) == field("cpu")).unwrap();
        for (name, ours) in [
            ("found", cpu.found),
            ("invalid", cpu.invalid),
            ("insert", cpu.insert),
            ("insert_failed", cpu.insert_failed),
            ("drop", cpu.drop),
            ("early_drop", cpu.early_drop),
            ("error", cpu.error),
            ("search_restart", cpu.search_restart),
        ] {
            assert!(ours.is_some() && ours == field(name), "{name}: {ours:?}, and in {line:?}");
        }
    }
    println!("after 7 unasked echo replies: {after:?}");
}

#[test]
fn addresses_and_devices_of_a_namespace() {
    if !ready() {
        return;
    }
    let (near, far) = pair("route");
    near.run(&["ip", "link", "add", "br0", "type", "bridge"]);
    let addresses: BTreeSet<IpAddr> = near.inside(|| rtnetlink::addresses().unwrap()).into_iter().collect();
    for address in ["127.0.0.1", "::1", "10.99.0.1", "fd99::1"] {
        assert!(addresses.contains(&address.parse().unwrap()), "{address} in {addresses:?}");
    }
    assert!(!addresses.contains(&far4()), "the peer's is not ours");

    let links = near.inside(|| rtnetlink::links().unwrap());
    let far_links = far.inside(|| rtnetlink::links().unwrap());
    let named = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    let peer = far_links.iter().find(|link| link.name == "far0").unwrap();
    assert_eq!(named("near0").kind.as_deref(), Some("veth"));
    assert_eq!(named("near0").peer_ifindex, Some(peer.index));
    assert!(named("near0").peer_nsid.is_some());
    assert_eq!(named("br0").kind.as_deref(), Some("bridge"));
    assert_eq!((named("lo").index, named("lo").peer_ifindex, &named("lo").kind), (1, None, &None));
}

/// A process, ended when dropped.
struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find(inum: u32) -> Option<Namespace> {
    list_namespaces(Path::new(PROC)).unwrap().into_iter().find(|namespace| namespace.inum == inum)
}

#[test]
fn namespaces_by_mount_and_by_process() {
    if !ready() {
        return;
    }
    let own = netns_enter::own_inum().unwrap();
    let netns = Netns::new("list");
    let inum = netns.inum();

    let by_mount = find(inum).unwrap();
    assert!(by_mount.pids.is_empty() && !by_mount.host);
    let links = in_namespace(&by_mount.path, inum, || rtnetlink::links().unwrap()).unwrap();
    assert!(links.iter().any(|link| link.name == "lo"));
    assert_eq!(netns_enter::own_inum().unwrap(), own, "the caller's thread did not move");

    let sleeper =
        Sleeper(Command::new("ip").args(["netns", "exec", &netns.0, "sleep", "600"]).spawn().unwrap());
    // `ip` enters the namespace some time after it was started.
    let deadline = Instant::now() + Duration::from_secs(10);
    let by_process = loop {
        let found = find(inum).unwrap();
        if !found.pids.is_empty() {
            break found;
        }
        assert!(Instant::now() < deadline, "the process is not seen in the namespace");
    };
    assert_eq!(by_process.pids, [sleeper.0.id()]);
    assert_eq!(by_process.path, Path::new(PROC).join(format!("{}/ns/net", sleeper.0.id())));
    assert!(in_namespace(&by_process.path, inum, || ()).is_ok());
    drop(sleeper);
    let gone = in_namespace(&by_process.path, inum, || ()).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);

    // Nothing of ours keeps it alive.
    drop(netns);
    assert_eq!(find(inum), None);

    let begin = Instant::now();
    let scan = scan_namespaces(Path::new(PROC)).unwrap();
    let took = begin.elapsed();
    let all = scan.namespaces;
    let processes: usize = all.iter().map(|namespace| namespace.pids.len()).sum();
    println!("{} namespaces, {processes} processes named, {} denied, in {took:?}", all.len(), scan.denied);
    assert_eq!(all.iter().filter(|namespace| namespace.host).count(), 1);
    let inums: BTreeSet<u32> = all.iter().map(|namespace| namespace.inum).collect();
    assert_eq!(inums.len(), all.len());
}

/// A ruleset made by `nft` is read as such over netlink.
#[test]
fn rules_that_concern_tracking() {
    if !ready() {
        return;
    }
    let netns = netns_pair::Netns::new("rules");
    let read = || netns.inside(|| nftables::read().unwrap());
    assert_eq!(read(), Ruleset::default());
    netns.run(&["nft", "table inet plain { chain c { ct state new counter; ct zone 7 drop; }; }"]);
    assert_eq!(read(), Ruleset::default(), "none of these");
    netns.run(&[
        "nft",
        "table inet t {
            chain raw { type filter hook prerouting priority raw; udp dport 4007 ct zone set 7; tcp dport 9 notrack; }
        }
        table ip kube-proxy { chain services { ip daddr 10.0.0.1 counter; }; }",
    ]);
    let found = read();
    assert!(found.zones.iter().eq(["inet t raw"]) && found.notrack.iter().eq(["inet t raw"]), "{found:?}");
    assert!(found.flowtables.is_empty() && found.kube_proxy, "{found:?}");
    let flowtable = "add flowtable inet t ft { hook ingress priority 0; devices = { lo }; }";
    if netns.tries(&["nft", flowtable]) {
        let found = read();
        assert!(found.flowtables.iter().eq(["inet t ft"]) && !found.hardware, "{found:?}");
    } else {
        println!("skipped: this kernel has no flow tables");
    }
    netns.run(&["nft", "flush ruleset"]);
    assert_eq!(read(), Ruleset::default());
}

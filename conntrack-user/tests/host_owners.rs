//! Owners found on this host, by way of namespaces made for it.
//! Needs root, ip, nft and conntrack; says so and passes where one is missing.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as the test does")]

mod netns_pair;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use conntrack_user::attribute::index::{OwnerIndex, Query};
use conntrack_user::attribute::survey::Survey;
use conntrack_user::cli::MechanismArg;
use conntrack_user::config::System;
use conntrack_user::drain::netns::{Namespace, list_namespaces};
use conntrack_user::drain::rtnetlink;

use netns_pair::{Netns, pair, ready};

const PROC: &str = "/proc";

fn system() -> System {
    System {
        procfs: PROC.into(),
        sysfs: "/sys".into(),
        cgroupfs: "/sys/fs/cgroup".into(),
        podlogs: PathBuf::from("/nonexistent"),
        mechanism: MechanismArg::None,
        refuse_probes: Vec::new(),
    }
}

/// A process in a namespace, ended when dropped.
struct Process(Child);

impl Process {
    fn inside(netns: &Netns) -> Self {
        Self(Command::new("ip").args(["netns", "exec", &netns.0, "sleep", "1000"]).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both ends of a veth know each other over the kernel's ids of namespaces, whichever ids it gave.
#[test]
fn the_other_end_of_a_veth() {
    if !ready() {
        return;
    }
    let (near, far) = pair("peer");
    let third = Netns::new("peer-c");
    let others = [(far.inum(), far.path()), (third.inum(), third.path())];
    let (link, ids) = near.inside(|| {
        let links = rtnetlink::links().unwrap();
        let ids =
            rtnetlink::namespace_ids(others.iter().map(|(inum, path)| (*inum, path.as_path()))).unwrap();
        (links.into_iter().find(|l| l.name == "near0").unwrap(), ids)
    });
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert_eq!(ids.get(&link.peer_nsid.unwrap()), Some(&far.inum()));
    assert_eq!(ids.len(), 1, "no device leads to the third: it has no id here");
    let wrong = [(far.inum() + 1, far.path())];
    let wrong =
        near.inside(|| rtnetlink::namespace_ids(wrong.iter().map(|(i, p)| (*i, p.as_path()))).unwrap());
    assert!(wrong.is_empty(), "another namespace than was meant");
}

/// The survey sees the same: the namespace at the other end owns what comes in by the device, whatever its source
/// address, and a link that comes later is seen at the next round.
#[test]
fn what_comes_in_by_a_device_is_of_the_other_end() {
    if !ready() {
        return;
    }
    let (near, far) = pair("survey");
    let tenant = Process::inside(&far);
    let settled = |pid: u32| std::fs::read_link(format!("{PROC}/{pid}/ns/net")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while settled(tenant.0.id()).to_str() != Some(&format!("net:[{}]", far.inum())) {
        assert!(Instant::now() < deadline, "the process never entered its namespace");
        std::thread::yield_now();
    }
    // Seen from `near`, as if that were the host's.
    let namespaces = || {
        let all = list_namespaces(PROC.as_ref()).unwrap();
        let ours = all.into_iter().filter(|n| [near.inum(), far.inum()].contains(&n.inum));
        ours.map(|n| Namespace { host: n.inum == near.inum(), ..n }).collect::<Vec<_>>()
    };
    let (mut survey, now) = (Survey::default(), Instant::now());
    let found = survey.index(&system(), &namespaces(), now).unwrap();
    assert!(found.complete);
    let near0 = near.inside(|| rtnetlink::links().unwrap().into_iter().find(|l| l.name == "near0").unwrap());
    assert_eq!(found.index.device(near.inum(), near0.index), Some("near0"));
    let by_device =
        found.index.resolve(&Query { netns: near.inum(), ifindex: Some(near0.index), ..Query::default() });
    let owner = found.index.owner_of_netns(far.inum());
    println!("owner of the far namespace: {owner:?}");
    // Run from a root cgroup the process proves no owner; from any other, the same one both ways.
    assert_eq!(by_device.owner, owner);
    quiet(&mut survey, &namespaces, now);
    near.run(&["ip", "link", "add", "later0", "type", "veth", "peer", "name", "later1"]);
    let later = survey.index(&system(), &namespaces(), now).expect("a device came").index;
    let later0 =
        near.inside(|| rtnetlink::links().unwrap().into_iter().find(|l| l.name == "later0").unwrap());
    assert_eq!(later.device(near.inum(), later0.index), Some("later0"));
    quiet(&mut survey, &namespaces, now);
    near.run(&["ip", "addr", "add", "10.98.0.1/32", "dev", "lo"]);
    assert!(survey.index(&system(), &namespaces(), now).is_some(), "an address came");
}

/// An address that a pod gets while nothing of the host's changes is heard of, and known in the index made then: not
/// only when the time has come to look at everything again.
#[test]
fn an_address_that_comes_later_in_a_pod() {
    if !ready() {
        return;
    }
    let (near, far) = pair("late");
    let namespaces = || {
        let all = list_namespaces(PROC.as_ref()).unwrap();
        let ours = all.into_iter().filter(|n| [near.inum(), far.inum()].contains(&n.inum));
        ours.map(|n| Namespace { host: n.inum == near.inum(), ..n }).collect::<Vec<_>>()
    };
    let (mut survey, now) = (Survey::default(), Instant::now());
    let late: IpAddr = "10.99.0.77".parse().unwrap();
    let knows = |index: &OwnerIndex| index.addresses().any(|(address, _)| address == late);
    let first = survey.index(&system(), &namespaces(), now).unwrap();
    assert!(!knows(&first.index));
    quiet(&mut survey, &namespaces, now);
    let began = Instant::now();
    far.run(&["ip", "addr", "add", "10.99.0.77/24", "dev", "far0"]);
    let all = namespaces();
    let host = all.iter().find(|n| n.host);
    let deadline = began + Duration::from_secs(1);
    while !survey.stirred(host) {
        assert!(Instant::now() < deadline, "nothing was heard of it");
        std::thread::yield_now();
    }
    // No time has passed for the survey: it looks again because of what it heard.
    let found = survey.index(&system(), &all, now).expect("heard of it");
    println!("figure: a pod's new address known after {:?}", began.elapsed());
    assert!(knows(&found.index));
}

/// Looks until nothing changes any more: the kernel is not done with new devices when `ip` returns.
fn quiet(survey: &mut Survey, namespaces: &impl Fn() -> Vec<Namespace>, now: Instant) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while survey.index(&system(), &namespaces(), now).is_some() {
        assert!(Instant::now() < deadline, "something changes all the time");
    }
}

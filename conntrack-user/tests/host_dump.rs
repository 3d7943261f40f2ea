//! The tier without probes, on a full default table: entries made by ctnetlink in a namespace made for it, dumped,
//! read and given to their owners. Prints how long that takes; the counts are asserted, the time is not.
//! Needs root, ip and conntrack; says so and passes where one is missing.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as the test does")]

mod ct_fill;
#[allow(dead_code, reason = "this file needs one namespace only")]
mod netns_pair;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use conntrack_user::aggregate::dump_owners::DumpOwners;
use conntrack_user::aggregate::snapshot::Owners;
use conntrack_user::attribute::index::{Inputs, NamespaceFacts, OwnerIndex};
use conntrack_user::attribute::owner::Owner;
use conntrack_user::drain::{ctnetlink, presence, whole_dump};

use ct_fill::{Plan, fill};
use netns_pair::{Netns, ready};

/// A full default table of a host with more than 4 GiB.
const FULL: u32 = 262_144;
/// What a node is made for.
const PODS: u32 = 110;
/// Measurements of one thing; without optimization there is nothing to measure.
const ROUNDS: usize = if cfg!(debug_assertions) { 1 } else { 5 };
/// No namespace has it: the pods of the index have no process here.
const NOWHERE: u32 = 100;

/// The node's owners: the host, whose table is `netns`, and its pods.
fn index(netns: u32, plan: &Plan) -> OwnerIndex {
    let pods = (0..plan.pods).map(|pod| NamespaceFacts {
        netns: NOWHERE + pod,
        host: false,
        cgroups: vec![format!("/kubepods/burstable/pod{}", ct_fill::uid(pod)).into_bytes()],
        addresses: ct_fill::pod_addresses(pod).to_vec(),
    });
    let host = NamespaceFacts { netns, host: true, cgroups: Vec::new(), addresses: vec![ct_fill::host()] };
    OwnerIndex::new(Inputs {
        namespaces: pods.chain([host]).collect(),
        pods: Vec::new(),
        peers: Default::default(),
        devices: Default::default(),
        complete: true,
        cgroups: Vec::new(),
        cgroup: Box::new(|_| None),
    })
}

fn by_owner(owners: &Owners) -> BTreeMap<Owner, (i64, i64)> {
    owners.parts.iter().map(|p| (p.owner.clone(), (p.entries, p.responder_entries))).collect()
}

/// Time that passes, and the processor's on this thread: the kernel dumps within the thread's own calls.
#[derive(Clone, Copy)]
struct Began(Instant, Duration);

fn processor() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap())
}

impl Began {
    fn now() -> Self {
        Self(Instant::now(), processor())
    }

    fn took(self) -> (Duration, Duration) {
        (self.0.elapsed(), processor() - self.1)
    }
}

/// Both times.
fn told(times: Vec<(Duration, Duration)>) -> String {
    let (passed, processor) = times.into_iter().unzip();
    format!("{}, of the processor {}, {ROUNDS} rounds", spread(passed), spread(processor))
}

/// Median, least and greatest, in milliseconds.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.0} ms (least {:.0}, greatest {:.0})", ms(times[times.len() / 2]), ms(times[0]), {
        ms(times[times.len() - 1])
    })
}

#[test]
fn a_full_table_by_owner() {
    if !ready() {
        return;
    }
    let limit = presence::max(Path::new("/proc")).unwrap();
    let wanted = FULL.min(u32::try_from(limit).unwrap_or(u32::MAX));
    let netns = Netns::new("dump-owners");
    let plan = Plan { entries: wanted, pods: PODS };
    let began = Instant::now();
    let expected = netns.inside(|| fill(&plan));
    let filling = began.elapsed();

    let index = index(netns.inum(), &plan);
    let count = || -> i64 { netns.run(&["conntrack", "-C"]).trim().parse().unwrap() };
    let before = count();
    let (mut bare, mut whole, mut last) = (Vec::new(), Vec::new(), None);
    for _ in 0..ROUNDS {
        let (read, folded) = netns.inside(|| {
            let began = Began::now();
            let summary = ctnetlink::dump(None, |_| {}).unwrap();
            let read = (began.took(), summary);
            let began = Began::now();
            let begin = || DumpOwners::new(&index, netns.inum());
            let (folded, summary) = whole_dump::fold(None, begin, DumpOwners::add).unwrap();
            let owners = folded.finish();
            (read, (began.took(), summary, owners))
        });
        bare.push(read.0);
        whole.push(folded.0);
        assert_eq!(read.1, folded.1, "two dumps of a table at rest");
        assert_eq!((folded.1.malformed, folded.1.interrupted), (0, false));
        last = Some(folded.2);
    }
    let owners = last.unwrap();
    let sum: i64 = owners.parts.iter().map(|p| p.entries).sum();
    println!("figure: {sum} entries made by ctnetlink in {:.0} ms; the limit is {limit}", {
        filling.as_secs_f64() * 1e3
    });
    println!("figure: dump and parse of {sum} entries: {}", told(bare));
    println!("figure: dump, parse and owners ({}) of {sum} entries: {}", owners.parts.len(), told(whole));
    if wanted < FULL {
        println!("figure: fewer than {FULL} entries, since nf_conntrack_max is {limit}");
    }
    assert_eq!((before, count()), (sum, sum), "what the kernel counts in that namespace");
    assert_eq!(sum, i64::from(wanted));
    assert_eq!(by_owner(&owners), expected);
}

use super::super::index::{Inputs, NamespaceFacts, OwnerIndex};
use super::super::verdict::{Verdict, judge};
use super::*;

fn pod(number: u32) -> Owner {
    let uid = uid(number);
    Owner::Pod { namespace: String::new(), pod: uid.clone(), uid }
}

fn uid(number: u32) -> String {
    format!("{number:08x}-1111-4222-8333-1234567890ab")
}

fn service() -> Owner {
    Owner::Cgroup { cgroup: "/system.slice/proxy.service".to_owned() }
}

/// The host, a service, and these pods: the even ones in their own namespace, the others in the host's.
fn index(pods: impl Iterator<Item = u32>) -> OwnerIndex {
    let path = |number| format!("/kubepods/burstable/pod{}", uid(number)).into_bytes();
    let host = NamespaceFacts {
        netns: 1,
        host: true,
        cgroups: Vec::new(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
    };
    let (own, hosts): (Vec<u32>, Vec<u32>) = pods.partition(|number| number % 2 == 0);
    let own = own.into_iter().map(|number| NamespaceFacts {
        netns: 100 + number,
        host: false,
        cgroups: vec![path(number)],
        addresses: Vec::new(),
    });
    let cgroups = hosts.into_iter().map(|number| (u64::from(number), path(number)));
    OwnerIndex::new(Inputs {
        namespaces: own.chain([host]).collect(),
        pods: Vec::new(),
        peers: Default::default(),
        devices: Default::default(),
        complete: true,
        cgroups: cgroups.chain([(7_000_000, b"/system.slice/proxy.service".to_vec())]).collect(),
        cgroup: Box::new(|_| None),
    })
}

fn owners(ledger: &Ledger) -> BTreeSet<Owner> {
    let losses = ledger.losses().map(|(_, owner, _)| owner.clone());
    losses.chain(ledger.outcomes().into_iter().map(|count| count.owner)).collect()
}

fn verdict() -> Verdict {
    judge(EventKind::ResetSent, Some(EventKind::Invalid), 0).unwrap()
}

#[test]
fn who_is_gone_keeps_its_counters_a_while() {
    let (mut ledger, start) = (Ledger::default(), Instant::now());
    ledger.lost(EventKind::RefusedTableFull, "host", &pod(2), 3);
    ledger.outcome(&pod(2), &verdict(), 1);
    ledger.lost(EventKind::EvictedGc, "host", &pod(3), 1);
    let (both, one) = (index([2, 3].into_iter()), index([3].into_iter()));
    ledger.retire(both.owners(), start);
    ledger.retire(one.owners(), start + Duration::from_secs(1));
    let last = start + Duration::from_secs(1) + FORGET_AFTER - Duration::from_millis(1);
    ledger.retire(one.owners(), last);
    assert_eq!(owners(&ledger), BTreeSet::from([pod(2), pod(3)]));
    ledger.retire(one.owners(), last + Duration::from_millis(1));
    assert_eq!(owners(&ledger), BTreeSet::from([pod(3)]));
    assert!(ledger.gone.is_empty());
}

#[test]
fn who_comes_back_in_time_keeps_all() {
    let (mut ledger, start) = (Ledger::default(), Instant::now());
    ledger.lost(EventKind::RefusedTableFull, "host", &service(), 3);
    let (with, without) = (index([].into_iter()), index([].into_iter()));
    let without = without.owners().filter(|owner| **owner != service()).cloned().collect::<Vec<_>>();
    ledger.retire(&without, start);
    ledger.retire(with.owners(), start + FORGET_AFTER / 2);
    ledger.retire(&without, start + FORGET_AFTER);
    ledger.retire(&without, start + FORGET_AFTER * 3 / 2);
    assert_eq!(owners(&ledger), BTreeSet::from([service()]), "gone anew, and not long enough");
}

#[test]
fn the_few_kinds_are_never_gone() {
    let (mut ledger, start) = (Ledger::default(), Instant::now());
    for owner in [Owner::Host, Owner::External, Owner::Unknown] {
        ledger.lost(EventKind::RefusedTableFull, "host", &owner, 1);
    }
    ledger.retire([], start);
    ledger.retire([], start + FORGET_AFTER * 10);
    assert_eq!(owners(&ledger).len(), 3);
}

/// A thousand pods, one a second, each of them refused, evicted and reset, and gone after ten seconds.
#[test]
fn a_thousand_pods_come_and_go() {
    const STAY: u32 = 10;
    let (mut ledger, start) = (Ledger::default(), Instant::now());
    ledger.lost(EventKind::RefusedTableFull, "host", &Owner::External, 1);
    let mut most = 0;
    for second in 0..1_000 {
        for kind in [EventKind::RefusedTableFull, EventKind::EvictedEarlyDrop] {
            ledger.lost(kind, "host", &pod(second), 1);
        }
        ledger.lost(EventKind::Refused, "pod", &pod(second), 1);
        ledger.outcome(&pod(second), &verdict(), 1);
        let here = index((second + 1).saturating_sub(STAY)..second + 1);
        ledger.retire(here.owners(), start + Duration::from_secs(second.into()));
        most = most.max(ledger.losses.len() + ledger.outcomes.len() + ledger.gone.len());
        assert!(owners(&ledger).contains(&pod(second)), "who is here has its counters");
    }
    // Those here, and those of the last thirty seconds.
    let bound = (STAY as usize + FORGET_AFTER.as_secs() as usize + 1) * 4 + 1;
    println!("figure: the ledger held {most} rows at most while 1,000 pods came and went");
    assert!(most <= bound, "{most} rows, at most {bound} were to be");
    ledger.retire(index(std::iter::empty()).owners(), start + Duration::from_secs(1_000));
    ledger.retire(index(std::iter::empty()).owners(), start + Duration::from_secs(1_000) + FORGET_AFTER);
    assert_eq!(owners(&ledger), BTreeSet::from([Owner::External]));
}

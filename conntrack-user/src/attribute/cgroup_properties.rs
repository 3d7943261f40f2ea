//! Whatever the runtime, the driver and the hierarchy: the right owner, or none, never a wrong one.

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::cgroup_grammar::{Case, Whose, any_case, container, id, pod, service, uid};
use super::cgroup_path::{Workload, classify, printable};
use super::cgroup_tree::find_mount;
use super::netns_owner::{PodNames, owner_of_cgroup, owner_of_processes};
use super::owner::Owner;
use super::proc_cgroup::telling_path;

/// The hierarchies of v1, as a kernel lists them.
const V1: [&str; 12] = [
    "net_cls,net_prio",
    "perf_event",
    "pids",
    "cpuset",
    "blkio",
    "memory",
    "freezer",
    "devices",
    "cpu,cpuacct",
    "hugetlb",
    "rdma",
    "name=systemd",
];

fn owner(whose: &Whose) -> Owner {
    match whose {
        Whose::Pod(uid, _) => Owner::Pod { namespace: String::new(), pod: uid.clone(), uid: uid.clone() },
        Whose::Cgroup(path) => Owner::Cgroup { cgroup: printable(path) },
    }
}

fn lines(text: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (number, (controllers, path)) in text.iter().enumerate() {
        all.extend([format!("{number}:{controllers}:").as_bytes(), path, b"\n"].concat());
    }
    all
}

/// `/proc/PID/cgroup` of a process whose workload's path is `path`, on v2, v1 and hybrid hosts.
fn proc_file(path: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let own = path.clone();
    let v2 = Just(lines(&[("", &path)]));
    let v1 = {
        let path = path.clone();
        Just(V1.to_vec())
            .prop_shuffle()
            .prop_map(move |names| lines(&names.iter().map(|name| (*name, &path[..])).collect::<Vec<_>>()))
    };
    // Of the hierarchies that tell some are left at the root, as not every runtime fills all; the v2 line says the
    // same, or nothing, or where an older runtime left it.
    let telling = subsequence(vec!["name=systemd", "memory", "pids", "cpu,cpuacct"], 1..=4);
    let left = select(vec![&b"/"[..], b"/system.slice/containerd.service", b"="]);
    let hybrid = (telling, left, Just(V1.to_vec()).prop_shuffle()).prop_map(move |(telling, left, names)| {
        let unified = if left == b"=" { &own[..] } else { left };
        let v1 = names.iter().map(|name| (*name, if telling.contains(name) { &own[..] } else { b"/" }));
        lines(&v1.chain([("", unified)]).collect::<Vec<_>>())
    });
    prop_oneof![v2, v1, hybrid]
}

fn hybrid_holds(whose: &Whose) -> bool {
    // A service in v1 beside containerd's own line in v2: two services, of which the v2 line is meant.
    matches!(whose, Whose::Pod(..))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pod_by_its_path((path, whose) in pod()) {
        let Whose::Pod(uid, container_id) = whose else { unreachable!() };
        prop_assert_eq!(classify(&path), Workload::Pod { uid, container_id }, "{}", printable(&path));
    }

    #[test]
    fn a_container_or_a_service_by_its_path((path, whose) in prop_oneof![container(), service()]) {
        prop_assert_eq!(owner_of_cgroup(&path, &PodNames::new()), Some(owner(&whose)), "{}", printable(&path));
    }

    #[test]
    fn the_same_by_the_file_of_a_process(
        (text, whose) in any_case().prop_flat_map(|(path, whose)| (proc_file(path), Just(whose)))
    ) {
        let found = telling_path(&text).and_then(|path| owner_of_cgroup(path, &PodNames::new()));
        let containerd = Owner::Cgroup { cgroup: "/system.slice/containerd.service".to_owned() };
        let passed = found == Some(owner(&whose)) || (!hybrid_holds(&whose) && found == Some(containerd));
        prop_assert!(passed, "{found:?} for {whose:?} from\n{}", printable(&text));
    }

    #[test]
    fn a_namespace_by_its_processes(
        (of, workload) in any_case().prop_flat_map(|case| (1_usize..5, Just(case))),
        visitors in vec(select(vec!["/", "/user.slice/user-0.slice/session-3.scope"]), 0..3),
    ) {
        let (path, whose) = workload;
        let mut paths = vec![path; of];
        paths.extend(visitors.iter().map(|visitor| visitor.as_bytes().to_vec()));
        let found = owner_of_processes(&paths, &PodNames::new());
        let login = matches!(&whose, Whose::Cgroup(own) if own.starts_with(b"/user.slice"));
        prop_assert!(found == owner(&whose) || (login && found == Owner::Unknown), "{found:?} for {whose:?}");
    }

    #[test]
    fn two_workloads_in_one_namespace_are_nobodys((a, whose_a) in any_case(), (b, whose_b) in any_case()) {
        let login = |path: &[u8]| path.starts_with(b"/user.slice");
        prop_assume!(owner(&whose_a) != owner(&whose_b) && !login(&a) && !login(&b));
        let contained = |path: &[u8]| matches!(classify(path), Workload::Container { .. });
        prop_assume!(!contained(&a) || !contained(&b));
        prop_assert_eq!(owner_of_processes(&[a, b], &PodNames::new()), Owner::Unknown);
    }

    #[test]
    fn containers_in_one_namespace_are_in_the_oldest_ones(
        cases in vec(container(), 1..6),
        visits in vec((any::<prop::sample::Index>(), select(vec!["/", "/user.slice/user-0.slice/session-3.scope"])), 0..3),
    ) {
        let login = |(path, _): &Case| path.starts_with(b"/user.slice");
        prop_assume!(!cases.iter().any(login));
        let mut paths: Vec<_> = cases.iter().map(|(path, _)| path.clone()).collect();
        for (at, visitor) in visits {
            paths.insert(at.index(paths.len() + 1), visitor.as_bytes().to_vec());
        }
        prop_assert_eq!(owner_of_processes(&paths, &PodNames::new()), owner(&cases[0].1));
    }

    #[test]
    fn two_names_stay_two(a in vec(any::<u8>(), 0..6), b in vec(any::<u8>(), 0..6), tail in "[\u{fffd}0-9a-f\\\\x]{0,6}") {
        let (a, b) = ([&a, tail.as_bytes()].concat(), b);
        prop_assert_eq!(a == b, printable(&a) == printable(&b));
        prop_assert!(!printable(&a).chars().any(char::is_control));
    }

    #[test]
    fn bytes_of_any_kind_are_survived(text in vec(any::<u8>(), 0..8192)) {
        let _ = telling_path(&text);
        let _ = owner_of_cgroup(&text, &PodNames::new());
        let _ = find_mount(&text, Path::new("/sys/fs/cgroup"));
    }

    /// Damage of any kind, newlines among it: a pod that is found is spelled out in one line.
    #[test]
    fn no_damage_makes_another_pod(
        text in damaged(any_case().prop_flat_map(|(path, _)| proc_file(path))),
    ) {
        if let Some(Workload::Pod { uid, .. }) = telling_path(&text).map(classify) {
            let spelled = |line: &[u8], uid: &str| {
                let needle = format!("pod{uid}");
                line.windows(needle.len()).any(|w| w == needle.as_bytes())
            };
            let slice = uid.replace('-', "_");
            let mut all = text.split(|&byte| byte == b'\n');
            prop_assert!(all.any(|line| spelled(line, &uid) || spelled(line, &slice)), "{uid}");
        }
    }

    /// Two pods in one file are no pod, whichever hierarchies they are in.
    #[test]
    fn two_pods_in_one_file_are_none((a, b, own, other) in (uid(), uid(), id(), id())) {
        prop_assume!(a != b);
        let a = format!("/kubepods/burstable/pod{a}/{own}");
        let b = format!("/kubepods/pod{b}/{other}");
        let text = lines(&[("memory", a.as_bytes()), ("", b.as_bytes())]);
        prop_assert_eq!(telling_path(&text), None);
    }
}

/// A text with up to three bytes changed, taken out or cut off.
fn damaged(text: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (text, vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 0..4)).prop_map(|(mut text, damages)| {
        for (at, byte, how) in damages {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match how {
                0 => text[at] = byte,
                1 => drop(text.remove(at)),
                2 => text.insert(at, b'\n'),
                _ => text.truncate(at),
            }
        }
        text
    })
}

#[test]
fn four_kib_of_path() {
    let mut deep: Vec<u8> = b"/kubepods/burstable/pod0a1b2c3d-1111-4222-8333-1234567890ab".to_vec();
    while deep.len() < 4096 {
        deep.extend(b"/\xff\x1bn".iter().chain(&[b'n'; 240]));
    }
    let case: Case = (deep, Whose::Pod("0a1b2c3d-1111-4222-8333-1234567890ab".to_owned(), None));
    assert_eq!(owner_of_cgroup(&case.0, &PodNames::new()), Some(owner(&case.1)));
}

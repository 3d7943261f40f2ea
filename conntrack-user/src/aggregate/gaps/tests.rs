use super::*;
use crate::drain::rtnetlink::Link;
use crate::drain::surroundings::{Ipvs, NamespaceRules};
use crate::export::fixture;

/// A node on which nothing hides.
fn clear() -> Surroundings {
    Surroundings {
        conntrack_loaded: true,
        btf: true,
        kprobes: true,
        lockdown: Some("none".into()),
        capabilities: Some(u64::MAX),
        user_namespace: Some(false),
        links: Some(Vec::new()),
        rulesets: vec![namespace(1, true, Ruleset::default())],
        legacy_raw: Some(false),
        ..Surroundings::default()
    }
}

fn namespace(netns: u32, host: bool, rules: Ruleset) -> NamespaceRules {
    NamespaceRules { netns, host, rules: Ok(rules) }
}

fn link(name: &str, kind: &str) -> Link {
    Link { index: 1, name: name.into(), peer_ifindex: None, peer_nsid: None, kind: Some(kind.into()) }
}

fn places(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// The one gap that is not absent.
fn only(around: &Surroundings) -> Gap {
    let all = gaps(around, &fixture::snapshot().probes);
    let kinds: BTreeSet<_> = all.iter().map(|g| g.kind).collect();
    assert_eq!(kinds.len(), all.len(), "a kind twice");
    let mut told: Vec<_> = all.into_iter().filter(|g| g.state != GapState::Absent).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let gap = told.remove(0);
    for text in [gap.found.as_deref(), gap.advice.as_deref()] {
        assert!(text.is_some_and(|t| !t.is_empty() && !t.contains('\n') && !t.contains("  ")), "{gap:?}");
    }
    gap
}

fn told(around: &Surroundings) -> (&'static str, GapState, String) {
    let gap = only(around);
    (gap.kind, gap.state, gap.found.unwrap())
}

#[test]
fn a_node_on_which_nothing_hides() {
    let all = gaps(&clear(), &fixture::snapshot().probes);
    assert!(all.iter().all(|g| g.state == GapState::Absent && g.found.is_none()), "{all:?}");
}

#[test]
fn cilium_with_and_without_kube_proxy() {
    let mut around = Surroundings { pinned: vec!["cilium_ct4_global".into()], ..clear() };
    let (kind, state, found) = told(&around);
    assert_eq!((kind, state), ("cilium", GapState::Present));
    assert!(found.starts_with("Cilium without kube-proxy (its map cilium_ct4_global is pinned)"), "{found}");
    around.rulesets = vec![namespace(1, true, Ruleset { kube_proxy: true, ..Ruleset::default() })];
    assert!(told(&around).2.starts_with("Cilium beside kube-proxy"));
    around.rulesets[0].rules = Ok(Ruleset::default());
    around.links = Some(vec![link("kube-ipvs0", "dummy")]);
    assert!(told(&around).2.starts_with("Cilium beside kube-proxy"));
    // Not loaded: no rules were read, so nothing can be said of kube-proxy.
    around.links = Some(vec![link("cilium_host", "veth")]);
    (around.pinned, around.rulesets) = (Vec::new(), Vec::new());
    let (_, _, found) = told(&around);
    assert!(
        found.starts_with("Cilium (there is a device cilium_host)") && found.contains("cannot be told"),
        "{found}"
    );
    around.links = None;
    assert_eq!(told(&around).1, GapState::Unknown);
}

#[test]
fn calico() {
    let around = Surroundings { pinned: vec!["cali_v4_ct3".into()], ..clear() };
    assert_eq!(told(&around).0, "calico_bpf");
    let others = Surroundings { pinned: vec!["cali_jump0".into(), "cilium_lxc".into()], ..clear() };
    assert!(gaps(&others, &[]).iter().all(|g| g.state == GapState::Absent), "maps that track nothing");
}

#[test]
fn notrack_says_where_and_unread_is_not_absent() {
    let notrack = |names: &[&str]| Ruleset { notrack: places(names), ..Ruleset::default() };
    let rulesets = vec![
        namespace(1, true, notrack(&["ip raw PREROUTING", "ip raw OUTPUT"])),
        namespace(7, false, notrack(&["inet m a", "inet m b"])),
    ];
    let (kind, state, found) = told(&Surroundings { rulesets, ..clear() });
    assert_eq!((kind, state), ("notrack", GapState::Present));
    assert!(
        found.contains("`ip raw OUTPUT`, `ip raw PREROUTING`, `inet m a` of netns:7 and 1 more"),
        "{found}"
    );

    let rules = Err("EPERM".to_owned());
    let around = Surroundings { rulesets: vec![NamespaceRules { netns: 1, host: true, rules }], ..clear() };
    let unknown: Vec<_> =
        gaps(&around, &[]).into_iter().filter(|g| g.state == GapState::Unknown).map(|g| g.kind).collect();
    assert_eq!(unknown, ["notrack", "flow_offload", "zones"]);
    let legacy = Surroundings { legacy_raw: Some(true), ..clear() };
    let unknown = gaps(&legacy, &[]).into_iter().filter(|g| g.state == GapState::Unknown).count();
    assert_eq!(unknown, 2, "NOTRACK and zones may be in the legacy table");
}

#[test]
fn zones_by_rules_vswitch_and_tc() {
    let rules = Ruleset { zones: places(&["inet t raw"]), ..Ruleset::default() };
    let around = Surroundings {
        rulesets: vec![namespace(1, true, rules)],
        links: Some(vec![link("ovs-system", "openvswitch")]),
        act_ct: true,
        ..clear()
    };
    let (kind, _, found) = told(&around);
    assert_eq!(kind, "zones");
    assert!(found.contains("rules in `inet t raw`, Open vSwitch (ovs-system), tc rules"), "{found}");
}

#[test]
fn flow_tables_in_software_and_hardware() {
    let rules = |hardware| Ruleset { flowtables: places(&["inet fw ft"]), hardware, ..Ruleset::default() };
    let around = |hardware| Surroundings { rulesets: vec![namespace(1, true, rules(hardware))], ..clear() };
    assert!(told(&around(false)).2.starts_with("flow tables: `inet fw ft`"));
    assert!(told(&around(true)).2.starts_with("flow tables, in hardware too: "));
}

#[test]
fn ipvs_counts_only_with_services() {
    let around = |services, conntrack| Surroundings { ipvs: Some(Ipvs { services, conntrack }), ..clear() };
    assert!(told(&around(1, Some(true))).2.starts_with("IPVS (1 service) keeps a table"));
    assert!(told(&around(9, Some(false))).2.starts_with("IPVS (9 services) with net.ipv4.vs.conntrack=0"));
    assert_eq!(told(&around(9, None)).1, GapState::Unknown);
    assert!(gaps(&around(0, Some(false)), &[]).iter().all(|g| g.state == GapState::Absent));
}

#[test]
fn rights() {
    let without = |bits: &[u32]| {
        let mask = bits.iter().fold(u64::MAX, |mask, bit| mask & !(1 << bit));
        Surroundings { capabilities: Some(mask), ..clear() }
    };
    assert!(told(&without(&[19])).2.starts_with("CAP_SYS_PTRACE is missing"));
    let gap = only(&without(&[39, 21]));
    assert_eq!(gap.advice.as_deref(), Some("run as root, or add CAP_BPF, CAP_SYS_ADMIN"));
    assert_eq!(rights::may_load(&without(&[39, 38])), Some(true), "CAP_SYS_ADMIN stands for both");
    assert_eq!(rights::may_load(&without(&[39, 21])), Some(false));
    type Spoil = fn(&mut Surroundings);
    let cases: [(&str, Spoil); 6] = [
        ("user_namespace", |a| a.user_namespace = Some(true)),
        ("lockdown", |a| a.lockdown = Some("confidentiality".into())),
        ("no_btf", |a| a.btf = false),
        ("no_kprobes", |a| a.kprobes = false),
        ("hidden_namespaces", |a| a.denied = 3),
        ("not_loaded", |a| a.conntrack_loaded = false),
    ];
    for (kind, spoil) in cases {
        let mut around = clear();
        spoil(&mut around);
        assert_eq!(told(&around).0, kind);
    }
    assert_eq!(told(&Surroundings { capabilities: None, ..clear() }).1, GapState::Unknown);
}

#[test]
fn fentry_refused_and_what_stands_in() {
    let state = |mechanism, reason: &str| ProbeState {
        mechanism,
        reason: Some(reason.to_owned()),
        ..fixture::probe("alloc", "kprobe")
    };
    let gap = |probe: ProbeState| {
        gaps(&clear(), &[probe]).into_iter().find(|g| g.state != GapState::Absent).map(|g| g.found.unwrap())
    };
    let found = gap(state("kprobe", "fentry: no BTF of nf_conntrack")).unwrap();
    assert!(found.contains("alloc (no BTF of nf_conntrack): it is attached by kprobe"), "{found}");
    let found = gap(state("none", "fentry: x; kprobe: y")).unwrap();
    assert!(found.contains("alloc (x): it is not attached at all"), "{found}");
    assert_eq!(gap(state("none", "kprobe: y")), None, "fentry was not tried");
}

use super::*;

const HOST: u32 = 1;
const CART: u32 = 10;
const WEB: u32 = 11;
const DOCKER: u32 = 20;
const ROUTER: u32 = 30;

const CART_UID: &str = "aaaaaaaa-1111-4222-8333-1234567890ab";
const WEB_UID: &str = "bbbbbbbb-1111-4222-8333-1234567890ab";
const PROXY_UID: &str = "cccccccc-1111-4222-8333-1234567890ab";
const CONTAINER: &str = "/docker/3f4c1b6e0d1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn namespace(netns: u32, cgroups: &[&str], addresses: &[&str]) -> NamespaceFacts {
    NamespaceFacts {
        netns,
        host: netns == HOST,
        cgroups: cgroups.iter().map(|path| path.as_bytes().to_vec()).collect(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

fn pod_name(name: &str, uid: &str) -> PodName {
    PodName { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_owned() }
}

fn pod(name: &str, uid: &str) -> Owner {
    Owner::Pod { namespace: "shop".to_owned(), pod: name.to_owned(), uid: uid.to_owned() }
}

fn cart() -> Owner {
    pod("cart", CART_UID)
}

fn web() -> Owner {
    pod("web", WEB_UID)
}

fn cgroup(path: &str) -> Owner {
    Owner::Cgroup { cgroup: path.to_owned() }
}

/// A node: two pods on veths (one with pause and an app), a docker container, a namespace without processes.
fn inputs() -> Inputs {
    let cart = format!("/kubepods/burstable/pod{CART_UID}");
    Inputs {
        namespaces: vec![
            namespace(
                HOST,
                &["/init.scope"],
                &["127.0.0.1", "192.0.2.1", "10.244.0.1", "fe80::1", "2001:db8::1"],
            ),
            namespace(
                CART,
                &[&cart, &format!("{cart}/app")],
                &["127.0.0.1", "10.244.0.5", "fe80::5", "fd00::5"],
            ),
            namespace(WEB, &[&format!("/kubepods/pod{WEB_UID}/x")], &["127.0.0.1", "10.244.0.6"]),
            namespace(DOCKER, &[CONTAINER, &format!("{CONTAINER}/init.scope")], &["172.17.0.2"]),
            namespace(ROUTER, &[], &["10.9.0.1"]),
        ],
        pods: vec![pod_name("cart", CART_UID), pod_name("web", WEB_UID), pod_name("proxy", PROXY_UID)],
        peers: HashMap::from([(5, CART), (6, WEB), (9, ROUTER)]),
        devices: HashMap::from([(2, "eth0".to_owned()), (5, "vethcart".to_owned())]),
        complete: true,
        cgroups: Vec::new(),
        cgroup: Box::new(|id| match id {
            1 => Some(b"/".to_vec()),
            2 => Some(b"/system.slice/sshd.service".to_vec()),
            3 => Some(format!("/kubepods/besteffort/pod{PROXY_UID}/y").into_bytes()),
            4 => Some(CONTAINER.as_bytes().to_vec()),
            _ => None,
        }),
    }
}

fn flow(src: &str, dst: &str) -> Flow {
    Flow { src: ip(src), sport: 40000, dst: ip(dst), dport: 443, protonum: 6 }
}

fn resolve(netns: u32, orig: &Flow, cgroup_id: Option<u64>, ifindex: Option<u32>) -> (Owner, Evidence) {
    let query = Query { netns, orig: Some(orig), reply: None, cgroup_id, ifindex };
    let found = OwnerIndex::new(inputs()).resolve(&query);
    (found.owner, found.evidence)
}

#[test]
fn a_pod_with_its_own_table() {
    let inbound = flow("198.51.100.7", "10.244.0.5");
    assert_eq!(resolve(CART, &inbound, None, None), (cart(), Evidence::Namespace));
    assert_eq!(resolve(DOCKER, &inbound, None, None), (cgroup(CONTAINER), Evidence::Namespace));
}

#[test]
fn a_veth_routed_pod() {
    let out = flow("10.244.0.5", "198.51.100.7");
    assert_eq!(resolve(HOST, &out, None, Some(5)), (cart(), Evidence::Device));
    // A source address that is not its own does not let a pod off.
    let spoofed = flow("203.0.113.9", "198.51.100.7");
    assert_eq!(resolve(HOST, &spoofed, None, Some(5)), (cart(), Evidence::Device));
}

#[test]
fn the_hosts_way_out_does_not_charge_the_pod() {
    let probe = flow("10.244.0.1", "10.244.0.5");
    assert_eq!(resolve(HOST, &probe, None, Some(5)), (Owner::Host, Evidence::SourceAddress));
    assert_eq!(resolve(HOST, &probe, Some(2), Some(5)).1, Evidence::SocketCgroup);
}

#[test]
fn pods_behind_a_bridge() {
    assert_eq!(
        resolve(HOST, &flow("10.244.0.6", "198.51.100.7"), None, Some(77)),
        (web(), Evidence::SourceAddress)
    );
    assert_eq!(resolve(HOST, &flow("fd00::5", "2001:db8::9"), None, None), (cart(), Evidence::SourceAddress));
    let container = flow("172.17.0.2", "198.51.100.7");
    assert_eq!(resolve(HOST, &container, None, None), (cgroup(CONTAINER), Evidence::SourceAddress));
    // An index means another device in another namespace.
    assert_eq!(resolve(ROUTER, &flow("10.244.0.6", "198.51.100.7"), None, Some(5)).0, web());
}

#[test]
fn sockets_of_the_host_namespace() {
    let out = flow("192.0.2.1", "198.51.100.7");
    assert_eq!(resolve(HOST, &out, Some(3), None), (pod("proxy", PROXY_UID), Evidence::SocketCgroup));
    assert_eq!(
        resolve(HOST, &out, Some(2), None),
        (cgroup("/system.slice/sshd.service"), Evidence::SocketCgroup)
    );
    assert_eq!(resolve(HOST, &out, Some(4), None), (cgroup(CONTAINER), Evidence::SocketCgroup));
    // The root cgroup and an unknown one say nothing.
    assert_eq!(resolve(HOST, &out, Some(1), None), (Owner::Host, Evidence::SourceAddress));
    assert_eq!(resolve(HOST, &out, Some(99), None), (Owner::Host, Evidence::SourceAddress));
}

#[test]
fn loopback() {
    let own = flow("127.0.0.1", "127.0.0.1");
    assert_eq!(resolve(HOST, &own, None, None), (Owner::Host, Evidence::SourceAddress));
    assert_eq!(resolve(HOST, &flow("::1", "::1"), Some(2), None).0, cgroup("/system.slice/sshd.service"));
    assert_eq!(resolve(ROUTER, &own, None, None), (Owner::Unknown, Evidence::None));
}

#[test]
fn elsewhere() {
    let inbound = flow("198.51.100.7", "192.0.2.1");
    assert_eq!(resolve(HOST, &inbound, None, Some(2)), (Owner::External, Evidence::SourceAddress));
    let mut blind = inputs();
    blind.namespaces[0].addresses.clear();
    let query = Query { netns: HOST, orig: Some(&inbound), ..Query::default() };
    assert_eq!(OwnerIndex::new(blind).resolve(&query).owner, Owner::Unknown);
    let partial = Inputs { complete: false, ..inputs() };
    assert_eq!(OwnerIndex::new(partial).resolve(&query).owner, Owner::Unknown);
}

#[test]
fn said_and_not_guessed() {
    let index = OwnerIndex::new(inputs());
    let nothing = index.resolve(&Query { netns: HOST, ..Query::default() });
    assert_eq!((nothing.owner, nothing.evidence, nothing.responder), (Owner::Unknown, Evidence::None, None));
    // On this node, in a namespace of nobody; a link-local address; a device that leads to nobody.
    assert_eq!(resolve(HOST, &flow("10.9.0.1", "192.0.2.1"), None, Some(9)).0, Owner::Unknown);
    assert_eq!(resolve(HOST, &flow("fe80::5", "fe80::1"), None, None).0, Owner::Unknown);
}

#[test]
fn an_address_of_two_pods_is_nobodys() {
    let mut twice = inputs();
    twice.namespaces[2].addresses.push(ip("10.244.0.5"));
    let orig = flow("10.244.0.5", "198.51.100.7");
    let back = flow("198.51.100.7", "10.244.0.5");
    let index = OwnerIndex::new(twice);
    let found = index.resolve(&Query { netns: HOST, orig: Some(&orig), ..Query::default() });
    assert_eq!((found.owner, found.evidence), (Owner::Unknown, Evidence::None));
    assert_eq!(index.resolve(&Query { netns: HOST, orig: Some(&back), ..Query::default() }).responder, None);
    // The device still tells.
    let found =
        index.resolve(&Query { netns: HOST, orig: Some(&orig), ifindex: Some(5), ..Query::default() });
    assert_eq!(found.owner, cart());
}

#[test]
fn the_responder_of_a_translated_service() {
    let index = OwnerIndex::new(inputs());
    let orig = flow("198.51.100.7", "10.96.0.10");
    let reply = flow("10.244.0.6", "198.51.100.7");
    let found =
        index.resolve(&Query { netns: HOST, orig: Some(&orig), reply: Some(&reply), ..Query::default() });
    assert_eq!((found.owner, found.responder), (Owner::External, Some(web())));
    // Refused before translation: the Service's pods are not guessed.
    let refused = index.resolve(&Query { netns: HOST, orig: Some(&orig), ..Query::default() });
    assert_eq!((refused.owner, refused.responder), (Owner::External, None));
    // Pod to pod, no translation.
    let direct = flow("10.244.0.5", "10.244.0.6");
    let found = index.resolve(&Query { netns: HOST, orig: Some(&direct), ..Query::default() });
    assert_eq!((found.owner, found.responder), (cart(), Some(web())));
}

#[test]
fn devices_are_the_hosts() {
    let index = OwnerIndex::new(inputs());
    assert_eq!((index.device(HOST, 2), index.device(HOST, 77)), (Some("eth0"), None));
    assert_eq!(index.device(CART, 2), None, "an index means another device there");
}

#[test]
fn owners_of_namespaces() {
    let index = OwnerIndex::new(inputs());
    assert_eq!(index.owner_of_netns(HOST), Owner::Host);
    assert_eq!(index.owner_of_netns(CART), cart());
    assert_eq!(index.owner_of_netns(DOCKER), cgroup(CONTAINER));
    assert_eq!(index.owner_of_netns(ROUTER), Owner::Unknown);
    assert_eq!(index.owner_of_netns(999), Owner::Unknown);
}

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(name: &str, cluster: &str, external: &[&str], node_port: Option<u16>) -> Service {
    Service {
        name: ServiceName { namespace: "shop".into(), name: name.into() },
        cluster: vec![ip(cluster)],
        external: external.iter().map(|text| ip(text)).collect(),
        ports: vec![ServicePort { protonum: 6, port: 80, node_port }],
    }
}

fn asked(directory: &ServiceDirectory, protonum: u8, address: &str, port: u16) -> Option<String> {
    let flow = Flow { src: ip("10.1.0.1"), sport: 40_000, dst: ip(address), dport: port, protonum };
    directory.addressed(&flow, |address| address == ip("192.0.2.1")).map(|name| name.name.clone())
}

#[test]
fn address_protocol_and_port_must_all_be_the_services() {
    let mut directory = ServiceDirectory::default();
    directory.put(service("backend", "10.96.0.7", &["203.0.113.9"], Some(30_080)));
    let of = |protonum, address, port| asked(&directory, protonum, address, port);
    let backend = Some("backend".to_owned());
    assert_eq!(of(6, "10.96.0.7", 80), backend);
    assert_eq!(of(6, "203.0.113.9", 80), backend);
    assert_eq!(of(6, "192.0.2.1", 30_080), backend, "the node's own address and the node port");
    assert_eq!(of(17, "10.96.0.7", 80), None, "another protocol");
    assert_eq!(of(6, "10.96.0.7", 81), None, "another port");
    assert_eq!(of(6, "10.96.0.8", 80), None, "another address");
    assert_eq!(of(6, "198.51.100.1", 30_080), None, "the node port at an address that is not the node's");
    assert_eq!(of(6, "192.0.2.1", 80), None, "the port at the node's address");
}

#[test]
fn who_claims_anothers_address_does_not_get_its_name() {
    let mut directory = ServiceDirectory::default();
    directory.put(service("backend", "10.96.0.7", &["203.0.113.9"], None));
    directory.put(service("thief", "10.96.0.8", &["10.96.0.7", "203.0.113.9"], None));
    assert_eq!(asked(&directory, 6, "10.96.0.7", 80).as_deref(), Some("backend"));
    assert_eq!(asked(&directory, 6, "203.0.113.9", 80), None, "of two is nobody's");
    directory.remove("shop/thief");
    assert_eq!(asked(&directory, 6, "203.0.113.9", 80).as_deref(), Some("backend"));
}

#[test]
fn what_changes_or_goes_leaves_nothing_behind() {
    let mut directory = ServiceDirectory::default();
    directory.put(service("backend", "10.96.0.7", &["203.0.113.9"], Some(30_080)));
    directory.put(service("backend", "10.96.0.9", &[], None));
    assert_eq!(asked(&directory, 6, "10.96.0.7", 80), None);
    assert_eq!(asked(&directory, 6, "192.0.2.1", 30_080), None);
    assert_eq!(asked(&directory, 6, "10.96.0.9", 80).as_deref(), Some("backend"));
    // The address was given to another before this one's end was heard.
    directory.put(service("next", "10.96.0.9", &[], None));
    directory.remove("shop/backend");
    assert_eq!(asked(&directory, 6, "10.96.0.9", 80).as_deref(), Some("next"));
    directory.replace(vec![]);
    assert!(directory.is_empty() && directory.cluster.is_empty() && directory.external.is_empty());
    assert!(directory.node_ports.is_empty());
}

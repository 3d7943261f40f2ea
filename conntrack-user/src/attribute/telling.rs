//! What the probes are told of owners: the index of owners, as a directory by table.

use std::net::IpAddr;

use conntrack_common::directory::{
    DirectoryKey, OWNER_SEARCH, OWNER_SELF, OWNER_TENANT, address_key, cgroup_key, device_key, table_key,
};

use super::index::OwnerIndex;
use super::owner::Owner;
use crate::drain::directory::Told;

/// cgroups told at most, so that they leave room for addresses.
const MAX_CGROUPS: usize = 1_024;
/// Keys beyond which only the node's table and its tenants' are told of: each further one takes as many keys as there
/// are addresses, and an account for each of their owners.
const ROOM: usize = 3_072;

/// What to tell of these tables. `account` gives an owner's account in a table; without one it is not told.
///
/// Of the node's table all is told, and of a pod's or container's that it is its. Any other is told of in the order
/// given while there is [`ROOM`]; of what is not told, entries are nobody's known.
pub fn telling(
    index: &OwnerIndex,
    tables: impl Iterator<Item = u32>,
    mut account: impl FnMut(u32, &Owner) -> Option<u32>,
) -> Told {
    let mut told = Told::new();
    let addresses = index.addresses().count();
    let tables: Vec<u32> = tables.collect();
    let (first, others): (Vec<_>, Vec<_>) = tables.into_iter().partition(|netns| index.is_somebodys(*netns));
    for netns in first.into_iter().chain(others) {
        if !index.is_somebodys(netns) && told.len() + addresses > ROOM {
            continue;
        }
        let mut tell = |key: DirectoryKey, owner: &Owner, flags: u64| {
            if let Some(account) = account(netns, owner) {
                told.insert(key, u64::from(account + 1) | flags);
            }
        };
        let whole = index.owner_of_netns(netns);
        if is_tenant(&whole) {
            tell(table_key(netns), &whole, 0);
            continue;
        }
        tell(table_key(netns), &index.owner_of_strangers(), OWNER_SEARCH);
        for (address, owner) in index.addresses() {
            tell(key_of(netns, address), owner, flags(owner));
        }
        let host = whole == Owner::Host;
        let itself = if host { &Owner::Host } else { &Owner::Unknown };
        for loopback in ["127.0.0.1", "::1"].into_iter().filter_map(|text| text.parse().ok()) {
            tell(key_of(netns, loopback), itself, flags(itself));
        }
        for link_local in ["169.254.0.1", "fe80::1"].into_iter().filter_map(|text| text.parse().ok()) {
            tell(key_of(netns, link_local), &Owner::Unknown, 0);
        }
        if host {
            for (ifindex, owner) in index.tenant_devices() {
                tell(device_key(netns, ifindex), owner, 0);
            }
            for (id, owner) in index.cgroups().take(MAX_CGROUPS) {
                tell(cgroup_key(netns, id), owner, 0);
            }
        }
    }
    told
}

fn flags(owner: &Owner) -> u64 {
    match owner {
        Owner::Host => OWNER_SELF,
        owner if is_tenant(owner) => OWNER_TENANT,
        _ => 0,
    }
}

fn is_tenant(owner: &Owner) -> bool {
    matches!(owner, Owner::Pod { .. } | Owner::Cgroup { .. })
}

fn key_of(netns: u32, address: IpAddr) -> DirectoryKey {
    let (l3num, bytes) = match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            (2, bytes)
        }
        IpAddr::V6(v6) => (10, v6.octets()),
    };
    let word = |half: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[half * 8..half * 8 + 8]);
        u64::from_ne_bytes(word)
    };
    address_key(netns, l3num, [word(0), word(1)])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::index::{Inputs, NamespaceFacts};
    use super::*;

    const HOST: u32 = 1;
    const POD: u32 = 2;
    const ROUTER: u32 = 3;

    fn index(complete: bool) -> OwnerIndex {
        let facts = |netns, host, cgroup: &str, address: &str| NamespaceFacts {
            netns,
            host,
            cgroups: vec![cgroup.as_bytes().to_vec()],
            addresses: vec![address.parse().unwrap()],
        };
        OwnerIndex::new(Inputs {
            namespaces: vec![
                facts(HOST, true, "/", "10.0.0.1"),
                facts(POD, false, "/kubepods/pod0a1b2c3d-1111-4222-8333-1234567890ab", "10.1.0.2"),
                facts(ROUTER, false, "/", "10.2.0.2"),
            ],
            pods: Vec::new(),
            peers: HashMap::from([(9, POD), (10, ROUTER)]),
            devices: HashMap::new(),
            complete,
            cgroups: vec![(77, b"/system.slice/proxy.service".to_vec()), (78, b"/".to_vec())],
            cgroup: Box::new(|_| None),
        })
    }

    fn told(complete: bool) -> (Told, HashMap<(u32, Owner), u32>) {
        let mut accounts = HashMap::new();
        let told = telling(&index(complete), [HOST, POD, ROUTER].into_iter(), |netns, owner| {
            let next = 2_000 + accounts.len() as u32;
            Some(*accounts.entry((netns, owner.clone())).or_insert(next))
        });
        (told, accounts)
    }

    fn pod() -> Owner {
        let uid = "0a1b2c3d-1111-4222-8333-1234567890ab".to_owned();
        Owner::Pod { namespace: String::new(), pod: uid.clone(), uid }
    }

    fn key(netns: u32, address: &str) -> DirectoryKey {
        key_of(netns, address.parse().unwrap())
    }

    #[test]
    fn a_pods_own_table_is_all_its_own() {
        let (told, accounts) = told(true);
        assert_eq!(told[&table_key(POD)], u64::from(accounts[&(POD, pod())] + 1));
        assert!(!told.contains_key(&key(POD, "10.0.0.1")));
    }

    #[test]
    fn the_nodes_table_is_told_addresses_devices_and_cgroups() {
        let (told, accounts) = told(true);
        let value = |owner: &Owner, flags| u64::from(accounts[&(HOST, owner.clone())] + 1) | flags;
        assert_eq!(told[&table_key(HOST)], value(&Owner::External, OWNER_SEARCH));
        assert_eq!(told[&key(HOST, "10.1.0.2")], value(&pod(), OWNER_TENANT));
        assert_eq!(told[&key(HOST, "10.0.0.1")], value(&Owner::Host, OWNER_SELF));
        assert_eq!(told[&key(HOST, "127.9.9.9")], value(&Owner::Host, OWNER_SELF));
        assert_eq!(told[&key(HOST, "fe80::77")], value(&Owner::Unknown, 0));
        assert_eq!(told[&key(HOST, "10.2.0.2")], value(&Owner::Unknown, 0), "on this node, of nobody known");
        assert_eq!(told[&device_key(HOST, 9)], value(&pod(), 0));
        assert!(!told.contains_key(&device_key(HOST, 10)));
        let service = Owner::Cgroup { cgroup: "/system.slice/proxy.service".into() };
        assert_eq!(told[&cgroup_key(HOST, 77)], value(&service, 0));
        assert!(!told.contains_key(&cgroup_key(HOST, 78)));
    }

    #[test]
    fn namespaces_of_nobody_are_told_of_while_there_is_room() {
        let strangers = 1_000..2_000;
        let told = telling(&index(true), strangers.chain([HOST, POD]), |_, _| Some(7));
        assert!(told.len() <= ROOM + 10, "{} keys", told.len());
        assert!(told.contains_key(&table_key(HOST)) && told.contains_key(&table_key(POD)));
        assert!(told.contains_key(&table_key(1_000)) && !told.contains_key(&table_key(1_999)));
    }

    #[test]
    fn nobody_is_elsewhere_while_addresses_are_missing() {
        let (told, accounts) = told(false);
        assert_eq!(told[&table_key(HOST)] as u32, accounts[&(HOST, Owner::Unknown)] + 1);
    }
}

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

/// A table to tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its namespace.
    pub netns: u32,
    /// Has it ever had an entry?
    pub used: bool,
}

/// Why an account is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Connections of the owner in the table are to be expected.
    Now,
    /// The table is nobody's and has never had an entry: most never will, and a pod's is nobody's until its first process
    /// is in it. Still, should it be a router's, then its first entries are somebody's too.
    Perhaps,
}

/// What to tell of these tables. `account` gives an owner's account in a table.
///
/// Of a pod's or container's table is told that all is its; of the node's, every address, device and cgroup that is
/// somebody's. Of any other the addresses are told while there is [`ROOM`], of those with entries first; of what is not
/// told, entries are nobody's known. So are those of an owner that finds no account.
pub fn telling(
    index: &OwnerIndex,
    tables: &[Table],
    mut account: impl FnMut(u32, &Owner, Need) -> Option<u32>,
) -> Told {
    let mut told = Told::new();
    let addresses = index.addresses().count();
    let mut tables: Vec<_> =
        tables.iter().map(|table| (!index.is_somebodys(table.netns), !table.used, table.netns)).collect();
    tables.sort_by_key(|(nobodys, unused, _)| (*nobodys, *unused));
    for (nobodys, unused, netns) in tables {
        if nobodys && told.len() + addresses > ROOM {
            continue;
        }
        let need = if nobodys && unused { Need::Perhaps } else { Need::Now };
        let whole = index.owner_of_netns(netns);
        if whole.is_tenant() {
            told.extend(account(netns, &whole, need).map(|whole| (table_key(netns), value(whole, 0))));
            continue;
        }
        // What is not told of counts as a stranger's: who has no account must be told of as nobody known.
        let Some(nobody) = account(netns, &Owner::Unknown, need) else { continue };
        let mut tell = |key: DirectoryKey, owner: &Owner, flags: u64| {
            told.insert(key, value(account(netns, owner, need).unwrap_or(nobody), flags));
        };
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

/// As in [`conntrack_common::directory::DirectoryEntry::value`].
fn value(account: u32, flags: u64) -> u64 {
    u64::from(account + 1) | flags
}

fn flags(owner: &Owner) -> u64 {
    match owner {
        Owner::Host => OWNER_SELF,
        owner if owner.is_tenant() => OWNER_TENANT,
        _ => 0,
    }
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

    fn used(netns: u32) -> Table {
        Table { netns, used: true }
    }

    fn told(complete: bool) -> (Told, HashMap<(u32, Owner), u32>) {
        let mut accounts = HashMap::new();
        let told = telling(&index(complete), &[HOST, POD, ROUTER].map(used), |netns, owner, _| {
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
        let value = |owner: &Owner, flags| value(accounts[&(HOST, owner.clone())], flags);
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
        let strangers = (1_000..2_000).map(|netns| Table { netns, used: netns == 1_999 });
        let tables: Vec<_> = strangers.chain([HOST, POD].map(used)).collect();
        let mut needs = HashMap::new();
        let told = telling(&index(true), &tables, |netns, _, need| {
            needs.insert(netns, need);
            Some(7)
        });
        assert!(told.len() <= ROOM + 10, "{} keys", told.len());
        assert!(told.contains_key(&table_key(HOST)) && told.contains_key(&table_key(POD)));
        assert!(told.contains_key(&table_key(1_000)) && !told.contains_key(&table_key(1_998)));
        assert!(told.contains_key(&table_key(1_999)), "has entries: before those that have none");
        let needed = [HOST, POD, 1_999, 1_000].map(|netns| needs[&netns]);
        assert_eq!(needed, [Need::Now, Need::Now, Need::Now, Need::Perhaps]);
    }

    #[test]
    fn who_finds_no_account_is_nobody_known_and_no_stranger() {
        let tables = [HOST, POD, ROUTER].map(used);
        let told = telling(&index(true), &tables, |_, owner, _| match owner {
            Owner::External => Some(5),
            Owner::Unknown => Some(6),
            _ => None,
        });
        assert_eq!(told[&key(HOST, "10.1.0.2")] as u32, 7);
        assert_eq!(told[&table_key(HOST)], 6 | OWNER_SEARCH);
        assert!(!told.contains_key(&table_key(POD)));
        assert!(
            telling(&index(true), &tables, |_, owner, _| (*owner == Owner::External).then_some(5)).is_empty()
        );
    }

    #[test]
    fn nobody_is_elsewhere_while_addresses_are_missing() {
        let (told, accounts) = told(false);
        assert_eq!(told[&table_key(HOST)] as u32, accounts[&(HOST, Owner::Unknown)] + 1);
    }
}

//! Owners of a table's entries, for all of them at once: the index's answers, each address asked once.

use std::collections::HashMap;

use conntrack_common::Tuple;

use super::index::{OwnerIndex, Query};
use super::observed::Flow;
use super::owner::Owner;

/// Addresses remembered, about 4 MiB of them. Those beyond are asked again each time, which is slower and no
/// less right: a table full of sources from outside must not become memory.
const MAX_ADDRESSES: usize = 1 << 16;

/// Numbers the owners of one table's entries.
///
/// Of an entry that was dumped only the table and the tuples are known, so the evidence is the namespace and the
/// addresses: what its packet came in by, and the socket that sent it, went unseen.
#[derive(Debug)]
pub struct EntryOwners<'a> {
    index: &'a OwnerIndex,
    netns: u32,
    most: usize,
    addresses: HashMap<(u8, [u64; 2]), Roles>,
    numbers: HashMap<Owner, usize>,
    owners: Vec<Owner>,
}

/// Whose an entry is; both are places in [`EntryOwners::into_owners`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryOwner {
    /// Who made it.
    pub initiator: usize,
    /// Who answers it, where that is a pod or container of this node.
    pub responder: Option<usize>,
}

/// What an address's owner is of the entries it makes, and of those it answers.
#[derive(Clone, Copy, Debug)]
struct Roles {
    initiator: usize,
    responder: Option<usize>,
}

impl<'a> EntryOwners<'a> {
    /// For the table of namespace `netns`.
    #[must_use]
    pub fn new(index: &'a OwnerIndex, netns: u32) -> Self {
        Self {
            index,
            netns,
            most: MAX_ADDRESSES,
            addresses: HashMap::new(),
            numbers: HashMap::new(),
            owners: Vec::new(),
        }
    }

    /// Whose the entry with these tuples is.
    #[inline]
    pub fn of(&mut self, orig: &Tuple, reply: &Tuple) -> EntryOwner {
        let initiator = self.roles(orig.saddr, orig.l3num).initiator;
        // Who answers is the source of replies, whatever address was asked.
        EntryOwner { initiator, responder: self.roles(reply.saddr, reply.l3num).responder }
    }

    /// The owners that were met, each at its number.
    #[must_use]
    pub fn into_owners(self) -> Vec<Owner> {
        self.owners
    }

    #[inline]
    fn roles(&mut self, address: [u64; 2], family: u8) -> Roles {
        if let Some(known) = self.addresses.get(&(family, address)) {
            return *known;
        }
        let flow = Flow::from_tuple(&Tuple { saddr: address, l3num: family, ..Tuple::default() });
        let (orig, reply) = (flow.as_ref(), flow.as_ref());
        let found = self.index.resolve(&Query { netns: self.netns, orig, reply, ..Query::default() });
        let initiator = self.number(found.owner);
        let roles = Roles { initiator, responder: found.responder.map(|owner| self.number(owner)) };
        if self.addresses.len() < self.most {
            self.addresses.insert((family, address), roles);
        }
        roles
    }

    fn number(&mut self, owner: Owner) -> usize {
        if let Some(number) = self.numbers.get(&owner) {
            return *number;
        }
        self.owners.push(owner.clone());
        self.numbers.insert(owner, self.owners.len() - 1);
        self.owners.len() - 1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::IpAddr;

    use super::super::index::{Inputs, NamespaceFacts};
    use super::*;

    pub(crate) const HOST: u32 = 1;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The host 192.0.2.1, and services /a (10.0.0.1, fd00::1, namespace 2) and /b (10.0.0.2, namespace 3).
    pub(crate) fn index() -> OwnerIndex {
        let facts = |netns, cgroup: &str, addresses: &[&str]| NamespaceFacts {
            netns,
            host: netns == HOST,
            cgroups: vec![cgroup.as_bytes().to_vec()],
            addresses: addresses.iter().map(|address| ip(address)).collect(),
        };
        OwnerIndex::new(Inputs {
            namespaces: vec![
                facts(HOST, "/", &["192.0.2.1"]),
                facts(2, "/a.service", &["10.0.0.1", "fd00::1"]),
                facts(3, "/b.service", &["10.0.0.2"]),
            ],
            pods: Vec::new(),
            peers: HashMap::new(),
            devices: HashMap::new(),
            complete: true,
            cgroups: Vec::new(),
            cgroup: Box::new(|_| None),
        })
    }

    pub(crate) fn service(name: &str) -> Owner {
        Owner::Cgroup { cgroup: format!("/{name}.service") }
    }

    pub(crate) fn tuple(source: &str, destination: &str) -> Tuple {
        let half = |address: IpAddr| match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0]
            }
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                [0, 8].map(|at| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap()))
            }
        };
        let (source, destination) = (ip(source), ip(destination));
        Tuple {
            saddr: half(source),
            daddr: half(destination),
            l3num: if source.is_ipv4() { 2 } else { 10 },
            ..Tuple::default()
        }
    }

    /// Who made it and who answers it, asked of a table of that namespace.
    fn asked(netns: u32, orig: (&str, &str), reply: (&str, &str)) -> (Owner, Option<Owner>) {
        let index = index();
        let mut owners = EntryOwners::new(&index, netns);
        let (orig, reply) = (tuple(orig.0, orig.1), tuple(reply.0, reply.1));
        let found = owners.of(&orig, &reply);
        assert_eq!(owners.of(&orig, &reply), found, "from memory");
        let all = owners.into_owners();
        let flows = [Flow::from_tuple(&orig), Flow::from_tuple(&reply)];
        let query = Query { netns, orig: flows[0].as_ref(), reply: flows[1].as_ref(), ..Query::default() };
        let answer = index.resolve(&query);
        let given = (all[found.initiator].clone(), found.responder.map(|number| all[number].clone()));
        assert_eq!(given, (answer.owner, answer.responder), "what the index says");
        given
    }

    #[test]
    fn initiators_and_responders() {
        // A Service address: /b answers.
        let nat = asked(HOST, ("10.0.0.1", "10.96.0.1"), ("10.0.0.2", "10.0.0.1"));
        assert_eq!(nat, (service("a"), Some(service("b"))));
        let outside = asked(HOST, ("203.0.113.9", "10.0.0.1"), ("10.0.0.1", "203.0.113.9"));
        assert_eq!(outside, (Owner::External, Some(service("a"))));
        let six = asked(HOST, ("fd00::1", "2001:db8::1"), ("2001:db8::1", "fd00::1"));
        assert_eq!(six, (service("a"), None));
        let host = asked(HOST, ("192.0.2.1", "203.0.113.9"), ("203.0.113.9", "192.0.2.1"));
        assert_eq!(host, (Owner::Host, None));
        assert_eq!(asked(HOST, ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")), (Owner::Host, None));
        // A table of one's own.
        let own = asked(2, ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"));
        assert_eq!(own, (service("a"), None));
        assert_eq!(asked(9, ("169.254.0.1", "10.0.0.2"), ("10.0.0.2", "169.254.0.1")).0, Owner::Unknown);
    }

    #[test]
    fn an_address_is_not_mistaken_for_another_family() {
        let index = index();
        let mut owners = EntryOwners::new(&index, HOST);
        let four = tuple("10.0.0.1", "10.0.0.2");
        let six = Tuple { l3num: 10, ..four };
        let none = Tuple { l3num: 0, ..four };
        let numbers = [&four, &six, &none].map(|orig| owners.of(orig, &none).initiator);
        let all = owners.into_owners();
        assert_eq!(numbers.map(|n| all[n].clone()), [service("a"), Owner::External, Owner::Unknown]);
    }

    #[test]
    fn more_addresses_than_are_remembered_are_told_all_the_same() {
        let index = index();
        let mut owners = EntryOwners { most: 3, ..EntryOwners::new(&index, HOST) };
        for round in 0..2 {
            for last in 1..=200 {
                let source = format!("203.0.113.{last}");
                let found = owners.of(&tuple(&source, "10.0.0.2"), &tuple("10.0.0.2", &source));
                assert_eq!(owners.owners[found.initiator], Owner::External, "round {round}, {source}");
                assert_eq!(owners.owners[found.responder.unwrap()], service("b"));
            }
        }
        assert_eq!((owners.addresses.len(), owners.owners.len()), (3, 2));
    }
}

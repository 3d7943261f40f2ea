//! Which addresses of this node are whose.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use super::owner::Owner;

/// Addresses of this node's namespaces.
#[derive(Clone, Debug, Default)]
pub struct LocalAddresses {
    /// [`Owner::Unknown`]: on this node, but not known whose, or of more than one.
    owners: HashMap<IpAddr, Owner>,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// On this node, of this owner.
    Local(&'a Owner),
    /// On this node, of nobody in particular; or of a kind that each namespace has for itself.
    Ambiguous,
    /// Not on this node.
    Elsewhere,
}

impl LocalAddresses {
    /// Adds an address. Two owners of one address make it ambiguous: overlapping networks are common.
    pub fn add(&mut self, address: IpAddr, owner: &Owner) {
        if !identifies(address) {
            return;
        }
        match self.owners.entry(address) {
            Entry::Vacant(slot) => drop(slot.insert(owner.clone())),
            Entry::Occupied(mut slot) if slot.get() != owner => drop(slot.insert(Owner::Unknown)),
            Entry::Occupied(_) => {}
        }
    }

    /// Every address, and [`Owner::Unknown`] for those of more than one owner.
    pub fn all(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.owners.iter().map(|(address, owner)| (*address, owner))
    }

    /// Whose the address is.
    #[must_use]
    pub fn place(&self, address: IpAddr) -> Place<'_> {
        match self.owners.get(&address) {
            Some(Owner::Unknown) => Place::Ambiguous,
            Some(owner) => Place::Local(owner),
            None if identifies(address) => Place::Elsewhere,
            None => Place::Ambiguous,
        }
    }
}

/// Can the address tell one namespace from another? Loopback, link-local, multicast and unspecified cannot.
#[must_use]
pub fn identifies(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_owner_or_none() {
        let a = Owner::Cgroup { cgroup: "/a".to_owned() };
        let b = Owner::Cgroup { cgroup: "/b".to_owned() };
        let mut addresses = LocalAddresses::default();
        addresses.add(ip("10.0.0.1"), &a);
        addresses.add(ip("10.0.0.1"), &a);
        addresses.add(ip("10.0.0.2"), &a);
        addresses.add(ip("10.0.0.2"), &b);
        addresses.add(ip("10.0.0.2"), &a);
        addresses.add(ip("10.0.0.3"), &a);
        addresses.add(ip("10.0.0.3"), &Owner::Unknown);
        assert_eq!(addresses.place(ip("10.0.0.1")), Place::Local(&a));
        assert_eq!(addresses.place(ip("10.0.0.2")), Place::Ambiguous);
        assert_eq!(addresses.place(ip("10.0.0.3")), Place::Ambiguous);
        assert_eq!(addresses.place(ip("10.0.0.4")), Place::Elsewhere);
    }

    #[test]
    fn addresses_that_every_namespace_has() {
        let mut addresses = LocalAddresses::default();
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "fe80::1",
            "169.254.1.1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
        ] {
            addresses.add(ip(text), &Owner::Host);
            assert_eq!(addresses.place(ip(text)), Place::Ambiguous, "{text}");
        }
        assert_eq!(addresses.place(ip("fd00::1")), Place::Elsewhere);
    }
}

//! Owner of an entry, a refusal or an eviction: the first evidence that proves one.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::local_addresses::{LocalAddresses, Place};
use super::netns_owner::{PodNames, owner_of_cgroup, owner_of_processes};
use super::observed::Flow;
use super::owner::{Evidence, Owner};
use super::pods::PodName;

#[cfg(test)]
mod tests;

/// Path of a cgroup by its v2 id; None where it is not known.
pub type CgroupLookup = Box<dyn Fn(u64) -> Option<Vec<u8>> + Send + Sync>;

/// What is known of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its inode.
    pub netns: u32,
    /// Is it the host's?
    pub host: bool,
    /// cgroup paths of its processes, or of some of them, the oldest's first; not needed for the host's.
    pub cgroups: Vec<Vec<u8>>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Everything the index is made from.
pub struct Inputs {
    /// Every namespace found, the host's included.
    pub namespaces: Vec<NamespaceFacts>,
    /// Pod names, from the API or the log directories.
    pub pods: Vec<PodName>,
    /// Device index in the host's namespace → inode of the namespace where the other end of the veth is.
    pub peers: HashMap<u32, u32>,
    /// Names of the host's devices, by index.
    pub devices: HashMap<u32, String>,
    /// Were the addresses of every namespace read? If not, none can be said to be elsewhere.
    pub complete: bool,
    /// Every cgroup by its id, as last seen.
    pub cgroups: Vec<(u64, Vec<u8>)>,
    /// Path of a cgroup by id, of one that came since too.
    pub cgroup: CgroupLookup,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// Inode of the namespace whose table it is.
    pub netns: u32,
    /// Original flow.
    pub orig: Option<&'a Flow>,
    /// Reply flow, after translation; a refusal has none.
    pub reply: Option<&'a Flow>,
    /// cgroup v2 id of the sending socket.
    pub cgroup_id: Option<u64>,
    /// Device in that namespace on which the packet came in.
    pub ifindex: Option<u32>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// Who made the connection.
    pub owner: Owner,
    /// By what evidence.
    pub evidence: Evidence,
    /// Who answers it, where that is a pod or container of this node.
    pub responder: Option<Owner>,
}

/// Owners at one instant. Addresses are used again: make a new one whenever namespaces come or go.
pub struct OwnerIndex {
    host: Option<u32>,
    namespaces: HashMap<u32, Owner>,
    addresses: LocalAddresses,
    /// Were all addresses read, the host's among them? Without them nothing can be said to be elsewhere.
    addresses_known: bool,
    peers: HashMap<u32, u32>,
    devices: HashMap<u32, String>,
    names: PodNames,
    cgroups: Vec<(u64, Owner)>,
    cgroup: CgroupLookup,
}

impl OwnerIndex {
    /// An index of these facts.
    #[must_use]
    pub fn new(inputs: Inputs) -> Self {
        let names: PodNames = inputs.pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        let owned = |(id, path): &(u64, Vec<u8>)| Some((*id, owner_of_cgroup(path, &names)?));
        let cgroups = inputs.cgroups.iter().filter_map(owned).collect();
        let mut index = Self {
            host: None,
            namespaces: HashMap::new(),
            addresses: LocalAddresses::default(),
            addresses_known: false,
            peers: inputs.peers,
            devices: inputs.devices,
            names,
            cgroups,
            cgroup: inputs.cgroup,
        };
        for namespace in inputs.namespaces {
            let owner = if namespace.host {
                index.host = Some(namespace.netns);
                index.addresses_known = inputs.complete && !namespace.addresses.is_empty();
                Owner::Host
            } else {
                owner_of_processes(&namespace.cgroups, &index.names)
            };
            for &address in &namespace.addresses {
                index.addresses.add(address, &owner);
            }
            index.namespaces.insert(namespace.netns, owner);
        }
        index
    }

    /// Whose namespace it is: a pod's, a cgroup's, the host's, or unknown.
    #[must_use]
    pub fn owner_of_netns(&self, netns: u32) -> Owner {
        self.namespaces.get(&netns).cloned().unwrap_or(Owner::Unknown)
    }

    /// Whose an address is that is none of this node's.
    #[must_use]
    pub fn owner_of_strangers(&self) -> Owner {
        if self.addresses_known { Owner::External } else { Owner::Unknown }
    }

    /// Is this an address of the host, and of nobody else on this node?
    #[must_use]
    pub fn is_hosts(&self, address: IpAddr) -> bool {
        self.addresses.place(address) == Place::Local(&Owner::Host)
    }

    /// Every address that is somebody's, and of which nobody can be told: [`Owner::Unknown`].
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Owner)> {
        self.addresses.all()
    }

    /// The host's devices whose other end is in a pod or container.
    pub fn tenant_devices(&self) -> impl Iterator<Item = (u32, &Owner)> {
        let owner = |peer| self.namespaces.get(peer).filter(|owner| owner.is_tenant());
        self.peers.iter().filter_map(move |(ifindex, peer)| Some((*ifindex, owner(peer)?)))
    }

    /// Owners of cgroups by id.
    pub fn cgroups(&self) -> impl Iterator<Item = (u64, &Owner)> {
        self.cgroups.iter().map(|(id, owner)| (*id, owner))
    }

    /// Everyone who is here: owners of namespaces and of cgroups, some of them more than once.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.namespaces.values().chain(self.cgroups.iter().map(|(_, owner)| owner))
    }

    /// Is the namespace the host's, a pod's or a container's?
    #[must_use]
    pub fn is_somebodys(&self, netns: u32) -> bool {
        matches!(self.owner_of_netns(netns), Owner::Host | Owner::Pod { .. } | Owner::Cgroup { .. })
    }

    /// Name of a device. None: not known, or not of the host's namespace.
    #[must_use]
    pub fn device(&self, netns: u32, ifindex: u32) -> Option<&str> {
        self.devices.get(&ifindex).filter(|_| self.host == Some(netns)).map(String::as_str)
    }

    /// Whose it is, by the first evidence that proves an owner.
    #[must_use]
    pub fn resolve(&self, query: &Query<'_>) -> Attribution {
        let source = query.orig.map(|flow| flow.src);
        let (owner, evidence) = self
            .by_namespace(query.netns)
            .map(|owner| (owner, Evidence::Namespace))
            .or_else(|| self.by_device(query, source).map(|owner| (owner, Evidence::Device)))
            .or_else(|| self.by_tenant_address(source?).map(|owner| (owner, Evidence::SourceAddress)))
            .or_else(|| self.by_socket(query.cgroup_id?).map(|owner| (owner, Evidence::SocketCgroup)))
            .or_else(|| self.by_place(query.netns, source?).map(|owner| (owner, Evidence::SourceAddress)))
            .unwrap_or((Owner::Unknown, Evidence::None));
        Attribution { owner, evidence, responder: self.responder(query) }
    }

    /// The table is a pod's or a container's own.
    fn by_namespace(&self, netns: u32) -> Option<Owner> {
        self.namespaces.get(&netns).filter(|owner| owner.is_tenant()).cloned()
    }

    /// The packet came in by a veth whose other end is in a pod. For what the host itself sends, the packet's
    /// device (where it has one) is the way out, and tells the responder.
    fn by_device(&self, query: &Query<'_>, source: Option<IpAddr>) -> Option<Owner> {
        let own = source.is_some_and(|source| {
            source.is_loopback() || self.addresses.place(source) == Place::Local(&Owner::Host)
        });
        if self.host != Some(query.netns) || own || query.cgroup_id.is_some() {
            return None;
        }
        self.by_namespace(*self.peers.get(&query.ifindex?)?)
    }

    fn by_tenant_address(&self, address: IpAddr) -> Option<Owner> {
        match self.addresses.place(address) {
            Place::Local(owner) if owner.is_tenant() => Some(owner.clone()),
            _ => None,
        }
    }

    fn by_socket(&self, cgroup_id: u64) -> Option<Owner> {
        owner_of_cgroup(&(self.cgroup)(cgroup_id)?, &self.names)
    }

    /// No owner of its own: the host, or not on this node.
    fn by_place(&self, netns: u32, source: IpAddr) -> Option<Owner> {
        if source.is_loopback() {
            return (self.host == Some(netns)).then_some(Owner::Host);
        }
        match self.addresses.place(source) {
            Place::Local(owner) => Some(owner.clone()),
            Place::Elsewhere if self.addresses_known => Some(Owner::External),
            Place::Elsewhere | Place::Ambiguous => None,
        }
    }

    /// The source of replies is who answers, whatever address was asked; before translation (a refusal) only
    /// the address asked is known, and a Service's is nobody's.
    fn responder(&self, query: &Query<'_>) -> Option<Owner> {
        let answering = query.reply.map(|flow| flow.src);
        let asked = query.orig.map(|flow| flow.dst);
        self.by_tenant_address(answering.or(asked)?)
    }
}

impl fmt::Debug for OwnerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerIndex")
            .field("host", &self.host)
            .field("namespaces", &self.namespaces)
            .field("addresses", &self.addresses)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

//! Looks at everything that tells owners and makes the index of them: when something changed, and now and then
//! because not every change shows.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::api::handle::ApiHandle;
use super::api::state::State;
use super::cgroup_tree::{CgroupTree, find_mount};
use super::discover::{FoundNamespace, read_facts};
use super::discovery::{self, Disagreements, Discovery};
use super::index::{CgroupLookup, Inputs, OwnerIndex};
use super::pods;
use crate::config::System;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::rtnetlink::{self, Link};

/// Addresses within namespaces and cgroups of later processes change without a sign in what is looked at each
/// round.
const ANEW: Duration = Duration::from_secs(5);

/// Makes indexes, one after the other.
#[derive(Debug, Default)]
pub struct Survey {
    /// One for life: it remembers cgroups that are gone, whose last facts are still to come.
    cgroups: Option<Arc<Mutex<CgroupTree>>>,
    last: Option<(Instant, u64)>,
    api: Option<ApiHandle>,
    /// How it stood with the API when that was told last.
    told: Option<&'static str>,
    /// As of the last index: pods with a log directory, and where the API disagrees.
    compared: (usize, Option<Disagreements>),
}

/// An index, and whether all that it is made from could be read.
#[derive(Debug)]
pub struct Found {
    /// The owners.
    pub index: OwnerIndex,
    /// False: some owner may be missing.
    pub complete: bool,
}

/// What is looked at each round: cheap, and changes with most of what matters.
#[derive(Debug, Default)]
struct Signs {
    links: Option<Vec<Link>>,
    addresses: Option<Vec<IpAddr>>,
    pod_logs: Option<SystemTime>,
    /// Revision of what the API has told.
    api: Option<u64>,
}

impl Survey {
    /// From now on pods are also known as the API has them.
    pub fn set_api(&mut self, api: ApiHandle) {
        self.api = Some(api);
    }

    /// The same, to begin with.
    #[must_use]
    pub fn with_api(api: ApiHandle) -> Self {
        Self { api: Some(api), ..Self::default() }
    }

    /// Did the last reading of the API succeed? None: none is asked, or there was no answer yet.
    #[must_use]
    pub fn api_success(&self) -> Option<bool> {
        self.api.as_ref()?.status().state.success()
    }

    /// How it stands with the API, when that is another state than at the last call.
    pub fn api_news(&mut self) -> Option<State> {
        let state = self.api.as_ref()?.status().state;
        let before = self.told.replace(state.word());
        (before != self.told && state != State::Connecting(None)).then_some(state)
    }

    /// How pods are discovered, and where the API and the node disagree. None: nothing was said of an API.
    #[must_use]
    pub fn discovery(&self, now: Instant) -> Option<Discovery> {
        let (logs, disagreements) = &self.compared;
        Some(Discovery::of(self.api.as_ref()?, *logs, disagreements.clone(), now))
    }

    /// A new index when something changed. None: the last one holds.
    pub fn index(&mut self, system: &System, namespaces: &[Namespace], now: Instant) -> Option<Found> {
        let host = namespaces.iter().find(|n| n.host);
        let known = self.api.as_ref().and_then(ApiHandle::known);
        let signs = Signs { api: known.map(|directory| directory.revision()), ..Signs::read(system, host) };
        let print = fingerprint(namespaces, &signs);
        if !due(self.last, now, print) {
            return None;
        }
        self.last = Some((now, print));
        Some(self.survey(system, namespaces, host, signs))
    }

    fn survey(
        &mut self,
        system: &System,
        namespaces: &[Namespace],
        host: Option<&Namespace>,
        signs: Signs,
    ) -> Found {
        let mut complete = signs.links.is_some() && signs.addresses.is_some();
        let facts = namespaces.iter().map(|n| {
            let addresses = match &signs.addresses {
                Some(known) if n.host => known.clone(),
                _ => addresses(n).unwrap_or_else(|error| {
                    // A namespace that is gone has no addresses.
                    complete &= error.kind() == io::ErrorKind::NotFound;
                    Vec::new()
                }),
            };
            let found = FoundNamespace { netns: n.inum, host: n.host, pids: n.pids.clone(), addresses };
            read_facts(&system.procfs, found)
        });
        let facts: Vec<_> = facts.collect();
        let links = signs.links.unwrap_or_default();
        let others = namespaces.iter().filter(|n| !n.host).map(|n| (n.inum, n.path.as_path()));
        let ids = host.map(|n| in_namespace(&n.path, n.inum, || rtnetlink::namespace_ids(others)));
        let ids = ids.and_then(Result::ok).and_then(Result::ok);
        complete &= ids.is_some();
        let pods = pods::read(&system.podlogs);
        complete &= pods.is_ok();
        let pods = pods.unwrap_or_default();
        let api = self.api.as_ref().and_then(ApiHandle::known);
        let logged = pods.len();
        let (pods, disagreements) = discovery::merge(api.as_deref(), pods);
        let disagreements = api.map(|api| disagreements.and(discovery::compare(&api, &facts)));
        self.compared = (logged, disagreements);
        let index = OwnerIndex::new(Inputs {
            namespaces: facts,
            pods,
            peers: peers(&links, &ids.unwrap_or_default()),
            devices: links.into_iter().map(|link| (link.index, link.name)).collect(),
            complete,
            cgroups: self.every_cgroup(system),
            cgroup: self.cgroups(system),
        });
        Found { index, complete }
    }

    fn tree(&mut self, system: &System) -> Option<Arc<Mutex<CgroupTree>>> {
        if self.cgroups.is_none() {
            let mountinfo = std::fs::read(system.procfs.join("self/mountinfo")).unwrap_or_default();
            let mount = find_mount(&mountinfo, &system.cgroupfs);
            self.cgroups = mount.map(|mount| Arc::new(Mutex::new(CgroupTree::new(mount))));
        }
        self.cgroups.clone()
    }

    fn every_cgroup(&mut self, system: &System) -> Vec<(u64, Vec<u8>)> {
        let Some(tree) = self.tree(system) else { return Vec::new() };
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        tree.all(Instant::now()).map(|(id, path)| (id, path.to_vec())).collect()
    }

    fn cgroups(&mut self, system: &System) -> CgroupLookup {
        let tree = self.tree(system);
        Box::new(move |id| {
            // A lookup that panicked elsewhere left at worst cgroups unread, which the next walk finds.
            let mut tree = tree.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
            tree.lookup(id, Instant::now()).map(<[u8]>::to_vec)
        })
    }
}

impl Signs {
    fn read(system: &System, host: Option<&Namespace>) -> Self {
        let read = host.map(|n| {
            in_namespace(&n.path, n.inum, || (rtnetlink::links().ok(), rtnetlink::addresses().ok()))
        });
        let (links, addresses) = read.and_then(Result::ok).unwrap_or_default();
        let pod_logs = std::fs::metadata(&system.podlogs).and_then(|metadata| metadata.modified()).ok();
        Self { links, addresses, pod_logs, api: None }
    }
}

fn addresses(namespace: &Namespace) -> io::Result<Vec<IpAddr>> {
    in_namespace(&namespace.path, namespace.inum, rtnetlink::addresses)?.map_err(io::Error::other)
}

/// Is a new index due?
fn due(last: Option<(Instant, u64)>, now: Instant, print: u64) -> bool {
    last.is_none_or(|(at, before)| before != print || now.saturating_duration_since(at) >= ANEW)
}

/// Changes when namespaces come or go, get their first process (a pod's sandbox is made before it) or lose it,
/// when the host's devices or addresses change, and when a pod comes or goes, by its logs or by the API.
fn fingerprint(namespaces: &[Namespace], signs: &Signs) -> u64 {
    let mut hasher = DefaultHasher::new();
    for namespace in namespaces {
        // The host's processes come and go all the time and say nothing about it.
        let first = namespace.pids.first().filter(|_| !namespace.host);
        (namespace.inum, namespace.host, first).hash(&mut hasher);
    }
    (&signs.links, &signs.addresses, signs.pod_logs, signs.api).hash(&mut hasher);
    hasher.finish()
}

/// Device in the host's namespace → inode of the namespace where its other end is. `ids` are the host's names
/// for namespaces.
fn peers(links: &[Link], ids: &HashMap<i32, u32>) -> HashMap<u32, u32> {
    // Of other kinds (VLAN, tunnel) what they hang on is no other end, but what carries them.
    let pairs = links.iter().filter(|link| matches!(link.kind.as_deref(), Some("veth" | "netkit")));
    pairs.filter_map(|link| Some((link.index, *ids.get(&link.peer_nsid?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(inum: u32, host: bool, pids: &[u32]) -> Namespace {
        Namespace { inum, path: "/".into(), pids: pids.to_vec(), host }
    }

    fn link(index: u32, kind: &str, peer_nsid: Option<i32>) -> Link {
        Link { index, name: format!("d{index}"), peer_ifindex: Some(2), peer_nsid, kind: Some(kind.into()) }
    }

    #[test]
    fn both_ends_of_a_veth_are_joined_by_the_hosts_id() {
        let links = [
            link(5, "veth", Some(0)),
            link(6, "netkit", Some(1)),
            link(7, "veth", None),
            link(8, "veth", Some(9)),
            link(9, "vlan", Some(0)),
        ];
        let ids = HashMap::from([(0, 40), (1, 41)]);
        assert_eq!(peers(&links, &ids), HashMap::from([(5, 40), (6, 41)]));
    }

    #[test]
    fn due_at_a_change_and_every_few_seconds() {
        let now = Instant::now();
        assert!(due(None, now, 1));
        assert!(!due(Some((now, 1)), now + ANEW - Duration::from_millis(1), 1));
        assert!(due(Some((now, 1)), now, 2));
        assert!(due(Some((now, 1)), now + ANEW, 1));
    }

    #[test]
    fn whatever_tells_an_owner_changes_the_fingerprint() {
        let signs = |links: &[Link], address: &str, seconds: u64| Signs {
            links: Some(links.to_vec()),
            addresses: Some(vec![address.parse().unwrap()]),
            pod_logs: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            api: Some(1),
        };
        let plain = || signs(&[link(5, "veth", Some(0))], "10.0.0.1", 7);
        let pod = |pids| vec![namespace(1, true, &[1]), namespace(2, false, pids)];
        let before = fingerprint(&pod(&[9, 11]), &plain());
        assert_eq!(before, fingerprint(&pod(&[9, 12]), &plain()), "what the pod runs besides");
        let mut host = pod(&[9, 11]);
        host[0].pids = vec![1, 5, 6];
        assert_eq!(before, fingerprint(&host, &plain()), "what the host runs");
        for (namespaces, signs) in [
            (pod(&[]), plain()),
            (pod(&[10]), plain()),
            (pod(&[9, 11])[..1].to_vec(), plain()),
            (pod(&[9, 11]), signs(&[link(6, "veth", Some(0))], "10.0.0.1", 7)),
            (pod(&[9, 11]), signs(&[link(5, "veth", Some(0))], "10.0.0.2", 7)),
            (pod(&[9, 11]), signs(&[link(5, "veth", Some(0))], "10.0.0.1", 8)),
            (pod(&[9, 11]), Signs { api: Some(2), ..plain() }),
            (pod(&[9, 11]), Signs::default()),
        ] {
            assert_ne!(before, fingerprint(&namespaces, &signs), "{namespaces:?} {signs:?}");
        }
    }
}

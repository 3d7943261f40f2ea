//! Looks at everything that tells owners and makes the index of them: when something changed, and now and then
//! because not every change shows.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::api::handle::{ApiHandle, ServiceHandle};
use super::api::state::State;
use super::cgroup_tree::{CgroupTree, find_mount};
use super::discover::{FoundNamespace, read_facts};
use super::discovery::{self, Disagreements, Discovery};
use super::index::{CgroupLookup, Inputs, OwnerIndex};
use super::pods;
use crate::config::System;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::rt_watch::RtWatch;
use crate::drain::rtnetlink::{self, Link};

/// Processes move to other cgroups, and addresses within namespaces that share no device with the host's change,
/// without a sign in what is looked at each round.
const ANEW: Duration = Duration::from_secs(5);
/// Who has just come is not ready yet: a container's process enters its cgroup, and its device gets its address, in
/// no order that can be relied on. So long after a change every round looks again.
const SETTLING: Duration = Duration::from_secs(2);
/// Scrapes come between rounds: they look again no more often than this.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes indexes, one after the other.
#[derive(Debug, Default)]
pub struct Survey {
    /// One for life: it remembers cgroups that are gone, whose last facts are still to come.
    cgroups: Option<Arc<Mutex<CgroupTree>>>,
    watch: Option<RtWatch>,
    /// Heard of a change since the last index.
    heard: bool,
    last: Option<Last>,
    api: Option<ApiHandle>,
    services: Option<ServiceHandle>,
    /// How it stood with Services when that was told last.
    services_told: Option<&'static str>,
    /// How it stood with the API when that was told last.
    told: Option<&'static str>,
    /// As of the last index: pods with a log directory, and where the API disagrees.
    compared: (usize, Option<Disagreements>),
}

/// The last index.
#[derive(Clone, Copy, Debug)]
struct Last {
    made: Instant,
    print: u64,
    /// When the signs last changed.
    changed: Instant,
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
    cgroups: Option<Vec<u8>>,
}

impl Survey {
    /// From now on pods are also known as the API has them.
    pub fn set_api(&mut self, api: ApiHandle) {
        self.api = Some(api);
    }

    /// From now on Services are known as the API has them.
    pub fn set_services(&mut self, services: ServiceHandle) {
        self.services = Some(services);
    }

    /// Did the last reading of Services succeed? None: none is asked, or there was no answer yet.
    #[must_use]
    pub fn services_success(&self) -> Option<bool> {
        self.services.as_ref()?.status().state.success()
    }

    /// How it stands with Services, when that is another state than at the last call.
    pub fn services_news(&mut self) -> Option<State> {
        let state = self.services.as_ref()?.status().state;
        let before = self.services_told.replace(state.word());
        (before != self.services_told && state != State::Connecting(None)).then_some(state)
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
        let found = Discovery::of(self.api.as_ref()?, *logs, disagreements.clone(), now);
        Some(found.with_services(self.services.as_ref()))
    }

    /// A new index when something changed. None: the last one holds.
    pub fn index(&mut self, system: &System, namespaces: &[Namespace], now: Instant) -> Option<Found> {
        let host = namespaces.iter().find(|n| n.host);
        let known = self.api.as_ref().and_then(ApiHandle::known);
        let api = known.map(|directory| directory.revision());
        // Before anything else is read: what changes from here on is heard the next time.
        self.stirred(host);
        let heard = std::mem::take(&mut self.heard);
        let cgroups = self.tree(system).and_then(|tree| locked(&tree).counts());
        let signs = Signs { api, cgroups, ..Signs::read(system, host) };
        let print = fingerprint(namespaces, &signs);
        let last = due(self.last, now, print, heard)?;
        self.last = Some(last);
        Some(self.survey(system, namespaces, host, signs))
    }

    /// Have addresses of the host or of a pod changed since the last index? Does not wait: asked between two rounds, a
    /// yes is a reason to begin the next one early.
    pub fn stirred(&mut self, host: Option<&Namespace>) -> bool {
        if self.watch.is_none() {
            // Where it is refused, each round's own look and the one every few seconds are left.
            let opened = host.map(|n| in_namespace(&n.path, n.inum, RtWatch::open));
            self.watch = opened.and_then(Result::ok).and_then(Result::ok);
        }
        self.heard |= self.watch.as_mut().is_some_and(RtWatch::changed);
        self.heard
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
        locked(&tree).all(Instant::now()).map(|(id, path)| (id, path.to_vec())).collect()
    }

    fn cgroups(&mut self, system: &System) -> CgroupLookup {
        let tree = self.tree(system);
        Box::new(move |id| locked(tree.as_ref()?).lookup(id, Instant::now()).map(<[u8]>::to_vec))
    }
}

impl Signs {
    fn read(system: &System, host: Option<&Namespace>) -> Self {
        let read = host.map(|n| {
            in_namespace(&n.path, n.inum, || (rtnetlink::links().ok(), rtnetlink::addresses().ok()))
        });
        let (links, addresses) = read.and_then(Result::ok).unwrap_or_default();
        let pod_logs = std::fs::metadata(&system.podlogs).and_then(|metadata| metadata.modified()).ok();
        Self { links, addresses, pod_logs, api: None, cgroups: None }
    }
}

fn addresses(namespace: &Namespace) -> io::Result<Vec<IpAddr>> {
    in_namespace(&namespace.path, namespace.inum, rtnetlink::addresses)?.map_err(io::Error::other)
}

fn locked(tree: &Mutex<CgroupTree>) -> MutexGuard<'_, CgroupTree> {
    // A lookup that panicked elsewhere left at worst cgroups unread, which the next walk finds.
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last index, made now, if a new one is due. None: the last one holds.
fn due(last: Option<Last>, now: Instant, print: u64, heard: bool) -> Option<Last> {
    let Some(last) = last else { return Some(Last { made: now, print, changed: now }) };
    if heard || last.print != print {
        return Some(Last { made: now, print, changed: now });
    }
    let since = |then| now.saturating_duration_since(then);
    let settling = since(last.changed) <= SETTLING && since(last.made) >= AGAIN;
    (settling || since(last.made) >= ANEW).then_some(Last { made: now, ..last })
}

/// Changes when namespaces come or go, get their first process (a pod's sandbox is made before it) or lose it,
/// when the host's devices or addresses change, when a pod comes or goes, by its logs or by the API, and when cgroups
/// do.
fn fingerprint(namespaces: &[Namespace], signs: &Signs) -> u64 {
    let mut hasher = DefaultHasher::new();
    for namespace in namespaces {
        // The host's processes come and go all the time and say nothing about it.
        let first = namespace.pids.first().filter(|_| !namespace.host);
        (namespace.inum, namespace.host, first).hash(&mut hasher);
    }
    (&signs.links, &signs.addresses, signs.pod_logs, signs.api, &signs.cgroups).hash(&mut hasher);
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
    fn due_at_a_change_a_while_after_it_and_every_few_seconds() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let first = due(None, start, 1, false);
        assert!(first.is_some());
        assert!(due(first, at(499), 1, false).is_none(), "there can be little new");
        let settling = due(first, at(1_000), 1, false);
        assert!(settling.is_some_and(|last| last.changed == start && last.made == at(1_000)));
        assert!(due(settling, at(2_001), 1, false).is_none(), "settled");
        assert!(due(settling, at(5_999), 1, false).is_none());
        assert!(due(settling, at(6_000), 1, false).is_some(), "now and then all the same");
        let changed = due(settling, at(2_500), 2, false);
        assert!(changed.is_some_and(|last| (last.print, last.changed) == (2, at(2_500))));
        let stirred = due(settling, at(2_600), 1, true);
        assert!(stirred.is_some_and(|last| last.changed == at(2_600)));
        assert!(due(stirred, at(3_600), 1, false).is_some());
    }

    #[test]
    fn whatever_tells_an_owner_changes_the_fingerprint() {
        let signs = |links: &[Link], address: &str, seconds: u64| Signs {
            links: Some(links.to_vec()),
            addresses: Some(vec![address.parse().unwrap()]),
            pod_logs: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            api: Some(1),
            cgroups: Some(b"nr_descendants 90".to_vec()),
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
            (pod(&[9, 11]), Signs { cgroups: Some(b"nr_descendants 91".to_vec()), ..plain() }),
            (pod(&[9, 11]), Signs::default()),
        ] {
            assert_ne!(before, fingerprint(&namespaces, &signs), "{namespaces:?} {signs:?}");
        }
    }
}

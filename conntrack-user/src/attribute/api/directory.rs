//! The pods of this node: what the watch hands on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attribute::pods::PodName;

/// A pod that is gone keeps its name for two scrapes: what it lost last is told later.
pub const TOMBSTONE: Duration = Duration::from_secs(30);

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace, name, and the uid that the node knows it by: of a static pod not the API's, but the hash of
    /// its manifest, as in its cgroup path and log directory.
    pub name: PodName,
    /// Its addresses; the node's own where it is in the host's network.
    pub addresses: Vec<IpAddr>,
    /// Is it in the host's network?
    pub host_network: bool,
    /// How far it is.
    pub phase: Phase,
    /// Is it to be deleted?
    pub deleting: bool,
    /// Ids of its containers, without the runtime's name.
    pub containers: Vec<String>,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Accepted, not all containers started.
    Pending,
    /// At least one container runs.
    Running,
    /// Ended well: its address may be another's by now.
    Succeeded,
    /// Ended badly: the same.
    Failed,
    /// Not told.
    #[default]
    Unknown,
}

impl Pod {
    /// Are its addresses its own, and still?
    #[must_use]
    pub fn has_own_address(&self) -> bool {
        !self.host_network && !matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

/// The pods of this node at one instant, those that went a short while ago among them.
#[derive(Clone, Debug, Default)]
pub struct PodDirectory {
    pods: HashMap<String, Entry>,
    /// None: more than one pod says it has it.
    addresses: HashMap<IpAddr, Option<Arc<Pod>>>,
    revision: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    pod: Arc<Pod>,
    /// Since when it is gone.
    gone: Option<Instant>,
}

impl PodDirectory {
    /// Changes with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The pod that the node knows by this uid, gone or not.
    #[must_use]
    pub fn by_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid).map(|entry| &*entry.pod)
    }

    /// The one pod that has this address now. None: no pod, or more than one, or that of the host.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Pod> {
        self.addresses.get(&address)?.as_deref()
    }

    /// Every pod that is there.
    pub fn live(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().filter(|entry| entry.gone.is_none()).map(|entry| &*entry.pod)
    }

    /// The names of all, those that went a short while ago among them.
    pub fn names(&self) -> impl Iterator<Item = &PodName> {
        self.pods.values().map(|entry| &entry.pod.name)
    }

    /// How many pods went a short while ago.
    #[must_use]
    pub fn tombstones(&self) -> usize {
        self.pods.values().filter(|entry| entry.gone.is_some()).count()
    }

    /// A pod came, or changed. Most changes of a pod are of what is not kept, and no change here.
    pub fn put(&mut self, pod: Pod) {
        let known = self.pods.get(&pod.name.uid);
        if known.is_some_and(|entry| entry.gone.is_none() && *entry.pod == pod) {
            return;
        }
        let entry = Entry { pod: Arc::new(pod), gone: None };
        self.pods.insert(entry.pod.name.uid.clone(), entry);
        self.changed();
    }

    /// A pod went.
    pub fn bury(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.gone = entry.gone.or(Some(now));
            self.changed();
        }
    }

    /// These are all pods there are: any other went.
    pub fn replace(&mut self, pods: Vec<Pod>, now: Instant) {
        for entry in self.pods.values_mut() {
            entry.gone = entry.gone.or(Some(now));
        }
        for pod in pods {
            let entry = Entry { pod: Arc::new(pod), gone: None };
            self.pods.insert(entry.pod.name.uid.clone(), entry);
        }
        self.changed();
    }

    /// Is there a pod whose time is up?
    #[must_use]
    pub fn is_due(&self, now: Instant, tombstone: Duration) -> bool {
        self.pods.values().any(|entry| is_over(entry, now, tombstone))
    }

    /// Forgets the pods whose time is up.
    pub fn forget(&mut self, now: Instant, tombstone: Duration) {
        self.pods.retain(|_, entry| !is_over(entry, now, tombstone));
        self.changed();
    }

    fn changed(&mut self) {
        self.revision += 1;
        self.addresses.clear();
        let live = self.pods.values().filter(|entry| entry.gone.is_none() && entry.pod.has_own_address());
        for Entry { pod, .. } in live {
            for &address in &pod.addresses {
                let known = self.addresses.entry(address).or_insert_with(|| Some(pod.clone()));
                match known {
                    Some(other) if other.name.uid == pod.name.uid => {}
                    // Who is on the way out has given it up to who comes.
                    Some(other) if other.deleting && !pod.deleting => *known = Some(pod.clone()),
                    Some(other) if !other.deleting && pod.deleting => {}
                    _ => *known = None,
                }
            }
        }
    }
}

fn is_over(entry: &Entry, now: Instant, tombstone: Duration) -> bool {
    entry.gone.is_some_and(|gone| now.saturating_duration_since(gone) >= tombstone)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pod(number: u8, address: &str) -> Pod {
        Pod {
            name: PodName {
                namespace: "shop".to_owned(),
                name: format!("cart-{number}"),
                uid: format!("0a1b2c3d-1111-4222-8333-1234567890{number:02x}"),
            },
            addresses: vec![address.parse().unwrap()],
            host_network: false,
            phase: Phase::Running,
            deleting: false,
            containers: Vec::new(),
        }
    }

    fn at(directory: &PodDirectory, address: &str) -> Option<String> {
        directory.by_address(address.parse().unwrap()).map(|pod| pod.name.name.clone())
    }

    #[test]
    fn a_pod_that_went_keeps_its_name_but_not_its_address_for_a_while() {
        let now = Instant::now();
        let mut directory = PodDirectory::default();
        directory.put(pod(1, "10.0.0.1"));
        let one = pod(1, "10.0.0.1").name.uid;
        let before = directory.revision();
        directory.bury(&one, now);
        assert!(directory.revision() > before);
        assert_eq!(directory.by_uid(&one).unwrap().name.name, "cart-1");
        assert_eq!(
            (at(&directory, "10.0.0.1"), directory.live().count(), directory.tombstones()),
            (None, 0, 1)
        );
        let nearly = now + TOMBSTONE - Duration::from_millis(1);
        directory.bury(&one, nearly);
        assert!(!directory.is_due(nearly, TOMBSTONE) && directory.is_due(now + TOMBSTONE, TOMBSTONE));
        directory.forget(now + TOMBSTONE, TOMBSTONE);
        assert!(directory.by_uid(&one).is_none() && directory.names().next().is_none());
    }

    #[test]
    fn the_revision_changes_with_what_is_kept_and_with_nothing_else() {
        let mut directory = PodDirectory::default();
        let mut after = |change: &dyn Fn(&mut PodDirectory)| {
            let before = directory.revision();
            change(&mut directory);
            directory.revision() != before
        };
        let one = pod(1, "10.0.0.1");
        assert!(after(&|d| d.put(pod(1, "10.0.0.1"))));
        assert!(!after(&|d| d.put(pod(1, "10.0.0.1"))));
        assert!(after(&|d| d.put(pod(1, "10.0.0.2"))));
        assert!(after(&|d| d.bury(&one.name.uid, Instant::now())));
        assert!(after(&|d| d.put(pod(1, "10.0.0.2"))), "it is back");
        assert!(!after(&|d| d.bury("another", Instant::now())));
    }

    #[test]
    fn a_new_list_buries_what_it_lacks_and_digs_up_what_it_has() {
        let now = Instant::now();
        let mut directory = PodDirectory::default();
        directory.replace(vec![pod(1, "10.0.0.1"), pod(2, "10.0.0.2")], now);
        directory.replace(vec![pod(2, "10.0.0.2"), pod(3, "10.0.0.1")], now);
        assert_eq!((directory.live().count(), directory.tombstones()), (2, 1));
        assert_eq!(at(&directory, "10.0.0.1").as_deref(), Some("cart-3"), "the address is another's");
        directory.replace(vec![pod(1, "10.0.0.1")], now);
        assert_eq!((directory.live().count(), directory.tombstones()), (1, 2));
    }

    #[test]
    fn an_address_of_two_is_nobodys_unless_one_is_on_its_way_out() {
        let (one, two) = (pod(1, "10.0.0.1"), pod(2, "10.0.0.1"));
        let with = |pods: [Pod; 2]| {
            let mut directory = PodDirectory::default();
            directory.replace(pods.into(), Instant::now());
            at(&directory, "10.0.0.1")
        };
        assert_eq!(with([one.clone(), two.clone()]), None);
        assert_eq!(with([Pod { deleting: true, ..one.clone() }, two.clone()]).as_deref(), Some("cart-2"));
        assert_eq!(with([one.clone(), Pod { deleting: true, ..two.clone() }]).as_deref(), Some("cart-1"));
        assert_eq!(
            with([Pod { phase: Phase::Failed, ..one.clone() }, two.clone()]).as_deref(),
            Some("cart-2")
        );
        assert_eq!(with([Pod { host_network: true, ..one }, two]).as_deref(), Some("cart-2"));
    }
}

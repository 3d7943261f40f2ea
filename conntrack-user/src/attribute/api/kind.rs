//! What the watch has to know of a kind of object.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::directory::{Pod, PodDirectory};
use super::services::{Service, ServiceDirectory};
use super::wire::WirePod;
use super::wire_service::WireService;

/// A kind of object, by what is kept of all of them.
pub trait Kind: Clone + Default + Send + Sync + 'static {
    /// As the API has it.
    type Wire: DeserializeOwned;
    /// What is kept of it.
    type Item: Send + 'static;
    /// In the API's paths, and for people.
    const PLURAL: &'static str;
    /// The kind of a list of it.
    const LIST: &'static str;
    /// Kept at most: many times what there may be.
    const MAX: usize;

    /// What the query begins with, to be told of no more than is needed.
    fn selector(node: &str) -> String;
    /// Its resourceVersion.
    fn version(wire: &Self::Wire) -> &str;
    /// What is kept of it; None: nothing.
    fn kept(wire: Self::Wire, node: &str) -> Option<Self::Item>;
    /// By what it is known.
    fn key(item: &Self::Item) -> String;
    /// How many are kept.
    fn count(&self) -> usize;
    /// Is it kept?
    fn has(&self, key: &str) -> bool;
    /// One came, or changed.
    fn put(&mut self, item: Self::Item);
    /// One went.
    fn remove(&mut self, key: &str, now: Instant);
    /// These are all: any other went.
    fn replace(&mut self, items: Vec<Self::Item>, now: Instant);
    /// Is there one that is still kept and whose time is up?
    fn is_due(&self, now: Instant, tombstone: Duration) -> bool;
    /// Forgets those.
    fn forget(&mut self, now: Instant, tombstone: Duration);
}

impl Kind for PodDirectory {
    type Wire = WirePod;
    type Item = Pod;
    const PLURAL: &'static str = "pods";
    const LIST: &'static str = "PodList";
    /// Twenty times what a node is made for.
    const MAX: usize = 10_000;

    fn selector(node: &str) -> String {
        format!("fieldSelector=spec.nodeName%3D{node}&")
    }

    fn version(wire: &WirePod) -> &str {
        wire.version()
    }

    fn kept(wire: WirePod, node: &str) -> Option<Pod> {
        wire.kept(node)
    }

    fn key(pod: &Pod) -> String {
        pod.name.uid.clone()
    }

    fn count(&self) -> usize {
        self.names().count()
    }

    fn has(&self, key: &str) -> bool {
        self.by_uid(key).is_some()
    }

    fn put(&mut self, pod: Pod) {
        Self::put(self, pod);
    }

    fn remove(&mut self, key: &str, now: Instant) {
        self.bury(key, now);
    }

    fn replace(&mut self, pods: Vec<Pod>, now: Instant) {
        Self::replace(self, pods, now);
    }

    fn is_due(&self, now: Instant, tombstone: Duration) -> bool {
        Self::is_due(self, now, tombstone)
    }

    fn forget(&mut self, now: Instant, tombstone: Duration) {
        Self::forget(self, now, tombstone);
    }
}

impl Kind for ServiceDirectory {
    type Wire = WireService;
    type Item = Service;
    const PLURAL: &'static str = "services";
    const LIST: &'static str = "ServiceList";
    /// Ten times what a cluster is made for.
    const MAX: usize = 100_000;

    /// Of the whole cluster: a pod may speak to any.
    fn selector(_node: &str) -> String {
        String::new()
    }

    fn version(wire: &WireService) -> &str {
        wire.version()
    }

    fn kept(wire: WireService, _node: &str) -> Option<Service> {
        wire.kept()
    }

    fn key(service: &Service) -> String {
        service.name.to_string()
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn has(&self, key: &str) -> bool {
        self.contains(key)
    }

    fn put(&mut self, service: Service) {
        Self::put(self, service);
    }

    fn remove(&mut self, key: &str, _now: Instant) {
        Self::remove(self, key);
    }

    fn replace(&mut self, services: Vec<Service>, _now: Instant) {
        Self::replace(self, services);
    }

    fn is_due(&self, _now: Instant, _tombstone: Duration) -> bool {
        false
    }

    fn forget(&mut self, _now: Instant, _tombstone: Duration) {}
}

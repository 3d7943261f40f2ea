//! The Services of the cluster: who is addressed by an address, protocol and port.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::attribute::observed::Flow;

/// Name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ServiceName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name in it.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// Addresses that the API server gave it and nobody else.
    pub cluster: Vec<IpAddr>,
    /// External and load balancer's addresses: whoever may make a Service may claim any.
    pub external: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// IP protocol number.
    pub protonum: u8,
    /// At its own addresses.
    pub port: u16,
    /// At each node's addresses.
    pub node_port: Option<u16>,
}

/// Address, protocol and port.
type Front = (IpAddr, u8, u16);

/// The Services of the cluster at one instant. Held in place and asked there: it is too large to be copied each time.
#[derive(Clone, Debug, Default)]
pub struct ServiceDirectory {
    services: HashMap<String, Arc<Service>>,
    cluster: HashMap<Front, Arc<Service>>,
    /// One address may be claimed by several.
    external: HashMap<Front, Vec<Arc<Service>>>,
    node_ports: HashMap<(u8, u16), Arc<Service>>,
}

impl ServiceDirectory {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Is `namespace/name` there?
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.services.contains_key(key)
    }

    /// The Service that a flow's destination is (before translation); `of_node`: is that address this node's own?
    ///
    /// An address given by the API server goes before one that was claimed; one that several claim is nobody's.
    #[must_use]
    pub fn addressed(&self, flow: &Flow, of_node: impl FnOnce(IpAddr) -> bool) -> Option<&ServiceName> {
        let front = (flow.dst, flow.protonum, flow.dport);
        if let Some(service) = self.cluster.get(&front) {
            return Some(&service.name);
        }
        if let Some(claims) = self.external.get(&front) {
            return if let [service] = claims.as_slice() { Some(&service.name) } else { None };
        }
        let service = self.node_ports.get(&(flow.protonum, flow.dport))?;
        of_node(flow.dst).then_some(&service.name)
    }

    /// One came, or changed.
    pub fn put(&mut self, service: Service) {
        let key = service.name.to_string();
        if self.services.get(&key).is_some_and(|known| **known == service) {
            return;
        }
        self.remove(&key);
        let service = Arc::new(service);
        for port in &service.ports {
            for &address in &service.cluster {
                self.cluster.insert((address, port.protonum, port.port), service.clone());
            }
            for &address in &service.external {
                let claims = self.external.entry((address, port.protonum, port.port)).or_default();
                claims.push(service.clone());
            }
            if let Some(node_port) = port.node_port {
                self.node_ports.insert((port.protonum, node_port), service.clone());
            }
        }
        self.services.insert(key, service);
    }

    /// One went. What another has taken over meanwhile stays that one's.
    pub fn remove(&mut self, key: &str) {
        let Some(service) = self.services.remove(key) else { return };
        for port in &service.ports {
            for &address in &service.cluster {
                let front = (address, port.protonum, port.port);
                if self.cluster.get(&front).is_some_and(|other| Arc::ptr_eq(other, &service)) {
                    self.cluster.remove(&front);
                }
            }
            for &address in &service.external {
                let front = (address, port.protonum, port.port);
                if let Some(claims) = self.external.get_mut(&front) {
                    claims.retain(|other| !Arc::ptr_eq(other, &service));
                    if claims.is_empty() {
                        self.external.remove(&front);
                    }
                }
            }
            let Some(node_port) = port.node_port else { continue };
            let front = (port.protonum, node_port);
            if self.node_ports.get(&front).is_some_and(|other| Arc::ptr_eq(other, &service)) {
                self.node_ports.remove(&front);
            }
        }
    }

    /// These are all there are.
    pub fn replace(&mut self, services: Vec<Service>) {
        *self = Self::default();
        for service in services {
            self.put(service);
        }
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;

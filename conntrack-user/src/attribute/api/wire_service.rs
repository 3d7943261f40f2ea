//! A Service in the API's JSON. Only what is kept has a field: all else is skipped unread.

use std::net::IpAddr;

use serde::Deserialize;

use super::services::{Service, ServiceName, ServicePort};
use super::wire::{Address, null_is_none};
use crate::attribute::pods::dns_name;

/// Addresses kept of one Service, of each kind.
const MAX_ADDRESSES: usize = 16;
/// Ports kept of one Service.
const MAX_PORTS: usize = 256;

/// A Service as the API has it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct WireService {
    #[serde(deserialize_with = "null_is_none")]
    metadata: Meta,
    #[serde(deserialize_with = "null_is_none")]
    spec: Spec,
    #[serde(deserialize_with = "null_is_none")]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    namespace: String,
    name: String,
    resource_version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    #[serde(rename = "clusterIP", deserialize_with = "null_is_none")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_none")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "null_is_none")]
    external_ips: Vec<String>,
    #[serde(deserialize_with = "null_is_none")]
    ports: Vec<Port>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    protocol: String,
    port: i64,
    node_port: i64,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    #[serde(deserialize_with = "null_is_none")]
    load_balancer: LoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct LoadBalancer {
    #[serde(deserialize_with = "null_is_none")]
    ingress: Vec<Address>,
}

impl WireService {
    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// What is kept of it. None: its names are none.
    pub(super) fn kept(self) -> Option<Service> {
        let name = ServiceName {
            namespace: dns_name(self.metadata.namespace.as_bytes(), 63)?,
            name: dns_name(self.metadata.name.as_bytes(), 63)?,
        };
        let spec = self.spec;
        let ingress = self.status.load_balancer.ingress;
        let ports = spec.ports.iter().filter_map(Port::kept).take(MAX_PORTS).collect();
        Some(Service {
            name,
            cluster: addresses(spec.cluster_ips.iter().chain([&spec.cluster_ip])),
            external: addresses(spec.external_ips.iter().chain(ingress.iter().map(|one| &one.ip))),
            ports,
        })
    }
}

impl Port {
    fn kept(&self) -> Option<ServicePort> {
        let protonum = match self.protocol.as_str() {
            "" | "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            _ => return None,
        };
        let number = |port: i64| u16::try_from(port).ok().filter(|port| *port > 0);
        Some(ServicePort { protonum, port: number(self.port)?, node_port: number(self.node_port) })
    }
}

/// A headless Service has the address "None", which is none.
fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).take(MAX_ADDRESSES).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.shrink_to_fit();
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn kept(object: Value) -> Option<Service> {
        serde_json::from_value::<WireService>(object).unwrap().kept()
    }

    #[test]
    fn what_is_kept_of_a_service() {
        let service = kept(json!({
            "metadata": {"namespace": "shop", "name": "backend", "annotations": {"a": "b"}, "managedFields": []},
            "spec": {
                "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "externalIPs": ["203.0.113.9"],
                "selector": {"app": "backend"}, "type": "LoadBalancer",
                "ports": [
                    {"name": "web", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30_080},
                    {"protocol": "UDP", "port": 53}, {"protocol": "Dance", "port": 1}, {"port": 99_999},
                ],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.4"}, {"hostname": "lb.example"}]}},
        }));
        let ip = |text: &str| text.parse().unwrap();
        assert_eq!(
            service,
            Some(Service {
                name: ServiceName { namespace: "shop".into(), name: "backend".into() },
                cluster: vec![ip("10.96.0.7"), ip("fd00::7")],
                external: vec![ip("198.51.100.4"), ip("203.0.113.9")],
                ports: vec![
                    ServicePort { protonum: 6, port: 80, node_port: Some(30_080) },
                    ServicePort { protonum: 17, port: 53, node_port: None },
                ],
            })
        );
    }

    #[test]
    fn headless_empty_and_hostile_ones() {
        let meta = json!({"namespace": "shop", "name": "backend"});
        let spec = json!({"clusterIP": "None", "clusterIPs": ["None"], "externalIPs": null, "ports": null});
        let headless = kept(json!({"metadata": meta, "spec": spec, "status": null})).unwrap();
        assert!(headless.cluster.is_empty() && headless.external.is_empty() && headless.ports.is_empty());
        assert_eq!(kept(json!({})), None);
        assert_eq!(kept(json!({"metadata": {"namespace": "shop", "name": "a\n\"b"}})), None);
    }
}

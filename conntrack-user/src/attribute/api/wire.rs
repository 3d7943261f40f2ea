//! The API's JSON. Only what is kept has a field: all else is skipped unread.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::directory::{Phase, Pod};
use super::kind::Kind;
use crate::attribute::pod_uid;
use crate::attribute::pods::{PodName, dns_name};

/// Addresses kept of one pod.
const MAX_ADDRESSES: usize = 16;
/// Containers kept of one pod.
const MAX_CONTAINERS: usize = 256;

/// A page of a list.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<I> {
    /// What is kept: of pods those of the node asked for. What is none of the kind is left out.
    pub items: Vec<I>,
    /// From where to watch.
    pub resource_version: String,
    /// How to ask for the next page.
    pub next: Option<String>,
}

/// A line of a watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<I> {
    /// One came or changed; None: nothing is kept of it.
    Put(Option<I>),
    /// The one of this key went; None: nothing was kept of it.
    Gone(Option<String>),
    /// Nothing happened up to here.
    Bookmark,
    /// The server gives up: code and message.
    Error(u16, String),
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    kind: String,
    metadata: ListMeta,
    /// One after the other is read and pruned: all at once would leave holes in memory where they were.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

/// A pod as the API has it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct WirePod {
    #[serde(deserialize_with = "null_is_none")]
    metadata: Meta,
    #[serde(deserialize_with = "null_is_none")]
    spec: Spec,
    #[serde(deserialize_with = "null_is_none")]
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_is_none")]
    annotations: Annotations,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    /// A static pod's uid on its node; the API gives its mirror another.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: String,
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    host_network: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "null_is_none")]
    pod_ips: Vec<Address>,
    #[serde(deserialize_with = "null_is_none")]
    container_statuses: Vec<Container>,
    #[serde(deserialize_with = "null_is_none")]
    init_container_statuses: Vec<Container>,
    #[serde(deserialize_with = "null_is_none")]
    ephemeral_container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    pub(super) ip: String,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default, rename = "containerID")]
    id: String,
}

pub(super) fn null_is_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads a page of a list; of pods, those of `node`.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn page<K: Kind>(json: &[u8], node: &str) -> Result<Page<K::Item>, String> {
    let list: List<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if !list.kind.is_empty() && list.kind != K::LIST {
        return Err(format!("a {:.40?} instead of a {}", list.kind, K::LIST));
    }
    let resource_version = version(&list.metadata.resource_version)?;
    let next = Some(list.metadata.next).filter(|next| !next.is_empty());
    let mut items = Vec::new();
    for item in list.items.unwrap_or_default() {
        let wire: K::Wire = serde_json::from_str(item.get()).map_err(|error| error.to_string())?;
        items.extend(K::kept(wire, node));
    }
    Ok(Page { items, resource_version, next })
}

/// Reads a line of a watch, of pods over those of `node`, and up to where it goes.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn change<K: Kind>(line: &[u8], node: &str) -> Result<(Change<K::Item>, Option<String>), String> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if line.kind == "ERROR" {
        let status: Status = serde_json::from_str(line.object.get()).map_err(|error| error.to_string())?;
        return Ok((Change::Error(status.code, status.message), None));
    }
    let wire: K::Wire = serde_json::from_str(line.object.get()).map_err(|error| error.to_string())?;
    let upto = version(K::version(&wire))?;
    let change = match line.kind {
        "ADDED" | "MODIFIED" => Change::Put(K::kept(wire, node)),
        "DELETED" => Change::Gone(K::kept(wire, node).map(|item| K::key(&item))),
        "BOOKMARK" => Change::Bookmark,
        other => return Err(format!("a change of the unknown type {other:.20?}")),
    };
    Ok((change, Some(upto)))
}

/// Opaque, but it goes into a URL.
fn version(text: &str) -> Result<String, String> {
    let plain =
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain { Ok(text.to_owned()) } else { Err(format!("no resourceVersion: {text:.20?}")) }
}

impl WirePod {
    pub(super) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// What is kept of it. None: not one of this node, or its names are none.
    pub(super) fn kept(self, node: &str) -> Option<Pod> {
        if self.spec.node_name != node {
            return None;
        }
        let annotations = &self.metadata.annotations;
        let mirrored = !annotations.mirror.is_empty() && !annotations.hash.is_empty();
        let uid = if mirrored { &annotations.hash } else { &self.metadata.uid };
        let name = PodName {
            namespace: dns_name(self.metadata.namespace.as_bytes(), 63)?,
            name: dns_name(self.metadata.name.as_bytes(), 253)?,
            uid: pod_uid::from_api_spelling(uid.as_bytes())?,
        };
        let status = self.status;
        let all = status.pod_ips.iter().map(|address| &address.ip).chain([&status.pod_ip]);
        let mut addresses: Vec<IpAddr> =
            all.filter_map(|address| address.parse().ok()).take(MAX_ADDRESSES).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let containers =
            [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        Some(Pod {
            name,
            addresses,
            host_network: self.spec.host_network,
            phase: phase(&status.phase),
            deleting: self.metadata.deletion_timestamp.is_some(),
            containers: containers
                .into_iter()
                .flatten()
                .filter_map(|container| container_id(&container.id))
                .take(MAX_CONTAINERS)
                .collect(),
        })
    }
}

fn phase(text: &str) -> Phase {
    match text {
        "Pending" => Phase::Pending,
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        _ => Phase::Unknown,
    }
}

/// The id in `containerd://ID`. None: it is none.
fn container_id(text: &str) -> Option<String> {
    let id = text.split_once("://")?.1;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (!id.is_empty() && id.len() <= 128 && id.bytes().all(plain)).then(|| id.to_owned())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;

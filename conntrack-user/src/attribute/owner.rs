//! Who an entry, a refusal or an eviction belongs to, and by what evidence.

use serde::{Deserialize, Serialize};

/// Exactly one of these owns everything that is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "owner", rename_all = "snake_case")]
pub enum Owner {
    /// A Kubernetes pod.
    Pod {
        /// Kubernetes namespace; empty when only the uid is known.
        namespace: String,
        /// Pod name; the uid when the name is not known.
        pod: String,
        /// Pod uid.
        uid: String,
    },
    /// A cgroup that is no pod's: a host service, or a container without Kubernetes.
    Cgroup {
        /// Path below the cgroup root.
        cgroup: String,
    },
    /// The host itself: its namespace, or an address of its own, with no cgroup known.
    Host,
    /// An address that is not on this node.
    External,
    /// Not known. Said, never guessed.
    Unknown,
}

impl Owner {
    /// Someone who is on this node but is not the node.
    #[must_use]
    pub const fn is_tenant(&self) -> bool {
        matches!(self, Self::Pod { .. } | Self::Cgroup { .. })
    }
}

/// What proved the owner; in the order in which it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The table's network namespace is the owner's.
    Namespace,
    /// The packet came in by the owner's host-side veth.
    Device,
    /// The original source address is the owner's.
    SourceAddress,
    /// The original destination, or the reply source after DNAT, is the owner's.
    DestinationAddress,
    /// The socket that sent it is in the owner's cgroup.
    SocketCgroup,
    /// The entry was counted as the owner's when it was made.
    Entry,
    /// Nothing proved it.
    None,
}

//! Label sets of tables and owners, and which of them get series of their own.

use std::collections::BTreeSet;

use crate::aggregate::snapshot::Table;
use crate::attribute::owner::Owner;

/// What stands for all that have no series of their own.
pub const OTHER: &str = "_other";

/// Labels of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableLabels {
    /// "host", "pod" or "netns".
    pub table: &'static str,
    /// Kubernetes namespace; empty unless a pod's.
    pub namespace: String,
    /// Pod; empty unless a pod's.
    pub pod: String,
    /// Inode of the namespace; empty unless `table` is "netns".
    pub netns: String,
}

/// Labels of an owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerLabels {
    /// "pod", "cgroup", "host", "external" or "unknown".
    pub owner: &'static str,
    /// Kubernetes namespace; empty unless a pod.
    pub namespace: String,
    /// Pod; empty unless a pod.
    pub pod: String,
    /// cgroup; empty unless a cgroup.
    pub cgroup: String,
}

/// A label set that may stand for the rest.
pub trait Labels: Clone + Ord {
    /// Is it the one that stands for the rest? Its counters are never taken away.
    fn is_rest(&self) -> bool;
    /// Is it of a kind of which there are few, so that it needs no room of its own?
    fn is_few(&self) -> bool;
}

impl Labels for TableLabels {
    fn is_rest(&self) -> bool {
        self.pod == OTHER || self.netns == OTHER
    }

    fn is_few(&self) -> bool {
        self.table == "host"
    }
}

impl Labels for OwnerLabels {
    fn is_rest(&self) -> bool {
        self.pod == OTHER || self.cgroup == OTHER
    }

    fn is_few(&self) -> bool {
        !matches!(self.owner, "pod" | "cgroup")
    }
}

/// The value of the label `table`: "host", "pod", or "netns" for any other namespace.
#[must_use]
pub fn table_kind(table: &Table) -> &'static str {
    match &table.owner {
        _ if table.host => "host",
        Owner::Pod { .. } => "pod",
        _ => "netns",
    }
}

/// The labels of a table when it has series of its own.
#[must_use]
pub fn table_labels(table: &Table) -> TableLabels {
    let kind = table_kind(table);
    let (namespace, pod) = match &table.owner {
        Owner::Pod { namespace, pod, .. } if kind == "pod" => (namespace.clone(), pod.clone()),
        _ => (String::new(), String::new()),
    };
    let netns = if kind == "netns" { table.netns.to_string() } else { String::new() };
    TableLabels { table: kind, namespace, pod, netns }
}

/// The labels of an owner when it has series of its own.
#[must_use]
pub fn owner_labels(owner: &Owner) -> OwnerLabels {
    let mut labels =
        OwnerLabels { owner: "", namespace: String::new(), pod: String::new(), cgroup: String::new() };
    labels.owner = match owner {
        Owner::Pod { namespace, pod, .. } => {
            labels.namespace.clone_from(namespace);
            labels.pod.clone_from(pod);
            "pod"
        }
        Owner::Cgroup { cgroup } => {
            labels.cgroup.clone_from(cgroup);
            "cgroup"
        }
        Owner::Host => "host",
        Owner::External => "external",
        Owner::Unknown => "unknown",
    };
    labels
}

impl TableLabels {
    /// The label set its kind is folded into.
    #[must_use]
    pub fn rest(&self) -> Self {
        let other = |is: bool| if is { OTHER.to_owned() } else { String::new() };
        Self {
            table: self.table,
            namespace: String::new(),
            pod: other(self.table == "pod"),
            netns: other(self.table == "netns"),
        }
    }
}

impl OwnerLabels {
    /// The label set its kind is folded into.
    #[must_use]
    pub fn rest(&self) -> Self {
        let other = |is: bool| if is { OTHER.to_owned() } else { String::new() };
        Self {
            owner: self.owner,
            namespace: String::new(),
            pod: other(self.owner == "pod"),
            cgroup: other(self.owner == "cgroup"),
        }
    }
}

/// Who has series of their own: first come, first served, and kept for life. Who was folded into the rest
/// stays there for life too, even when room comes free: leaving it would take its counts out of a counter.
#[derive(Clone, Debug)]
pub struct Admission<L> {
    room: usize,
    own: BTreeSet<L>,
    folded: BTreeSet<L>,
}

impl<L: Labels> Admission<L> {
    /// Room for so many.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { room, own: BTreeSet::new(), folded: BTreeSet::new() }
    }

    /// Has `labels` series of its own? Decides it when it is new.
    pub fn admits(&mut self, labels: &L) -> bool {
        if labels.is_rest() || labels.is_few() || self.own.contains(labels) {
            return true;
        }
        if self.own.len() < self.room && !self.folded.contains(labels) {
            return self.own.insert(labels.clone());
        }
        self.folded.insert(labels.clone());
        false
    }

    /// Forgets all for which `alive` is false.
    pub fn retain(&mut self, alive: impl Fn(&L) -> bool) {
        self.own.retain(&alive);
        self.folded.retain(&alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> OwnerLabels {
        owner_labels(&Owner::Pod { namespace: "ns".into(), pod: name.into(), uid: String::new() })
    }

    #[test]
    fn first_come_keeps_its_series_and_the_folded_stay_folded() {
        let mut admission = Admission::new(1);
        assert!(admission.admits(&pod("a")));
        assert!(!admission.admits(&pod("b")));
        assert!(admission.admits(&owner_labels(&Owner::Unknown)), "kinds that are few need no room");
        admission.retain(|l| l.pod != "a");
        assert!(!admission.admits(&pod("b")), "folded stays folded");
        assert!(admission.admits(&pod("c")), "a new one takes the room");
    }

    #[test]
    fn the_rest_of_a_kind_names_no_namespace() {
        let rest = pod("a").rest();
        assert_eq!((rest.owner, rest.namespace.as_str(), rest.pod.as_str()), ("pod", "", OTHER));
        assert!(rest.is_rest() && !pod("a").is_rest());
    }
}

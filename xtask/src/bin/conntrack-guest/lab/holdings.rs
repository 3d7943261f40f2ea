//! What each owner holds, as the daemon's metrics have it.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use super::workload::NAMESPACE;

/// Labels of an owner's series, as printed.
pub(crate) type Holder = String;

/// A pod of the lab, in a kind of table.
pub(crate) fn pod(table: &str, name: &str) -> Holder {
    labels(table, "pod", NAMESPACE, name, "")
}

/// A cgroup, in the host's table.
pub(crate) fn cgroup(path: &str) -> Holder {
    labels("host", "cgroup", "", "", path)
}

/// A cgroup, in the table of a namespace that is no pod's.
pub(crate) fn cgroup_inside(path: &str) -> Holder {
    labels("netns", "cgroup", "", "", path)
}

/// "host", "external" or "unknown", in the host's table.
pub(crate) fn other(kind: &str) -> Holder {
    labels("host", kind, "", "", "")
}

fn labels(table: &str, owner: &str, namespace: &str, pod: &str, cgroup: &str) -> Holder {
    format!(
        "{{table=\"{table}\",owner=\"{owner}\",namespace=\"{namespace}\",pod=\"{pod}\",cgroup=\"{cgroup}\"}}"
    )
}

/// What one owner has; or what it has more than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// `conntrack_owner_entries`.
    pub(crate) entries: i64,
    /// `conntrack_owner_responder_entries`.
    pub(crate) answers: i64,
    /// `conntrack_owner_inserts_total`.
    pub(crate) inserts: i64,
    /// `conntrack_owner_drops_total`.
    pub(crate) drops: i64,
    /// `conntrack_owner_evictions_total`.
    pub(crate) evictions: i64,
}

/// What all owners have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings(pub(crate) BTreeMap<Holder, Held>);

impl Holdings {
    /// Reads a page.
    ///
    /// # Errors
    /// When a sample is no number.
    pub(crate) fn read(page: &str) -> anyhow::Result<Self> {
        let mut all = BTreeMap::<Holder, Held>::new();
        for line in page.lines() {
            let Some(rest) = line.strip_prefix("conntrack_owner_") else { continue };
            let Some((name, rest)) = rest.split_once('{') else { continue };
            let (labels, value) = rest.rsplit_once("} ").with_context(|| line.to_owned())?;
            let value = value.trim().parse::<f64>().with_context(|| line.to_owned())? as i64;
            let held = all.entry(format!("{{{labels}}}")).or_default();
            match name {
                "entries" => held.entries = value,
                "responder_entries" => held.answers = value,
                "inserts_total" => held.inserts = value,
                "drops_total" => held.drops = value,
                "evictions_total" => held.evictions = value,
                _ => {}
            }
        }
        Ok(Self(all))
    }

    /// What one owner has; nothing where it has no series.
    pub(crate) fn of(&self, holder: &str) -> Held {
        self.0.get(holder).copied().unwrap_or_default()
    }

    /// Entries, summed over owners of one kind of table.
    pub(crate) fn sum(&self, table: &str) -> i64 {
        let start = format!("{{table=\"{table}\",");
        self.0.iter().filter(|(labels, _)| labels.starts_with(&start)).map(|(_, held)| held.entries).sum()
    }

    /// What each has more than before; none of those for whom nothing changed.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let holders = self.0.keys().chain(before.0.keys()).cloned();
        let change = |holder: Holder| {
            let (now, then) = (self.of(&holder), before.of(&holder));
            let change = Held {
                entries: now.entries - then.entries,
                answers: now.answers - then.answers,
                inserts: now.inserts - then.inserts,
                drops: now.drops - then.drops,
                evictions: now.evictions - then.evictions,
            };
            (change != Held::default()).then_some((holder, change))
        };
        Self(holders.filter_map(change).collect())
    }

    /// Fails unless this is what was wanted, no more and no less.
    ///
    /// # Errors
    /// With both.
    pub(crate) fn must_be(&self, what: &str, wanted: &[(Holder, Held)]) -> anyhow::Result<()> {
        let mut sums = Self::default();
        for (holder, held) in wanted {
            let sum = sums.0.entry(holder.clone()).or_default();
            sum.entries += held.entries;
            sum.answers += held.answers;
            sum.inserts += held.inserts;
            sum.drops += held.drops;
            sum.evictions += held.evictions;
        }
        ensure!(*self == sums, "{what}: owners changed by\n{:#?}\nwanted\n{:#?}", self.0, sums.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP conntrack_owner_entries Entries {held}.\n\
        conntrack_owner_entries{table=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"cart\",cgroup=\"\"} 7\n\
        conntrack_owner_entries{table=\"host\",owner=\"unknown\",namespace=\"\",pod=\"\",cgroup=\"\"} 2\n\
        conntrack_owner_entries{table=\"pod\",owner=\"pod\",namespace=\"shop\",pod=\"cart\",cgroup=\"\"} 5\n\
        conntrack_owner_inserts_total{table=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"cart\",cgroup=\"\"} 9\n";

    #[test]
    fn a_page_is_read() {
        let page = Holdings::read(PAGE).unwrap();
        assert_eq!((page.sum("host"), page.sum("pod")), (9, 5));
        let cart = page.of(&pod("host", "cart"));
        assert_eq!((cart.entries, cart.inserts), (7, 9));
        assert_eq!(page.of(&pod("host", "none")), Held::default());
    }

    #[test]
    fn only_changes_are_left() {
        let before = Holdings::read(PAGE).unwrap();
        let now = Holdings::read(&PAGE.replace("} 2", "} 3")).unwrap();
        let change = Held { entries: 1, ..Held::default() };
        assert_eq!(now.since(&before).0, BTreeMap::from([(other("unknown"), change)]));
        assert!(now.since(&before).must_be("x", &[(other("unknown"), change)]).is_ok());
        assert!(now.since(&before).must_be("x", &[]).is_err());
        assert!(Holdings::default().since(&before).0.len() == 3);
    }
}

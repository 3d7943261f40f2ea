//! Which counts exist at all, from which probes are attached: what nobody counts is absent, not 0.

use std::collections::BTreeSet;

use crate::aggregate::snapshot::{ProbeState, Snapshot};

/// Exit of `__nf_conntrack_alloc`: allocations and refusals.
pub const ALLOC: &str = "alloc";
/// Entry of `nf_conntrack_free`.
pub const FREE: &str = "free";
/// Entry and exit of `early_drop`: table full proper, and the frame of its evictions.
pub const EARLY_DROP: &str = "early_drop";
/// `__nf_conntrack_confirm`: inserts, chain too long, dying.
pub const CONFIRM: &str = "confirm";
/// Exit of `nf_ct_delete`: evictions.
pub const DELETE: &str = "delete";
/// Entry and exit of `gc_worker`: the frame of its evictions.
pub const GC: &str = "gc_worker";
/// Exit of `nf_ct_resolve_clash`.
pub const CLASH: &str = "clash";
/// `nf_ct_get_id`: the entries that a dump shows.
pub const AUDIT: &str = "audit";
/// `kfree_skb`, for refusals concluded without probes on conntrack.
pub const KFREE_SKB: &str = "kfree_skb";

/// `nf_ct_l4proto_log_invalid`: INVALID packets of translated entries.
pub const INVALID: &str = "invalid";
/// `inet_sock_set_state`: connection attempts that come to an end.
pub const STATE: &str = "tcp_state";
/// `tcp_retransmit_skb`: retransmissions of open connections.
pub const RETRANSMIT: &str = "retransmit";

/// Not a probe: what needs it is told only while refusals are concluded, not counted.
pub const INFERRED_MODE: &str = "mode inferred";

/// The mechanism of a probe that is not attached.
pub const NOT_ATTACHED: &str = "none";

/// Is this probe attached?
#[must_use]
pub fn attached(probe: &ProbeState) -> bool {
    probe.mechanism != NOT_ATTACHED
}

/// Names of the probes that are attached.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeSet<&'static str>);

impl Coverage {
    /// From the state of the probes.
    #[must_use]
    pub fn of(probes: &[ProbeState]) -> Self {
        let mut names: BTreeSet<_> = probes.iter().filter(|p| attached(p)).map(|p| p.probe).collect();
        // As the probes' plan has it: what infers is attached only where `alloc` is not.
        if !names.contains(ALLOC) {
            names.insert(INFERRED_MODE);
        }
        Self(names)
    }

    /// Are all of these attached? A probe that is not in the table is not.
    #[must_use]
    pub fn has(&self, needs: &[&str]) -> bool {
        needs.iter().all(|n| self.0.contains(n))
    }
}

/// "full" while refusals are counted at the functions that refuse, else "inferred".
#[must_use]
pub fn mode(snapshot: &Snapshot) -> &'static str {
    if Coverage::of(&snapshot.probes).has(&[INFERRED_MODE]) { "inferred" } else { "full" }
}

/// Are the probes' counts exact? True while refusals are counted where they happen and the kernel has skipped no
/// run of any probe. None: this kernel does not tell what it skipped.
#[must_use]
pub fn exact(snapshot: &Snapshot) -> Option<bool> {
    if mode(snapshot) != "full" {
        return Some(false);
    }
    // What an audit missed it meets again in the next, and it counts nothing.
    let counting = snapshot.probes.iter().filter(|p| attached(p) && p.probe != AUDIT);
    let missed: Vec<_> = counting.map(|p| p.missed).collect();
    if missed.iter().any(|missed| missed.is_some_and(|n| n > 0)) {
        return Some(false);
    }
    missed.iter().all(Option::is_some).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture;

    #[test]
    fn exact_while_nothing_is_missed() {
        let mut snapshot = fixture::snapshot();
        for p in snapshot.probes.iter_mut().filter(|p| attached(p)) {
            p.missed = Some(0);
        }
        assert_eq!(exact(&snapshot), Some(true));
        let first = snapshot.probes.iter().position(attached).unwrap();
        snapshot.probes[first].missed = None;
        assert_eq!(exact(&snapshot), None);
        snapshot.probes[first].missed = Some(1);
        assert_eq!(exact(&snapshot), Some(false));
        assert_eq!(exact(&Snapshot::default()), Some(false));
    }

    #[test]
    fn one_refused_probe_takes_away_what_needs_it_only() {
        let mut snapshot = fixture::snapshot();
        let refuse = |snapshot: &mut Snapshot, name| {
            for p in snapshot.probes.iter_mut().filter(|p| p.probe == name) {
                p.mechanism = NOT_ATTACHED;
            }
        };
        assert_eq!(mode(&snapshot), "full");
        refuse(&mut snapshot, EARLY_DROP);
        assert_eq!(mode(&snapshot), "full", "alloc counts refusals, of both reasons together");
        let coverage = Coverage::of(&snapshot.probes);
        assert!(coverage.has(&[ALLOC]) && coverage.has(&[]));
        assert!(!coverage.has(&[ALLOC, EARLY_DROP]) && !coverage.has(&["no such probe"]));
        refuse(&mut snapshot, ALLOC);
        assert_eq!(mode(&snapshot), "inferred");
    }
}

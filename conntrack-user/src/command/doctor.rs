//! `doctor`: looks, attaches what can be attached, and judges.

use super::doctor_text::{Conntrack, Doctor, ProbeRow, Tier};
use super::remedy::remedy;
use crate::aggregate::gaps::gaps;
use crate::aggregate::snapshot::ProbeState;
use crate::config::System;
use crate::drain::netns::scan_namespaces;
use crate::drain::surroundings::Surroundings;
use crate::export::coverage::{ALLOC, KFREE_SKB, attached};
use crate::kernel::release::Release;
use crate::probe::attach::{Probes, unloaded};

/// Attaches everything for a moment and says how it went. What fails is part of the answer.
#[must_use]
pub fn examine(system: &System) -> Doctor {
    let scan = scan_namespaces(&system.procfs).unwrap_or_default();
    let around = Surroundings::read(system, &scan);
    let states = match Probes::load(system) {
        Ok((mut probes, _drains)) => {
            if around.conntrack_loaded {
                probes.attach();
            }
            probes.states()
        }
        Err(error) => unloaded(&format!("{error:#}")),
    };
    let module = system.sysfs.join("module/nf_conntrack/initstate").exists();
    let (tier, tier_reason) = tier(&states, around.conntrack_loaded);
    Doctor {
        version: env!("CARGO_PKG_VERSION"),
        kernel: Release::read(&system.procfs).ok().map(|r| r.text),
        machine: Some(std::env::consts::ARCH.to_owned()),
        conntrack: match (around.conntrack_loaded, module) {
            (false, _) => Conntrack::NotLoaded,
            (true, true) => Conntrack::Module,
            (true, false) => Conntrack::BuiltIn,
        },
        tier,
        tier_reason,
        coverage: gaps(&around, &states),
        probes: states.into_iter().map(|state| ProbeRow { remedy: remedy(&state, &around), state }).collect(),
        findings: Vec::new(),
    }
}

/// How refusals are come by, and why not better.
fn tier(states: &[ProbeState], loaded: bool) -> (Tier, Option<String>) {
    let state = |name: &str| states.iter().find(|s| s.probe == name);
    let alloc = state(ALLOC);
    let by = |mechanism| alloc.is_some_and(|s| s.mechanism == mechanism);
    let tier = if by("fentry") {
        Tier::Fentry
    } else if by("kprobe") {
        Tier::Kprobe
    } else if state(KFREE_SKB).is_some_and(attached) {
        Tier::Inferred
    } else {
        Tier::Statistics
    };
    // While conntrack is not loaded nothing was tried: there is no reason to tell.
    (tier, alloc.and_then(|s| s.reason.clone()).filter(|_| loaded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture::probe;

    #[test]
    fn the_tier_is_how_refusals_are_come_by() {
        let of = |alloc, kfree_skb| tier(&[probe(ALLOC, alloc), probe(KFREE_SKB, kfree_skb)], true);
        assert_eq!(of("fentry", "none"), (Tier::Fentry, None));
        assert_eq!(of("kprobe", "raw_tracepoint"), (Tier::Kprobe, None));
        assert_eq!(of("none", "raw_tracepoint").0, Tier::Inferred);
        assert!(of("none", "none").1.is_some_and(|why| why.contains("EPERM")));
        assert_eq!(tier(&[probe(ALLOC, "none")], false), (Tier::Statistics, None));
    }
}

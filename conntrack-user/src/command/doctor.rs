//! `doctor`: looks, attaches what can be attached, and judges.

use std::time::Instant;

use super::doctor_text::{Conntrack, Doctor, Note, ProbeRow, Tier};
use super::invalid_note;
use super::remedy::remedy;
use crate::aggregate::gaps::gaps;
use crate::aggregate::snapshot::ProbeState;
use crate::attribute::api::handle::{ApiHandle, ServiceHandle};
use crate::attribute::api::settings::Settings;
use crate::attribute::discovery::Discovery;
use crate::attribute::survey::Survey;
use crate::config::System;
use crate::drain::netns::scan_namespaces;
use crate::drain::surroundings::Surroundings;
use crate::export::coverage::{ALLOC, KFREE_SKB, attached};
use crate::kernel::release::Release;
use crate::probe::attach::{Probes, unloaded};

/// Attaches everything for a moment and says how it went. What fails is part of the answer.
#[must_use]
pub fn examine(system: &System, kubernetes: &Settings) -> Doctor {
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
    // Both at once: a person waits.
    let (pods, services) = std::thread::scope(|scope| {
        let services = scope.spawn(|| ServiceHandle::ask_once(kubernetes));
        (ApiHandle::ask_once(kubernetes), services.join())
    });
    let mut survey = Survey::with_api(pods);
    if let Ok(services) = services {
        survey.set_services(services);
    }
    let now = Instant::now();
    survey.index(system, &scan.namespaces, now);
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
        findings: survey
            .discovery(now)
            .iter()
            .flat_map(discovery_notes)
            .chain(invalid_note::note(&around))
            .collect(),
    }
}

/// How pods are discovered, and each disagreement.
fn discovery_notes(found: &Discovery) -> Vec<Note> {
    let note = |found: String, advice| Note { topic: "kubernetes", found, advice };
    let logs = format!("{} pods by their log directories", found.log_pods);
    let told = match (&found.reason, found.api_pods) {
        (None, Some(pods)) => format!("API {}, {pods} pods of this node; {logs}", found.kubernetes),
        (reason, _) => {
            format!("API {}: {}; {logs}", found.kubernetes, reason.as_deref().unwrap_or("no answer"))
        }
    };
    let mut notes = vec![note(told, None)];
    if let (Some(state), false) = (found.services, found.services == Some("disabled")) {
        let told = match (&found.services_reason, found.api_services) {
            (None, Some(services)) => format!("Services {state}, {services} of the cluster"),
            (reason, _) => {
                let reason = reason.as_deref().unwrap_or("no answer");
                format!("Services {state}: {reason}; events name no Service")
            }
        };
        notes.push(note(told, None));
    }
    if let Some(disagreements) = &found.disagreements {
        let count: u64 = disagreements.counts.values().sum();
        notes.extend(disagreements.examples.values().map(|example| note(example.clone(), None)));
        if count > 0 {
            let advice =
                "check that NODE_NAME is this node's and that --path.podlogs is where the kubelet logs";
            notes.push(note(
                format!("the API and this node disagree on {count} pods"),
                Some(advice.to_owned()),
            ));
        }
    }
    notes
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
    use crate::attribute::discovery::Disagreements;
    use crate::export::fixture::probe;

    #[test]
    fn discovery_is_one_line_and_one_for_each_disagreement() {
        let mut found = Discovery {
            kubernetes: "forbidden",
            reason: Some("no right".into()),
            last_error: None,
            stale_seconds: None,
            api_pods: None,
            services: None,
            services_reason: None,
            api_services: None,
            log_pods: 3,
            disagreements: None,
        };
        let told =
            |found: &Discovery| discovery_notes(found).into_iter().map(|n| n.found).collect::<Vec<_>>();
        assert_eq!(told(&found), ["API forbidden: no right; 3 pods by their log directories"]);
        (found.services, found.services_reason) = (Some("forbidden"), Some("no right to list".into()));
        assert_eq!(told(&found)[1], "Services forbidden: no right to list; events name no Service");
        (found.services, found.services_reason, found.api_services) = (Some("synced"), None, Some(7));
        assert_eq!(told(&found)[1], "Services synced, 7 of the cluster");
        found.services = Some("disabled");
        assert_eq!(told(&found).len(), 1);
        (found.kubernetes, found.reason, found.api_pods) = ("synced", None, Some(4));
        let counts = [("name", 2)].into();
        found.disagreements = Some(Disagreements { counts, examples: [("name", "one".to_owned())].into() });
        let lines = told(&found);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("API synced, 4 pods") && lines[2].contains("on 2 pods"), "{lines:?}");
    }

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

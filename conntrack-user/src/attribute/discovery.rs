//! What the API says of this node's pods beside what the node itself shows: joined, and compared.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use serde::Serialize;

use super::api::directory::{Phase, PodDirectory};
use super::api::handle::{ApiHandle, ServiceHandle};
use super::api::state::State;
use super::index::NamespaceFacts;
use super::netns_owner::{PodNames, owner_of_processes};
use super::owner::Owner;
use super::pods::PodName;

/// How pods were discovered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Discovery {
    /// How it stands with the API: "disabled", "connecting", "synced", "stale" or "forbidden".
    pub kubernetes: &'static str,
    /// Why it is not "synced"; one line.
    pub reason: Option<String>,
    /// What went wrong last, over or not; one line. None: nothing did.
    pub last_error: Option<String>,
    /// For how long the API has not been heard. None: it is heard, or it never was.
    pub stale_seconds: Option<f64>,
    /// Pods of this node as the API has them. None: it was never heard.
    pub api_pods: Option<usize>,
    /// How it stands with the Services, as `kubernetes` has it. None: they are not asked for.
    pub services: Option<&'static str>,
    /// Why they are not "synced"; one line.
    pub services_reason: Option<String>,
    /// Services of the cluster as the API has them. None: it was never heard.
    pub api_services: Option<usize>,
    /// Pods that have a log directory here.
    pub log_pods: usize,
    /// Where the API and the node disagree. None: there is no API in step to compare with.
    pub disagreements: Option<Disagreements>,
}

/// Where the API and this node disagree, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disagreements {
    /// How many of each kind; every kind is there.
    pub counts: BTreeMap<&'static str, u64>,
    /// One of each kind that there is, for people.
    pub examples: BTreeMap<&'static str, String>,
}

/// The log directory and the API have different names for a pod.
pub const NAME: &str = "name";
/// A pod runs as the API has it, but has no log directory while others have.
pub const NO_LOGS: &str = "no_logs";
/// A pod is on the node that the API does not have there.
pub const NOT_IN_API: &str = "not_in_api";
/// None of the addresses that the API has for a pod is in the pod's namespace.
pub const ADDRESS: &str = "address";
/// Every kind, in order.
pub const KINDS: [&str; 4] = [ADDRESS, NAME, NO_LOGS, NOT_IN_API];

impl Disagreements {
    fn none() -> Self {
        Self { counts: KINDS.map(|kind| (kind, 0)).into(), examples: BTreeMap::new() }
    }

    fn add(&mut self, kind: &'static str, example: impl FnOnce() -> String) {
        *self.counts.entry(kind).or_default() += 1;
        self.examples.entry(kind).or_insert_with(example);
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (kind, count) in other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        for (kind, example) in other.examples {
            self.examples.entry(kind).or_insert(example);
        }
        self
    }
}

/// Pod names of both sources, by uid; where they differ, the API's. Log directories may be older than the pods that
/// are there, so a name that only they have is no disagreement; one that only the API has is, where there are any.
#[must_use]
pub fn merge(api: Option<&PodDirectory>, logs: Vec<PodName>) -> (Vec<PodName>, Disagreements) {
    let mut found = Disagreements::none();
    let Some(api) = api else { return (logs, found) };
    let logged: HashSet<&str> = logs.iter().map(|pod| pod.uid.as_str()).collect();
    let running = api.live().filter(|pod| pod.phase == Phase::Running && !pod.deleting);
    for pod in running.filter(|pod| !logs.is_empty() && !logged.contains(pod.name.uid.as_str())) {
        let PodName { namespace, name, uid } = &pod.name;
        found.add(NO_LOGS, || format!("{namespace}/{name} ({uid}) runs, but has no log directory"));
    }
    let mut names: Vec<PodName> = api.names().cloned().collect();
    for logged in logs {
        match api.by_uid(&logged.uid).map(|pod| &pod.name) {
            None => names.push(logged),
            Some(told) if *told == logged => {}
            Some(told) => found.add(NAME, || {
                format!(
                    "{} is {}/{} for the API and {}/{} in the logs",
                    told.uid, told.namespace, told.name, logged.namespace, logged.name
                )
            }),
        }
    }
    names.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
    (names, found)
}

/// Compares the pods whose namespaces were found with what the API has.
#[must_use]
pub fn compare(api: &PodDirectory, namespaces: &[NamespaceFacts]) -> Disagreements {
    let mut found = Disagreements::none();
    let nameless = PodNames::new();
    for namespace in namespaces.iter().filter(|namespace| !namespace.host) {
        let Owner::Pod { uid, .. } = owner_of_processes(&namespace.cgroups, &nameless) else { continue };
        let Some(pod) = api.by_uid(&uid) else {
            found.add(NOT_IN_API, || format!("pod {uid} is here, but not for the API"));
            continue;
        };
        let told = pod.has_own_address() && !pod.addresses.is_empty() && !namespace.addresses.is_empty();
        if told && !pod.addresses.iter().any(|address| namespace.addresses.contains(address)) {
            let PodName { namespace, name, .. } = &pod.name;
            found
                .add(ADDRESS, || format!("{namespace}/{name} has none of its addresses {:?}", pod.addresses));
        }
    }
    found
}

impl Discovery {
    /// With how it stands with the Services.
    #[must_use]
    pub fn with_services(mut self, services: Option<&ServiceHandle>) -> Self {
        if let Some(services) = services {
            let state = services.status().state;
            self.services = Some(state.word());
            self.services_reason = state.reason().map(str::to_owned);
            self.api_services = services.count();
        }
        self
    }

    /// How it stands now; `log_pods` and `disagreements` as of the last survey.
    #[must_use]
    pub fn of(api: &ApiHandle, log_pods: usize, disagreements: Option<Disagreements>, now: Instant) -> Self {
        let status = api.status();
        Self {
            kubernetes: status.state.word(),
            reason: status.state.reason().map(str::to_owned),
            last_error: status.last_error,
            stale_seconds: status.state.stale_for(now).map(|time| time.as_secs_f64()),
            api_pods: api.known().map(|directory| directory.live().count()),
            services: None,
            services_reason: None,
            api_services: None,
            log_pods,
            disagreements: disagreements.filter(|_| status.state == State::Synced),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::directory::Pod;
    use super::super::api::directory::tests::pod;
    use super::*;

    fn directory(pods: &[Pod]) -> PodDirectory {
        let mut directory = PodDirectory::default();
        directory.replace(pods.to_vec(), Instant::now());
        directory
    }

    fn logged(number: u8, name: &str) -> PodName {
        PodName { name: name.to_owned(), ..pod(number, "10.0.0.1").name }
    }

    fn count(found: &Disagreements) -> Vec<(&'static str, u64)> {
        found.counts.iter().filter(|(_, count)| **count > 0).map(|(kind, count)| (*kind, *count)).collect()
    }

    #[test]
    fn without_an_api_the_logs_alone_tell() {
        let (names, found) = merge(None, vec![logged(1, "cart-1")]);
        assert_eq!((names.len(), count(&found)), (1, Vec::new()));
    }

    #[test]
    fn both_sources_make_one_list_and_the_api_wins() {
        let mut api = directory(&[pod(1, "10.0.0.1"), pod(2, "10.0.0.2"), pod(3, "10.0.0.3")]);
        api.bury(&pod(3, "10.0.0.3").name.uid, Instant::now());
        let logs = vec![logged(1, "cart-1"), logged(2, "other"), logged(9, "older")];
        let (names, found) = merge(Some(&api), logs);
        let names: Vec<_> = names.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["cart-1", "cart-2", "cart-3", "older"], "a tombstone still has its name");
        assert_eq!(count(&found), [(NAME, 1)]);
        assert!(found.examples[NAME].contains("shop/cart-2") && found.examples[NAME].contains("shop/other"));
        assert_eq!(found.counts.len(), KINDS.len(), "known kinds are there at 0");
    }

    #[test]
    fn a_running_pod_without_logs_counts_only_where_there_are_logs() {
        let api = directory(&[pod(1, "10.0.0.1"), Pod { phase: Phase::Pending, ..pod(2, "10.0.0.2") }]);
        assert_eq!(count(&merge(Some(&api), Vec::new()).1), []);
        assert_eq!(count(&merge(Some(&api), vec![logged(9, "older")]).1), [(NO_LOGS, 1)]);
        assert_eq!(count(&merge(Some(&api), vec![logged(1, "cart-1")]).1), []);
    }

    fn namespace(number: u8, address: &str) -> NamespaceFacts {
        let cgroup = format!("/kubepods/pod{}/x", pod(number, address).name.uid).into_bytes();
        let addresses = vec![address.parse().unwrap()];
        NamespaceFacts { netns: 7, host: false, cgroups: vec![cgroup], addresses }
    }

    #[test]
    fn pods_found_here_are_looked_up() {
        let api = directory(&[pod(1, "10.0.0.1"), Pod { host_network: true, ..pod(2, "192.0.2.1") }]);
        assert_eq!(count(&compare(&api, &[namespace(1, "10.0.0.1"), namespace(2, "10.0.0.2")])), []);
        assert_eq!(count(&compare(&api, &[namespace(1, "10.0.0.9")])), [(ADDRESS, 1)]);
        let stranger = namespace(9, "10.0.0.1");
        assert_eq!(count(&compare(&api, std::slice::from_ref(&stranger))), [(NOT_IN_API, 1)]);
        assert_eq!(count(&compare(&api, &[NamespaceFacts { host: true, ..stranger }])), []);
    }

    #[test]
    fn many_are_counted_and_one_of_a_kind_is_told() {
        let api = PodDirectory::default();
        let all: Vec<_> = (0..9).map(|number| namespace(number, "10.0.0.1")).collect();
        let both = compare(&api, &all).and(compare(&api, &all));
        assert_eq!((count(&both), both.examples.len()), (vec![(NOT_IN_API, 18)], 1));
    }
}

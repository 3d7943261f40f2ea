//! Where the watch over the Kubernetes API comes in.

use std::time::Instant;

use super::{Daemon, lock};
use crate::aggregate::snapshot::Snapshot;
use crate::attribute::api::handle::{ApiHandle, ServiceHandle};
use crate::attribute::survey::Survey;

impl Daemon {
    /// From now on pods are also known as the API has them.
    pub fn set_api(&self, api: ApiHandle) {
        lock(&self.survey).0.set_api(api);
    }

    /// From now on Services are known as the API has them.
    pub fn set_services(&self, services: ServiceHandle) {
        lock(&self.owners).services = Some(services.clone());
        lock(&self.survey).0.set_services(services);
    }

    /// Tells how pods are discovered, and logs when that changed.
    pub(super) fn discovered(&self, survey: &mut Survey, snapshot: &mut Snapshot) {
        if let Some(state) = survey.api_news() {
            let fields =
                [("state", state.word().into()), ("reason", state.reason().unwrap_or_default().into())];
            match state.success() {
                Some(false) => self.log.warn("pods are not known by the Kubernetes API", &fields),
                _ => self.log.info("pods by the Kubernetes API", &fields),
            }
        }
        if let Some(state) = survey.services_news() {
            let fields =
                [("state", state.word().into()), ("reason", state.reason().unwrap_or_default().into())];
            match state.success() {
                Some(false) => self.log.warn("Services are not known by the Kubernetes API", &fields),
                _ => self.log.info("Services by the Kubernetes API", &fields),
            }
        }
        if let Some(ok) = survey.services_success() {
            snapshot.honesty.collectors.insert("kubernetes_services", ok);
        }
        if let Some(ok) = survey.api_success() {
            snapshot.honesty.collectors.insert("kubernetes", ok);
        }
        snapshot.discovery = survey.discovery(Instant::now());
    }
}

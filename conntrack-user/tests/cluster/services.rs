//! The Services of a real cluster.

use std::time::{Duration, Instant};

use conntrack_user::attribute::api::handle::ServiceHandle;
use conntrack_user::attribute::api::watch::Timing;
use conntrack_user::attribute::observed::Flow;
use http::Method;
use serde_json::json;

use crate::api::Admin;
use crate::node::Daemon;
use crate::server::{ADMIN, Cluster, NOBODY, until};
use crate::{NODE, PATIENT, SOON, figure, plan};

/// Services of the large cluster.
const MANY: usize = 10_000;

fn addressed(handle: &ServiceHandle, address: &str) -> Option<String> {
    let (src, dst) = ("10.1.0.1".parse().unwrap(), address.parse().unwrap());
    let flow = Flow { src, sport: 40_000, dst, dport: 80, protonum: 6 };
    handle.addressed(&flow, |_| false).map(|name| name.to_string())
}

fn word(handle: &ServiceHandle) -> &'static str {
    handle.status().state.word()
}

pub(crate) async fn named_and_forgotten(cluster: &Cluster, admin: &Admin) {
    let handle = ServiceHandle::watch(plan(cluster, ADMIN), Timing::default());
    until("synced", SOON, async || word(&handle) == "synced").await;
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..10 {
        let (name, address) = (format!("backend-{number}"), format!("10.96.200.{number}"));
        let began = Instant::now();
        admin.service(&name, &address).await;
        let named = format!("shop/{name}");
        until("named", SOON, async || addressed(&handle, &address).as_ref() == Some(&named)).await;
        times[0].push(began.elapsed());
        let began = Instant::now();
        admin.delete_service(&name).await;
        until("forgotten", SOON, async || addressed(&handle, &address).is_none()).await;
        times[1].push(began.elapsed());
    }
    let [named, forgotten] = times.map(|times| times.into_iter().max().unwrap());
    assert!(named.max(forgotten) < Duration::from_secs(1), "{named:?} {forgotten:?}");
    figure(&format!(
        "a Service is named {:.1} ms (longest of 10) after the request that makes it, forgotten {:.1} ms (longest) after \
         the one that deletes it",
        named.as_secs_f64() * 1e3,
        forgotten.as_secs_f64() * 1e3
    ));
    no_rights(cluster, admin).await;
}

/// Rights for pods alone: pods are known, Services are said not to be.
async fn no_rights(cluster: &Cluster, admin: &Admin) {
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
    admin.post(roles, &json!({"metadata": {"name": "pods-only"}, "rules": rules})).await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = json!({
        "metadata": {"name": "pods-only"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "pods-only"},
        "subjects": [{"kind": "User", "name": "nobody"}],
    });
    admin.post(bindings, &binding).await;
    let kubeconfig = cluster.kubeconfig(NOBODY);
    let flags = ["--kubernetes.node-name", NODE, "--kubernetes.kubeconfig", kubeconfig.to_str().unwrap()];
    let daemon = Daemon::run(cluster, &cluster.folder.join("no-logs"), &flags);
    let value = |name: &str| daemon.value(&format!("conntrack_collector_success{{collector=\"{name}\"}}"));
    until("pods are known, Services are not", PATIENT, async || {
        (value("kubernetes"), value("kubernetes_services")) == (Some(1.0), Some(0.0))
    })
    .await;
    let handle = ServiceHandle::watch(plan(cluster, NOBODY), Timing::default());
    until("forbidden", SOON, async || word(&handle) == "forbidden").await;
    figure(&format!(
        "rights for pods alone: collector kubernetes 1, kubernetes_services 0, \"{}\"",
        handle.status().last_error.unwrap()
    ));
    let path = format!("{bindings}/pods-only");
    admin.ask(Method::DELETE, &path, "application/json", Vec::new()).await.unwrap();
}

/// What the daemon takes for them, beside a daemon started before they were made.
pub(crate) async fn ten_thousand(cluster: &Cluster, admin: &Admin) {
    let kubeconfig = cluster.kubeconfig(ADMIN);
    let flags = ["--kubernetes.node-name", NODE, "--kubernetes.kubeconfig", kubeconfig.to_str().unwrap()];
    let logs = cluster.folder.join("no-logs");
    let in_step = async |daemon: &Daemon| {
        until("in step", PATIENT, async || {
            let series = "conntrack_collector_success{collector=\"kubernetes_services\"}";
            daemon.value(series) == Some(1.0)
        })
        .await;
        daemon.value("process_resident_memory_bytes").unwrap() / f64::from(1 << 20)
    };
    let watching = Daemon::run(cluster, &logs, &flags);
    let before = in_step(&watching).await;
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..10 {
        let admin = admin.clone();
        tasks.spawn(async move {
            for number in 0..MANY / 10 {
                let (third, fourth) = (part * 4 + number / 250 + 100, number % 250 + 1);
                admin.service(&format!("many-{part}-{number}"), &format!("10.96.{third}.{fourth}")).await;
            }
        });
    }
    tasks.join_all().await;
    let made = began.elapsed();
    let began = Instant::now();
    let handle = ServiceHandle::watch(plan(cluster, ADMIN), Timing::default());
    until("all", PATIENT, async || handle.count().is_some_and(|count| count >= MANY)).await;
    let listed = began.elapsed();
    assert_eq!(addressed(&handle, "10.96.100.1").as_deref(), Some("shop/many-0-0"));
    let watched = in_step(&watching).await;
    let listing = Daemon::run(cluster, &logs, &flags);
    let after = in_step(&listing).await;
    figure(&format!(
        "{MANY} Services (made in {:.0} s) listed in {:.0} ms; resident memory of the daemon {before:.1} MiB before they are \
         made, {watched:.1} MiB having watched them come, {after:.1} MiB where it starts with a list of them",
        made.as_secs_f64(),
        listed.as_secs_f64() * 1e3
    ));
    assert!(watched - before < 10.0, "what 10,000 Services may cost");
    assert!(after - before < 16.0, "what a list of them may leave behind");
}

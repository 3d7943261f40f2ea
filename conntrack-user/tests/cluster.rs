//! Discovery against a real kube-apiserver. `cargo xtask cluster` runs it and writes docs/cluster-report.md.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking, as the test does")]

#[allow(dead_code, reason = "only the namespaces are needed here")]
mod netns_pair;

#[path = "cluster/api.rs"]
mod api;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/server.rs"]
mod server;
#[path = "cluster/services.rs"]
mod services;

use std::time::{Duration, Instant};

use conntrack_user::attribute::api::handle::ApiHandle;
use conntrack_user::attribute::api::settings::{Plan, Target};
use conntrack_user::attribute::api::watch::{Patience, Timing};
use http::Method;
use rustix::process::Signal;
use serde_json::json;

use api::Admin;
use node::{Daemon, HostPod, program};
use server::{ADMIN, Cluster, NOBODY, until};

const NODE: &str = "node-00";
const SOON: Duration = Duration::from_secs(10);
/// For an API server to start on a busy machine, and for us to come back to it.
const PATIENT: Duration = Duration::from_secs(150);

fn plan(cluster: &Cluster, token: &str) -> Plan {
    Plan { target: Target::Kubeconfig(cluster.kubeconfig(token)), node: NODE.to_owned() }
}

fn word(handle: &ApiHandle) -> &'static str {
    handle.status().state.word()
}

fn live(handle: &ApiHandle) -> usize {
    handle.latest().live().count()
}

fn figure(text: &str) {
    println!("figure: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd and kube-apiserver: `cargo xtask cluster`"]
async fn discovery_against_a_real_api_server() {
    let mut cluster = Cluster::start();
    let admin = Admin::of(&cluster);
    let took = until("the API server answers", PATIENT, async || {
        cluster.must_run();
        admin.get("/readyz").await.is_ok()
    })
    .await;
    figure(&format!("kube-apiserver ready after {:.1} s", took.as_secs_f64()));
    admin.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}})).await;
    manifests_and_a_service_account(&cluster, &admin).await;
    names_and_deletion(&cluster, &admin).await;
    no_rights(&cluster, &admin).await;
    services::named_and_forgotten(&cluster, &admin).await;
    restart(&mut cluster, &admin).await;
    stopped(&cluster, &admin).await;
    the_daemon_beside_what_the_node_shows(&cluster, &admin).await;
    two_thousand(&cluster, &admin).await;
    services::ten_thousand(&cluster, &admin).await;
}

/// The manifests are taken by the server, and the token of their account is enough.
async fn manifests_and_a_service_account(cluster: &Cluster, admin: &Admin) {
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for name in ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml", "daemonset.yaml"] {
        admin.apply(&std::fs::read_to_string(deploy.join(name)).unwrap()).await;
    }
    let path = "/api/v1/namespaces/conntrack-pressure/serviceaccounts/conntrack-pressure/token";
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["https://kubernetes.default.svc"]}});
    let token = admin.post(path, &request).await["status"]["token"].as_str().unwrap().to_owned();
    let account = cluster.folder.join("account");
    std::fs::create_dir_all(&account).unwrap();
    std::fs::copy(cluster.ca(), account.join("ca.crt")).unwrap();
    std::fs::write(account.join("token"), &token).unwrap();
    let target = Target::InCluster { url: cluster.url.clone(), account };
    let handle = ApiHandle::watch(Plan { target, node: NODE.to_owned() }, Timing::default());
    until("the service account may watch", SOON, async || word(&handle) == "synced").await;
    let allowed = async |method: &str, path: &str| {
        let mut config = kube::Config::new(cluster.url.parse().unwrap());
        config.root_cert_file = Some(cluster.ca());
        config.auth_info.token = Some(token.clone().into());
        let client = kube::Client::try_from(config).unwrap();
        client
            .request_text(http::Request::builder().method(method).uri(path).body(Vec::new()).unwrap())
            .await
            .is_ok()
    };
    assert!(allowed("GET", "/api/v1/pods").await && allowed("GET", "/api/v1/services").await);
    for (method, path) in [
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/default/services/kubernetes"),
        ("GET", "/api/v1/endpoints"),
        ("GET", "/apis/discovery.k8s.io/v1beta1/endpointslices"),
        ("DELETE", "/api/v1/namespaces/shop/pods/x"),
    ] {
        assert!(!allowed(method, path).await, "{method} {path}");
    }
    figure(
        "deploy/*.yaml taken; the service account's token lists and watches pods and Services, and nothing else",
    );
}

async fn names_and_deletion(cluster: &Cluster, admin: &Admin) {
    let handle = ApiHandle::watch(plan(cluster, ADMIN), Timing::default());
    until("synced", SOON, async || word(&handle) == "synced").await;
    let mut learnt = Vec::new();
    for number in 0..10 {
        let address = format!("10.1.0.{number}");
        admin.pod(&format!("other-{number}"), "node-01", &format!("10.1.1.{number}")).await;
        let began = Instant::now();
        let uid = admin.pod(&format!("cart-{number}"), NODE, &address).await;
        let address = address.parse().unwrap();
        let known = async || handle.latest().by_address(address).is_some_and(|pod| pod.name.uid == uid);
        until("the pod", SOON, known).await;
        learnt.push(began.elapsed());
    }
    assert_eq!(live(&handle), 10, "pods of the other node are not ours");
    let latest = handle.latest();
    assert!(latest.live().all(|pod| pod.name.namespace == "shop" && pod.name.name.starts_with("cart-")));
    learnt.sort();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    figure(&format!(
        "a pod's name and address known {:.1} ms (median) to {:.1} ms (longest) after the request that makes it, of 10",
        ms(&learnt[5]),
        ms(&learnt[9])
    ));
    let uid = latest.by_address("10.1.0.0".parse().unwrap()).unwrap().name.uid.clone();
    let began = Instant::now();
    admin.delete_pod("cart-0").await;
    until("it is gone", SOON, async || live(&handle) == 9).await;
    let gone = began.elapsed();
    assert_eq!(handle.latest().by_uid(&uid).unwrap().name.name, "cart-0", "its name stays");
    assert!(handle.latest().by_address("10.1.0.0".parse().unwrap()).is_none(), "its address does not");
    until("it is forgotten", PATIENT, async || handle.latest().by_uid(&uid).is_none()).await;
    let forgotten = began.elapsed();
    assert!(forgotten >= Duration::from_secs(29), "{forgotten:?}");
    figure(&format!(
        "a deleted pod: address given up after {:.1} ms, name forgotten after {:.1} s",
        ms(&gone),
        forgotten.as_secs_f64()
    ));
}

async fn no_rights(cluster: &Cluster, admin: &Admin) {
    let handle = ApiHandle::watch(plan(cluster, NOBODY), Timing::default());
    until("forbidden", SOON, async || word(&handle) == "forbidden").await;
    let error = handle.status().last_error.unwrap();
    assert!(error.contains("rbac.yaml") && !error.contains('\n'), "{error}");
    figure(&format!("without rights: \"{error}\""));
    let logs = cluster.folder.join("no-logs");
    let kubeconfig = cluster.kubeconfig(NOBODY);
    let flags = ["--kubernetes.node-name", NODE, "--kubernetes.kubeconfig", kubeconfig.to_str().unwrap()];
    let output = program(&logs).arg("doctor").args(flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("- kubernetes:")).collect();
    assert!(lines.len() == 2, "{text}");
    assert!(lines.iter().all(|line| line.contains("forbidden") && line.contains("rbac.yaml")), "{lines:?}");
    let binding = json!({
        "metadata": {"name": "late"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "conntrack-pressure"},
        "subjects": [{"kind": "User", "name": "nobody"}],
    });
    admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let took = until("the rights are seen", PATIENT, async || word(&handle) == "synced").await;
    assert_eq!(live(&handle), 9);
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/late";
    admin.ask(Method::DELETE, path, "application/json", Vec::new()).await.unwrap();
    figure(&format!("rights given afterwards are seen by itself after {:.1} s", took.as_secs_f64()));
}

async fn restart(cluster: &mut Cluster, admin: &Admin) {
    let handle = ApiHandle::watch(plan(cluster, ADMIN), Timing::default());
    watching(&handle, admin, "before-restart").await;
    let before: Vec<String> = names(&handle);
    let began = Instant::now();
    cluster.kill_api();
    until("stale", SOON, async || word(&handle) == "stale").await;
    let stale = began.elapsed();
    assert_eq!(names(&handle), before, "what was known stays known");
    let began = Instant::now();
    let down = Duration::from_secs(5);
    until("it is down for a while", SOON, async || {
        assert_eq!((word(&handle), names(&handle).len()), ("stale", before.len()));
        began.elapsed() > down
    })
    .await;
    println!("{}", handle.status().last_error.unwrap());
    cluster.start_api();
    let up = until("the API server is back", PATIENT, async || {
        // As a kubelet would, at once.
        admin.get("/readyz").await.is_ok()
    });
    let up = up.await;
    let began = Instant::now();
    admin.pod("late", NODE, "10.1.0.200").await;
    until("synced again", PATIENT, async || word(&handle) == "synced" && live(&handle) == before.len() + 1)
        .await;
    let mut expected = [before, vec!["late".to_owned()]].concat();
    expected.sort();
    assert_eq!(names(&handle), expected);
    assert_eq!(handle.latest().tombstones(), 0, "nothing was taken for deleted");
    figure(&format!(
        "API server killed: stale after {:.1} ms, {} owners known throughout; back after {:.1} s, in step {:.1} s later \
         with the pod made meanwhile, nothing lost",
        stale.as_secs_f64() * 1e3,
        expected.len() - 1,
        up.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ));
}

fn names(handle: &ApiHandle) -> Vec<String> {
    let mut names: Vec<String> = handle.latest().live().map(|pod| pod.name.name.clone()).collect();
    names.sort();
    names
}

/// In step, and the watch is open: a pod made now is seen.
async fn watching(handle: &ApiHandle, admin: &Admin, name: &str) {
    until("synced", SOON, async || word(handle) == "synced").await;
    let before = live(handle);
    admin.pod(name, NODE, "10.1.0.201").await;
    until("the pod", SOON, async || live(handle) == before + 1).await;
}

/// A server that takes connections and says nothing, with a tenth of the usual patience.
async fn stopped(cluster: &Cluster, admin: &Admin) {
    let patience = Patience {
        connect: Duration::from_secs(1),
        answer: Duration::from_secs(3),
        silence: Duration::from_secs(9),
        ..Patience::default()
    };
    let handle = ApiHandle::watch(plan(cluster, ADMIN), Timing { patience, ..Timing::default() });
    watching(&handle, admin, "before-stop").await;
    let before = names(&handle);
    cluster.signal_api(Signal::STOP);
    let stale = until("stale", PATIENT, async || word(&handle) == "stale").await;
    assert_eq!(names(&handle), before);
    println!("{}", handle.status().last_error.unwrap());
    cluster.signal_api(Signal::CONT);
    let back = until("synced", PATIENT, async || word(&handle) == "synced").await;
    assert_eq!(names(&handle), before);
    admin.delete_pod("late").await;
    until("deletion", SOON, async || live(&handle) == before.len() - 1).await;
    figure(&format!(
        "API server stopped in its tracks (SIGSTOP): stale after {:.1} s with a tenth of the usual patience, in step \
         {:.1} s after SIGCONT",
        stale.as_secs_f64(),
        back.as_secs_f64()
    ));
}

/// Pods that are there, as the node shows them and as the API has them.
async fn the_daemon_beside_what_the_node_shows(cluster: &Cluster, admin: &Admin) {
    if !netns_pair::ready() {
        panic!("needs root, ip, nft and conntrack");
    }
    let logs = cluster.folder.join("podlogs");
    let kubeconfig = cluster.kubeconfig(ADMIN);
    let flags = ["--kubernetes.node-name", NODE, "--kubernetes.kubeconfig", kubeconfig.to_str().unwrap()];
    std::fs::create_dir_all(&logs).unwrap();
    let daemon = Daemon::run(cluster, &logs, &flags);
    until("in step", PATIENT, async || {
        daemon.value("conntrack_collector_success{collector=\"kubernetes\"}") == Some(1.0)
    })
    .await;
    let uid = admin.pod("front", NODE, "10.1.9.1").await;
    let began = Instant::now();
    let front = HostPod::new(&uid, "10.1.9.1");
    let entries = |line: &str| {
        line.starts_with("conntrack_entries{")
            && line.contains("namespace=\"shop\"")
            && line.contains("pod=\"front\"")
            && line.contains("table=\"pod\"")
    };
    until("the pod's table by its name in the API", PATIENT, async || {
        front.talk();
        daemon.metrics().lines().any(entries)
    })
    .await;
    figure(&format!(
        "daemon: a new pod's own table has its name from the API {:.0} ms after the namespace and its first process were \
         made (log directory: none)",
        began.elapsed().as_secs_f64() * 1e3
    ));
    let disagree =
        |kind: &str| daemon.value(&format!("conntrack_discovery_disagreements{{kind=\"{kind}\"}}"));
    let all = || ["address", "name", "no_logs", "not_in_api"].map(disagree);
    until("no disagreement", SOON, async || all() == [Some(0.0); 4]).await;
    // One pod that the API does not know, one with another address than it says, one with another name in the logs;
    // and once there are logs, all that run without.
    let stranger = HostPod::new("99999999-1111-4222-8333-1234567890ab", "10.1.9.2");
    let moved = HostPod::new(&admin.pod("moved", NODE, "10.1.9.3").await, "10.1.9.4");
    std::fs::create_dir_all(logs.join(format!("shop_front-old_{uid}"))).unwrap();
    let others = live(&ApiHandle::watch_in_step(plan(cluster, ADMIN)).await) as f64 - 1.0;
    let expected = [Some(1.0), Some(1.0), Some(others), Some(1.0)];
    until("every disagreement", SOON, async || all() == expected).await;
    let output = program(&logs).arg("doctor").args(flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let told: Vec<&str> = text.lines().filter(|line| line.starts_with("- kubernetes:")).collect();
    assert!(told.len() == 7 && told[0].contains("synced"), "{text}");
    println!("{}", told.join("\n"));
    drop((stranger, moved));
    admin.delete_pod("moved").await;
    std::fs::remove_dir(logs.join(format!("shop_front-old_{uid}"))).unwrap();
    until("agreement again", SOON, async || all() == [Some(0.0); 4]).await;
    figure("disagreements address, name, no_logs, not_in_api: each counted when made, 0 before and after");
    drop(front);
    admin.delete_pod("front").await;
}

trait InStep: Sized {
    async fn watch_in_step(plan: Plan) -> Self;
}

impl InStep for ApiHandle {
    async fn watch_in_step(plan: Plan) -> Self {
        let handle = Self::watch(plan, Timing::default());
        until("synced", SOON, async || word(&handle) == "synced").await;
        handle
    }
}

async fn two_thousand(cluster: &Cluster, admin: &Admin) {
    let before = live(&ApiHandle::watch_in_step(plan(cluster, ADMIN)).await);
    let ours = 100 - before;
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..20 {
        let admin = admin.clone();
        tasks.spawn(async move {
            for number in 0..if node == 0 { ours } else { 100 } {
                admin
                    .pod(
                        &format!("load-{node}-{number}"),
                        &format!("node-{node:02}"),
                        &format!("10.2.{node}.{number}"),
                    )
                    .await;
            }
        });
    }
    tasks.join_all().await;
    let all = admin.get("/api/v1/pods?limit=3000").await.unwrap();
    let count = all["items"].as_array().unwrap().len();
    assert!(count >= 2_000, "{count}");
    let began = Instant::now();
    let handle = ApiHandle::watch_in_step(plan(cluster, ADMIN)).await;
    let took = began.elapsed();
    assert_eq!(live(&handle), 100);
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}");
    let json = admin.get(&path).await.unwrap().to_string().len();
    let logs = cluster.folder.join("no-logs");
    let kubeconfig = cluster.kubeconfig(ADMIN);
    let with = ["--kubernetes.node-name", NODE, "--kubernetes.kubeconfig", kubeconfig.to_str().unwrap()];
    let with = Daemon::run(cluster, &logs, &with);
    let without = Daemon::run(cluster, &logs, &["--kubernetes.mode", "off"]);
    until("in step", PATIENT, async || {
        with.value("conntrack_collector_success{collector=\"kubernetes\"}") == Some(1.0)
            && without.value("process_resident_memory_bytes").is_some()
    })
    .await;
    assert_eq!(without.value("conntrack_collector_success{collector=\"kubernetes\"}"), None);
    let resident =
        |daemon: &Daemon| daemon.value("process_resident_memory_bytes").unwrap() / (1 << 20) as f64;
    figure(&format!(
        "{count} pods over 20 nodes: the 100 of this node listed in {:.0} ms, {} KiB of JSON; resident memory of the \
         daemon {:.1} MiB, without the API {:.1} MiB",
        took.as_secs_f64() * 1e3,
        json >> 10,
        resident(&with),
        resident(&without)
    ));
    assert!(resident(&with) - resident(&without) < 16.0, "what 100 pods may cost");
}

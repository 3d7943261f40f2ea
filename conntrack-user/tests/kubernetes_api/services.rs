//! The watch over Services.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use conntrack_user::attribute::api::handle::{ApiHandle, ServiceHandle};
use conntrack_user::attribute::observed::Flow;
use serde_json::{Value, json};

use crate::fake_api::objects::{Folder, line, list, quiet, uid, well};
use crate::fake_api::{Answer, Fake, Part, live, timing, until, word};

fn service(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": uid(1), "resourceVersion": "20"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"protocol": "TCP", "port": 80}]},
        "status": {"loadBalancer": {}},
    })
}

fn services(all: &[Value]) -> Answer {
    Answer::json(json!({"kind": "ServiceList", "metadata": {"resourceVersion": "10"}, "items": all}))
}

/// The Service that is addressed by a connection there.
fn addressed(handle: &ServiceHandle, address: &str) -> Option<String> {
    let (src, dst) = ("10.1.0.1".parse().unwrap(), address.parse().unwrap());
    let flow = Flow { src, sport: 40_000, dst, dport: 80, protonum: 6 };
    handle.addressed(&flow, |_| false).map(|name| name.to_string())
}

#[tokio::test]
async fn services_are_listed_and_watched_and_nothing_else_is_asked() {
    let folder = Folder::new("services");
    let fake = Fake::start(|asked| {
        if !asked.is_watch() {
            return services(&[service("backend", "10.96.0.7"), service("old", "10.96.0.8")]);
        }
        if asked.number > 1 {
            return quiet();
        }
        let new = service("new", "10.96.0.9");
        Answer::ok(vec![line("ADDED", &new), line("DELETED", &service("old", "10.96.0.8")), Part::Hang])
    })
    .await;
    let handle = ServiceHandle::watch(fake.plan(&folder.0), timing());
    until("the changes", || {
        addressed(&handle, "10.96.0.9").is_some() && addressed(&handle, "10.96.0.8").is_none()
    })
    .await;
    assert_eq!(addressed(&handle, "10.96.0.7").as_deref(), Some("shop/backend"));
    assert_eq!((handle.count(), handle.status().state.word()), (Some(2), "synced"));
    assert!(
        fake.asked().iter().all(|asked| asked.url.starts_with("/api/v1/services?")),
        "{:?}",
        fake.asked()
    );
    assert_eq!(fake.asked()[0].parameter("fieldSelector"), None, "of the whole cluster");
}

#[tokio::test]
async fn no_right_to_services_leaves_pods_named_and_says_so() {
    let folder = Folder::new("services-403");
    let fake = Fake::start(|asked| {
        if asked.url.starts_with("/api/v1/services") { Answer::status(403) } else { well(asked) }
    })
    .await;
    let pods = ApiHandle::watch(fake.plan(&folder.0), timing());
    let handle = ServiceHandle::watch(fake.plan(&folder.0), timing());
    until("both", || word(&pods) == "synced" && handle.status().state.word() == "forbidden").await;
    assert_eq!((live(&pods).len(), handle.count(), addressed(&handle, "10.96.0.7")), (2, None, None));
    let error = handle.status().last_error.unwrap();
    assert!(error.contains("services (403)") && error.contains("rbac.yaml"), "{error}");
}

/// Whatever the server does, known Services stay known, and it ends well once the server does.
#[tokio::test]
async fn known_services_outlive_a_server_that_is_ill() {
    type Ill = fn() -> Answer;
    let cases: [(&str, &str, Ill); 5] = [
        ("svc-403", "forbidden", || Answer::status(403)),
        ("svc-500", "stale", || Answer::status(500)),
        ("svc-pods", "stale", || Answer::json(list([1], ""))),
        ("svc-html", "stale", || Answer::json("<html>502</html>")),
        ("svc-slow", "stale", || Answer { delay: Duration::from_secs(60), ..Answer::status(200) }),
    ];
    for (name, expected, ill) in cases {
        let folder = Folder::new(name);
        let phase = Arc::new(AtomicU16::new(0));
        let script = phase.clone();
        let fake = Fake::start(move |asked| match script.load(Ordering::Relaxed) {
            0 if asked.is_watch() => Answer::ok(vec![Part::Wait(Duration::from_millis(100)), Part::Break]),
            0 => services(&[service("backend", "10.96.0.7")]),
            1 => ill(),
            _ if asked.is_watch() => quiet(),
            _ => services(&[service("other", "10.96.0.7")]),
        })
        .await;
        let handle = ServiceHandle::watch(fake.plan(&folder.0), timing());
        let named = || addressed(&handle, "10.96.0.7");
        until(name, || named().as_deref() == Some("shop/backend")).await;
        phase.store(1, Ordering::Relaxed);
        // Nobody asks anew before the watch that is open broke off; then this is the state that stays.
        let asked = fake.asked().len();
        until(name, || fake.asked().len() > asked + 1 && handle.status().state.word() == expected).await;
        assert_eq!(named().as_deref(), Some("shop/backend"), "{name}: what was known stays known");
        phase.store(2, Ordering::Relaxed);
        until(name, || named().as_deref() == Some("shop/other")).await;
        assert_eq!(handle.status().state.word(), "synced", "{name}");
    }
}

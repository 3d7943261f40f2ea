use serde_json::{Value, json};

use super::super::directory::PodDirectory;
use super::*;

const UID: &str = "0a1b2c3d-1111-4222-8333-1234567890ab";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "shop", "name": "cart-1", "uid": UID, "resourceVersion": "7", "deletionTimestamp": null,
            "annotations": {"a": "b"}, "labels": {"app": "cart"}, "managedFields": [{"fieldsV1": {"f:x": {}}}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "env": [{"name": "SECRET", "value": "s"}]}]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "containerStatuses": [{"containerID": "containerd://abc123"}, {"containerID": ""}, {}],
            "initContainerStatuses": [{"containerID": "cri-o://0f"}],
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = pod();
    change(&mut pod);
    pod
}

fn listed(pods: &[Value]) -> Result<Page<Pod>, String> {
    let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": pods});
    page::<PodDirectory>(list.to_string().as_bytes(), "n1")
}

fn changed(kind: &str, object: &Value) -> Result<(Change<Pod>, Option<String>), String> {
    change::<PodDirectory>(json!({"type": kind, "object": object}).to_string().as_bytes(), "n1")
}

#[test]
fn what_is_kept_of_a_pod() {
    let page = listed(&[pod()]).unwrap();
    assert_eq!((page.resource_version.as_str(), page.next), ("9", None));
    let expected = Pod {
        name: PodName { namespace: "shop".into(), name: "cart-1".into(), uid: UID.into() },
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        host_network: false,
        phase: Phase::Running,
        deleting: false,
        containers: vec!["abc123".into(), "0f".into()],
    };
    assert_eq!(page.items, [expected]);
}

#[test]
fn a_static_pod_goes_by_the_uid_its_node_gave_it() {
    let hash = "a7a4b7cc60c0a1b5b7e6bd9a5f0f3e11";
    let annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash});
    let mirror = with(|pod| pod["metadata"]["annotations"] = annotations);
    assert_eq!(listed(std::slice::from_ref(&mirror)).unwrap().items[0].name.uid, hash);
    assert_eq!(changed("DELETED", &mirror).unwrap().0, Change::Gone(Some(hash.into())));
    // The kubelet itself annotates mirrors; a pod that says so of itself alone is none.
    let liar = with(|pod| pod["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": hash}));
    assert_eq!(listed(&[liar]).unwrap().items[0].name.uid, UID);
}

#[test]
fn other_nodes_pods_and_hostile_names_are_left_out() {
    let page = listed(&[
        with(|pod| pod["spec"]["nodeName"] = json!("n2")),
        with(|pod| pod["metadata"]["name"] = json!("a\n\"b")),
        with(|pod| pod["metadata"]["namespace"] = json!("")),
        with(|pod| pod["metadata"]["uid"] = json!("../../x")),
        json!({}),
    ]);
    assert_eq!(page.unwrap().items, []);
    let hostile = json!([{"containerID": "x://../.."}, {"containerID": "abc"}]);
    let pods = listed(&[with(|pod| {
        pod["status"] =
            json!({"podIP": "999.1.1.1", "podIPs": null, "phase": "Dancing", "containerStatuses": hostile});
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["spec"]["hostNetwork"] = json!(true);
    })]);
    let pod = &pods.unwrap().items[0];
    assert_eq!((pod.addresses.len(), pod.phase, pod.containers.len()), (0, Phase::Unknown, 0));
    assert!(pod.deleting && pod.host_network);
}

#[test]
fn changes() {
    assert!(matches!(changed("ADDED", &pod()).unwrap(), (Change::Put(Some(_)), Some(v)) if v == "7"));
    assert_eq!(changed("DELETED", &pod()).unwrap().0, Change::Gone(Some(UID.into())));
    let bookmark = json!({"kind": "Pod", "metadata": {"resourceVersion": "12"}});
    assert_eq!(changed("BOOKMARK", &bookmark).unwrap(), (Change::Bookmark, Some("12".into())));
    let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "message": "too old"});
    assert_eq!(changed("ERROR", &gone).unwrap(), (Change::Error(410, "too old".into()), None));
}

#[test]
fn nonsense_is_an_error_of_one_line_and_never_an_empty_list() {
    let whole =
        json!({"kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": [pod()]}).to_string();
    let lines = [
        "",
        "null",
        "[]",
        "{}",
        "<html>502 Bad Gateway</html>",
        r#"{"kind":"PodList","items":[]}"#,
        r#"{"kind":"PodList","metadata":{}}"#,
        r#"{"kind":"PodList","metadata":{"resourceVersion":"1&watch=0"}}"#,
        r#"{"kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[]}"#,
        r#"{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":{"a":1}}"#,
        &"[".repeat(100_000),
    ];
    for text in lines.into_iter().chain((1..whole.len()).map(|end| &whole[..end])) {
        let error = page::<PodDirectory>(text.as_bytes(), "n1").unwrap_err();
        assert!(!error.is_empty() && !error.contains('\n') && error.len() < 200, "{text:.60}: {error}");
        assert!(change::<PodDirectory>(text.as_bytes(), "n1").is_err(), "{text:.60}");
    }
    assert!(changed("DANCED", &pod()).is_err());
    assert!(changed("ADDED", &json!({})).is_err());
    let empty =
        page::<PodDirectory>(br#"{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":null}"#, "n1")
            .unwrap();
    assert_eq!(empty.items, []);
}

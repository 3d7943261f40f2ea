//! What an API server tells, and the folder of a test.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Answer, Asked, NODE, Part};

/// A folder of this test, gone with it.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("api-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn uid(number: u16) -> String {
    format!("0a1b2c3d-1111-4222-8333-12345678{number:04x}")
}

pub(crate) fn pod(number: u16) -> Value {
    let [high, low] = number.to_be_bytes();
    json!({
        "metadata": {
            "namespace": "shop", "name": format!("cart-{number}"), "uid": uid(number), "resourceVersion": "20",
        },
        "spec": {"nodeName": NODE},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{high}.{low}")}]},
    })
}

pub(crate) fn list(numbers: impl IntoIterator<Item = u16>, next: &str) -> String {
    let pods: Vec<Value> = numbers.into_iter().map(pod).collect();
    json!({"kind": "PodList", "metadata": {"resourceVersion": "10", "continue": next}, "items": pods})
        .to_string()
}

pub(crate) fn line(kind: &str, object: &Value) -> Part {
    Part::Send(json!({"type": kind, "object": object}).to_string() + "\n")
}

pub(crate) fn bookmark(version: u32) -> Part {
    line("BOOKMARK", &json!({"kind": "Pod", "metadata": {"resourceVersion": version.to_string()}}))
}

/// A watch in which nothing happens.
pub(crate) fn quiet() -> Answer {
    Answer::ok(vec![bookmark(11), Part::Hang])
}

/// Two pods and a quiet watch.
pub(crate) fn well(asked: &Asked) -> Answer {
    if asked.is_watch() { quiet() } else { Answer::json(list([1, 2], "")) }
}

//! Requests to the API server, as its administrator.

use http::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::server::{ADMIN, Cluster};

/// The administrator.
#[derive(Clone)]
pub(crate) struct Admin(Client);

impl Admin {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut config = Config::new(cluster.url.parse().unwrap());
        config.root_cert_file = Some(cluster.ca());
        config.auth_info.token = Some(ADMIN.to_owned().into());
        config.default_retry = false;
        Self(Client::try_from(config).unwrap())
    }

    /// The answer, or what went wrong.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Value, String> {
        let request =
            Request::builder().method(method).uri(path).header("Content-Type", kind).body(body).unwrap();
        let text = self.0.request_text(request).await.map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn must(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Value {
        let answer = self.ask(method.clone(), path, kind, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(Method::GET, path, "application/json", Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        self.must(Method::POST, path, "application/json", body.to_string().into_bytes()).await
    }

    /// Each document of a manifest, by what it says it is.
    pub(crate) async fn apply(&self, manifest: &str) {
        for document in manifest.split("\n---\n") {
            let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap();
            let path = match kind {
                "Namespace" => "/api/v1/namespaces",
                "ServiceAccount" => "/api/v1/namespaces/conntrack-pressure/serviceaccounts",
                "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
                "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                "DaemonSet" => "/apis/apps/v1/namespaces/conntrack-pressure/daemonsets",
                other => panic!("no path for {other}"),
            };
            self.must(Method::POST, path, "application/yaml", document.into()).await;
        }
    }

    /// A pod as a scheduler and a kubelet would leave it: bound and running. Returns its uid.
    pub(crate) async fn pod(&self, name: &str, node: &str, address: &str) -> String {
        let pods = "/api/v1/namespaces/shop/pods";
        let env: Vec<Value> =
            (0..20).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "x".repeat(100)})).collect();
        let made = self
            .post(
                pods,
                &json!({
                    "metadata": {"name": name, "annotations": {"example.org/fat": "y".repeat(2_000)}},
                    "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "env": env}]},
                }),
            )
            .await;
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        let path = format!("{pods}/{name}/status");
        self.must(Method::PATCH, &path, "application/merge-patch+json", status.to_string().into_bytes())
            .await;
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A Service of namespace `shop` at this cluster address, TCP port 80.
    pub(crate) async fn service(&self, name: &str, address: &str) {
        let spec = json!({
            "clusterIP": address, "selector": {"app": name}, "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
        });
        let meta = json!({"name": name, "annotations": {"example.org/fat": "y".repeat(500)}});
        self.post("/api/v1/namespaces/shop/services", &json!({"metadata": meta, "spec": spec})).await;
    }

    pub(crate) async fn delete_service(&self, name: &str) {
        let path = format!("/api/v1/namespaces/shop/services/{name}");
        self.must(Method::DELETE, &path, "application/json", Vec::new()).await;
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let path = format!("/api/v1/namespaces/shop/pods/{name}?gracePeriodSeconds=0");
        self.must(Method::DELETE, &path, "application/json", Vec::new()).await;
    }
}

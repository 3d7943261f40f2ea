//! Whether to ask an API server, which one, and for which node.

use std::path::{Path, PathBuf};

/// Where the kubelet puts a pod's service account.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Values of `--kubernetes.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Ask if a kubeconfig is named or a service account is here
    #[default]
    Auto,
    /// Ask; a mistake if nobody can be asked
    On,
    /// Do not ask: pods are found on the node alone
    Off,
}

/// What was asked for, and what this process was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Ask at all?
    pub mode: Mode,
    /// A kubeconfig named on the command line.
    pub kubeconfig: Option<PathBuf>,
    /// The node's name.
    pub node: Option<String>,
    /// Folder with `token` and `ca.crt`.
    pub service_account: PathBuf,
    /// Host and port of the API server as the kubelet tells every container.
    pub service: Option<(String, String)>,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// As this file says.
    Kubeconfig(PathBuf),
    /// The cluster this process runs in.
    InCluster {
        /// `https://HOST:PORT`.
        url: String,
        /// Folder with `token` and `ca.crt`.
        account: PathBuf,
    },
}

/// Whom to ask, and about which node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whom.
    pub target: Target,
    /// The node's name.
    pub node: String,
}

impl Settings {
    /// Adds what the kubelet told this process in its environment.
    #[must_use]
    pub fn of_this_process(mode: Mode, kubeconfig: Option<PathBuf>, node: Option<String>) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = set("KUBERNETES_SERVICE_HOST");
        Self {
            mode,
            kubeconfig,
            node: node.filter(|name| !name.is_empty()),
            service_account: SERVICE_ACCOUNT.into(),
            service: host.zip(set("KUBERNETES_SERVICE_PORT").or_else(|| Some("443".to_owned()))),
        }
    }

    /// Looks whether somebody can be asked where that is a must.
    ///
    /// # Errors
    /// Why nobody can, in one line.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.mode == Mode::On {
            self.plan().map_err(|why| anyhow::anyhow!("--kubernetes.mode=on: {why}"))?;
        }
        Ok(())
    }

    /// Whom to ask.
    ///
    /// # Errors
    /// Why nobody is asked, in one line.
    pub fn plan(&self) -> Result<Plan, String> {
        if self.mode == Mode::Off {
            return Err("--kubernetes.mode=off".to_owned());
        }
        let target = match (&self.kubeconfig, &self.service) {
            (Some(file), _) => Target::Kubeconfig(file.clone()),
            (None, Some((host, port))) if has_account(&self.service_account) => {
                Target::InCluster { url: url(host, port), account: self.service_account.clone() }
            }
            (None, Some(_)) => {
                return Err(format!(
                    "no service account at {}: set automountServiceAccountToken, or name a --kubernetes.kubeconfig",
                    self.service_account.display()
                ));
            }
            (None, None) => {
                return Err("not in a pod of a cluster, and no --kubernetes.kubeconfig is named".to_owned());
            }
        };
        let Some(node) = self.node.clone() else {
            return Err(
                "the node's name is not known: set NODE_NAME (fieldRef spec.nodeName), or name it with \
                        --kubernetes.node-name"
                    .to_owned(),
            );
        };
        if !is_node_name(&node) {
            return Err(format!("--kubernetes.node-name {node:?} is no name of a node: want a DNS name"));
        }
        Ok(Plan { target, node })
    }
}

fn has_account(folder: &Path) -> bool {
    folder.join("token").exists()
}

fn url(host: &str, port: &str) -> String {
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    if bare_v6 { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") }
}

/// A DNS subdomain: nothing in it needs quoting in a URL.
fn is_node_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { node: Some("n1".into()), service_account: "/nonexistent".into(), ..Settings::default() }
    }

    #[test]
    fn off_unless_there_is_someone_to_ask() {
        assert!(settings().plan().unwrap_err().contains("--kubernetes.kubeconfig"));
        let here = Settings { service: Some(("10.0.0.1".into(), "443".into())), ..settings() };
        assert!(here.plan().unwrap_err().contains("/nonexistent"));
        let off = Settings { mode: Mode::Off, kubeconfig: Some("/k".into()), ..settings() };
        assert_eq!(off.plan().unwrap_err(), "--kubernetes.mode=off");
    }

    #[test]
    fn on_is_a_must() {
        let error = Settings { mode: Mode::On, ..settings() }.check().unwrap_err().to_string();
        assert!(error.starts_with("--kubernetes.mode=on: ") && !error.contains('\n'), "{error}");
        settings().check().unwrap();
        Settings { mode: Mode::On, kubeconfig: Some("/k".into()), ..settings() }.check().unwrap();
    }

    #[test]
    fn a_kubeconfig_goes_before_the_service_account() {
        let folder = std::env::temp_dir().join(format!("account-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "t").unwrap();
        let here = Settings {
            service: Some(("fd00::1".into(), "443".into())),
            service_account: folder.clone(),
            ..settings()
        };
        let plan = here.plan().unwrap();
        let named = Settings { kubeconfig: Some("/k".into()), ..here };
        let file = named.plan().unwrap().target;
        std::fs::remove_dir_all(&folder).unwrap();
        let expected = Target::InCluster { url: "https://[fd00::1]:443".into(), account: folder };
        assert_eq!((plan.target, plan.node.as_str()), (expected, "n1"));
        assert_eq!(file, Target::Kubeconfig("/k".into()));
    }

    #[test]
    fn the_node_must_be_named_and_is_never_guessed() {
        let of = |node: Option<&str>| {
            let named = Settings { kubeconfig: Some("/k".into()), node: node.map(Into::into), ..settings() };
            named.plan()
        };
        assert!(of(None).unwrap_err().contains("NODE_NAME"));
        for wrong in ["", "a,spec.nodeName!=a", "a b", "A"] {
            assert!(of(Some(wrong)).unwrap_err().contains("--kubernetes.node-name"), "{wrong}");
        }
        assert!(of(Some("ip-10-0-0-1.eu.internal")).is_ok());
    }
}

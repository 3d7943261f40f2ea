//! A real etcd and a real kube-apiserver on this host, ended with the test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// A user that may do everything.
pub(crate) const ADMIN: &str = "admin-token";
/// A user that exists and has no rights.
pub(crate) const NOBODY: &str = "nobody-token";

/// Where the programs are; `cargo xtask cluster` says so.
const PROGRAMS: &str = "CONNTRACK_CLUSTER";

/// Both servers.
pub(crate) struct Cluster {
    /// Keys, data and logs.
    pub(crate) folder: PathBuf,
    pub(crate) url: String,
    programs: PathBuf,
    etcd_url: String,
    etcd: Server,
    api: Option<Server>,
}

/// A process, killed when dropped.
pub(crate) struct Server(pub(crate) Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Cluster {
    /// Starts both.
    pub(crate) fn start() -> Self {
        let programs = std::env::var_os(PROGRAMS).map(PathBuf::from);
        let programs = programs.unwrap_or_else(|| panic!("{PROGRAMS} is not set: run `cargo xtask cluster`"));
        let folder = std::env::temp_dir().join(format!("cluster-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        keys(&folder);
        let users = format!("{ADMIN},admin,1,\"system:masters\"\n{NOBODY},nobody,2\n");
        std::fs::write(folder.join("users.csv"), users).unwrap();
        let (etcd_url, peer) = (url("http"), url("http"));
        let etcd = spawn(
            &folder,
            "etcd",
            Command::new(programs.join("etcd"))
                .args(["--data-dir", &folder.join("etcd").display().to_string()])
                .args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")]),
        );
        let mut cluster = Self { url: url("https"), folder, programs, etcd_url, etcd, api: None };
        cluster.start_api();
        cluster
    }

    /// Starts the API server; it does not answer at once.
    pub(crate) fn start_api(&mut self) {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let port = self.url.rsplit(':').next().unwrap().to_owned();
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        for (flag, value) in [
            ("etcd-servers", self.etcd_url.clone()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("advertise-address", "127.0.0.1".to_owned()),
            ("secure-port", port),
            ("cert-dir", at("generated")),
            ("tls-cert-file", at("server.pem")),
            ("tls-private-key-file", at("server.key")),
            ("token-auth-file", at("users.csv")),
            ("authorization-mode", "RBAC".to_owned()),
            ("service-account-key-file", at("account.pub")),
            ("service-account-signing-key-file", at("account.key")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("allow-privileged", "true".to_owned()),
            // Nobody makes a namespace's default account here.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        self.api = Some(spawn(&self.folder, "kube-apiserver", &mut command));
    }

    /// Kills the API server with SIGKILL.
    pub(crate) fn kill_api(&mut self) {
        self.api = None;
    }

    /// Panics if the API server has ended by itself.
    pub(crate) fn must_run(&mut self) {
        let ended = self.api.as_mut().unwrap().0.try_wait().unwrap();
        assert!(ended.is_none(), "kube-apiserver ended: {ended:?}");
    }

    /// Sends a signal to the API server.
    pub(crate) fn signal_api(&self, signal: Signal) {
        self.api.as_ref().unwrap().signal(signal);
    }

    /// Its CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A kubeconfig of the user with this token.
    pub(crate) fn kubeconfig(&self, token: &str) -> PathBuf {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context:\n    cluster: k\n    \
             user: u\nclusters:\n- name: k\n  cluster:\n    server: {}\n    certificate-authority: {}\nusers:\n\
             - name: u\n  user:\n    token: {token}\n",
            self.url,
            self.ca().display()
        );
        let path = self.folder.join(format!("{token}.kubeconfig"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The end of what the API server wrote.
    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default();
        text.lines().rev().take(15).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the API server's last words:\n{}", self.said());
        }
        self.kill_api();
        self.etcd.0.kill().unwrap();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn spawn(folder: &Path, name: &str, command: &mut Command) -> Server {
    let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log"))).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Server(command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}")))
}

/// On a port that nobody has now.
pub(crate) fn url(scheme: &str) -> String {
    format!("{scheme}://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

/// A CA, a certificate of its for 127.0.0.1, and the key that signs service accounts' tokens.
fn keys(folder: &Path) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    write("ca.crt", ca.self_signed(&ca_key).unwrap().pem());
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    write("server.pem", names.signed_by(&key, &issuer).unwrap().pem());
    write("server.key", key.serialize_pem());
    let account = KeyPair::generate().unwrap();
    write("account.key", account.serialize_pem());
    write("account.pub", account.public_key_pem());
}

/// Polls until it holds, and says how long that took.
pub(crate) async fn until(what: &str, patience: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

//! An API server that answers as it is told to, whole or not.

pub(crate) mod objects;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use conntrack_user::attribute::api::handle::ApiHandle;
use conntrack_user::attribute::api::settings::{Plan, Target};
use conntrack_user::attribute::api::watch::{Patience, Timing};

/// The node that is asked about.
pub(crate) const NODE: &str = "n1";

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Path and query.
    pub(crate) url: String,
    /// The header of that name, without `Bearer`.
    pub(crate) token: String,
    /// When.
    pub(crate) at: Instant,
    /// How many were asked before.
    pub(crate) number: usize,
}

impl Asked {
    pub(crate) fn is_watch(&self) -> bool {
        self.url.contains("watch=1")
    }

    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let query = self.url.split_once('?')?.1;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).next()
    }
}

/// What is answered.
pub(crate) struct Answer {
    /// Before anything is sent.
    pub(crate) delay: Duration,
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) parts: Vec<Part>,
}

/// A piece of a body.
pub(crate) enum Part {
    /// These bytes.
    Send(String),
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing any more, with the connection open.
    Hang,
    /// The connection ends without the body's end.
    Break,
}

impl Answer {
    pub(crate) fn ok(parts: Vec<Part>) -> Self {
        Self { delay: Duration::ZERO, status: 200, headers: String::new(), parts }
    }

    pub(crate) fn json(body: impl ToString) -> Self {
        Self::ok(vec![Part::Send(body.to_string())])
    }

    pub(crate) fn status(status: u16) -> Self {
        let body = format!(r#"{{"kind":"Status","code":{status},"message":"it is {status}"}}"#);
        Self { status, ..Self::json(body) }
    }
}

type Script = Box<dyn Fn(&Asked) -> Answer + Send + Sync>;

/// The server; it ends with the runtime.
pub(crate) struct Fake {
    pub(crate) port: u16,
    /// All that was asked so far.
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Serves by plain HTTP.
    pub(crate) async fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, Box::new(script))
    }

    /// Serves by TLS with a certificate for 127.0.0.1, whose PEM is put where a service account's CA is.
    pub(crate) async fn start_tls(
        account: &Path,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(account.join("ca.crt"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![CertificateDer::from(made.cert)], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Some(TlsAcceptor::from(Arc::new(config))), Box::new(script))
    }

    fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, script: Script) -> Self {
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script, count) = (asked.clone(), Arc::new(script), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, script, tls, count) = (log.clone(), script.clone(), tls.clone(), count.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &script, &log, &count).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, &script, &log, &count).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        Self { port, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// A plan to ask it by a kubeconfig.
    pub(crate) fn plan(&self, folder: &Path) -> Plan {
        Plan { target: Target::Kubeconfig(kubeconfig(folder, self.port)), node: NODE.to_owned() }
    }
}

pub(crate) fn kubeconfig(folder: &Path, port: u16) -> PathBuf {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n\
         clusters:\n- name: k\n  cluster: {{server: \"http://127.0.0.1:{port}\"}}\nusers:\n- name: u\n  user: {{token: t}}\n"
    );
    let path = folder.join("kubeconfig");
    std::fs::write(&path, text).unwrap();
    path
}

/// One request for each connection.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: &Script,
    log: &Mutex<Vec<Asked>>,
    count: &AtomicUsize,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
    };
    let asked = Asked {
        url: head.split(' ').nth(1).unwrap().to_owned(),
        token: header("authorization").unwrap_or_default().replace("Bearer ", ""),
        at: Instant::now(),
        number: count.fetch_add(1, Ordering::Relaxed),
    };
    let Answer { delay, status, headers, parts } = script(&asked);
    log.lock().unwrap().push(asked);
    tokio::time::sleep(delay).await;
    let head = format!(
        "HTTP/1.1 {status} Status\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    for part in parts {
        match part {
            Part::Send(text) if text.is_empty() => {}
            Part::Send(text) => {
                stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.ok()?;
                stream.flush().await.ok()?;
            }
            Part::Wait(time) => tokio::time::sleep(time).await,
            Part::Hang => std::future::pending().await,
            Part::Break => return None,
        }
    }
    stream.write_all(b"0\r\n\r\n").await.ok()?;
    stream.shutdown().await.ok()
}

/// As in life, a hundred times faster.
pub(crate) fn timing() -> Timing {
    Timing {
        patience: Patience {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(1),
            page: Duration::from_secs(2),
            silence: Duration::from_millis(600),
            watch: Duration::from_secs(10),
        },
        floor: Duration::from_millis(20),
        ceiling: Duration::from_millis(200),
        short_watch: Duration::from_millis(100),
        healthy: Duration::from_millis(300),
        tombstone: Duration::from_millis(400),
    }
}

/// Polls until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How it stands, in a word.
pub(crate) fn word(handle: &ApiHandle) -> &'static str {
    handle.status().state.word()
}

/// Names of the pods that are there.
pub(crate) fn live(handle: &ApiHandle) -> Vec<String> {
    let mut names: Vec<String> = handle.latest().live().map(|pod| pod.name.name.clone()).collect();
    names.sort();
    names
}

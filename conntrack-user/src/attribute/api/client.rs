//! One connection to the API server. Everything that comes is bounded in size, and in time by the monotonic clock.

use std::marker::PhantomData;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::Failure;
use super::kind::Kind;
use super::lines::Lines;
use super::settings::{Plan, Target};
use super::wire::{self, Change, Page};

/// Bytes of a page: 500 pods of the size that a pod can have at most would be more, and are asked for in parts.
const MAX_PAGE: usize = 32 << 20;
/// Bytes of a change: what a pod can be at most, and then some.
const MAX_CHANGE: usize = 4 << 20;
/// Bytes of an answer that is not 200.
const MAX_STATUS: usize = 64 << 10;
/// Bytes of a token.
const MAX_TOKEN: u64 = 64 << 10;

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer to begin.
    pub answer: Duration,
    /// For a page to be whole.
    pub page: Duration,
    /// For anything to come from a watch; a server sends a bookmark each minute.
    pub silence: Duration,
    /// How long a watch is asked for.
    pub watch: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            page: Duration::from_secs(120),
            silence: Duration::from_secs(90),
            watch: Duration::from_secs(290),
        }
    }
}

/// Where a list begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// Anything not older than this; "0": anything the server has at hand.
    NotOlder(String),
    /// What holds now: dearer for the server.
    Now,
    /// Where the last page ended.
    Page(String),
}

/// A connection: made anew for each list and watch, so that a new token, certificate or kubeconfig is taken up,
/// and nothing of a dead one survives.
pub(super) struct Connection {
    client: Client,
    token: Option<HeaderValue>,
    node: String,
    patience: Patience,
}

impl Connection {
    /// Reads the credentials. Nothing is sent yet.
    pub(super) async fn open(plan: &Plan, patience: Patience) -> Result<Self, Failure> {
        let (mut config, token) = match &plan.target {
            Target::Kubeconfig(file) => (kubeconfig(file).await?, None),
            Target::InCluster { url, account } => in_cluster(url, account)?,
        };
        config.connect_timeout = Some(patience.connect);
        // A watch may be silent longer than that, and when to try again is decided here.
        (config.read_timeout, config.default_retry) = (None, false);
        let client = Client::try_from(config).map_err(|e| Failure::of("cannot set up a connection", &e))?;
        Ok(Self { client, token, node: plan.node.clone(), patience })
    }

    /// A page of the list.
    pub(super) async fn page<K: Kind>(&self, limit: u32, from: &From) -> Result<Page<K::Item>, Failure> {
        let mut query = format!("limit={limit}");
        match from {
            From::NotOlder(version) => query.push_str(&format!("&resourceVersion={version}")),
            From::Page(token) => query.push_str(&format!("&continue={}", escaped(token))),
            From::Now => {}
        }
        let deadline = Instant::now() + self.patience.page;
        let body = self.get::<K>(&query).await?;
        let body = collect(body, MAX_PAGE, deadline).await?;
        wire::page::<K>(&body, &self.node).map_err(|why| Failure::nonsense(&why))
    }

    /// What changes from `version` on.
    pub(super) async fn watch<K: Kind>(&self, version: &str) -> Result<Changes<'_, K>, Failure> {
        let seconds = self.patience.watch.as_secs().max(1);
        let query =
            format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={version}");
        let body = self.get::<K>(&query).await?;
        Ok(Changes { body, lines: Lines::new(MAX_CHANGE), connection: self, kind: PhantomData })
    }

    async fn get<K: Kind>(&self, query: &str) -> Result<Body, Failure> {
        let path = format!("/api/v1/{}?{}{query}", K::PLURAL, K::selector(&self.node));
        let agent = concat!("conntrack-pressure/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::get(path).header(ACCEPT, "application/json").header(USER_AGENT, agent);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Body::empty()).map_err(|e| Failure::of("cannot ask", &e))?;
        let answer = timeout(self.patience.answer, self.client.send(request)).await;
        let answer = answer.map_err(|_| {
            Failure::other(&format!("no answer of the API server for {} s", self.patience.answer.as_secs()))
        })?;
        let answer = answer.map_err(|e| broken("the API server cannot be asked", &e))?;
        if answer.status() == StatusCode::OK {
            Ok(answer.into_body())
        } else {
            Err(self.refused(K::PLURAL, answer).await)
        }
    }

    async fn refused(&self, what: &str, answer: Response<Body>) -> Failure {
        let code = answer.status().as_u16();
        let pause = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let deadline = Instant::now() + self.patience.answer;
        let body = collect(answer.into_body(), MAX_STATUS, deadline).await.unwrap_or_default();
        let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        Failure::status(
            what,
            code,
            status["message"].as_str().unwrap_or_default(),
            pause.map(Duration::from_secs),
        )
    }
}

/// A watch.
pub(super) struct Changes<'a, K> {
    body: Body,
    lines: Lines,
    connection: &'a Connection,
    kind: PhantomData<K>,
}

/// How a watch goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<I> {
    /// By a change, and up to where that goes.
    Change(Change<I>, Option<String>),
    /// Not at all: the server ended it.
    End,
    /// Not at all: nothing came for too long.
    Silence,
}

impl<K: Kind> Changes<'_, K> {
    /// Waits for what comes next.
    pub(super) async fn next(&mut self) -> Result<Next<K::Item>, Failure> {
        // From line to line: what comes in drops and never makes one is no sign of life.
        let deadline = Instant::now() + self.connection.patience.silence;
        loop {
            let line = self.lines.next().map_err(|_| Failure::too_large(MAX_CHANGE))?;
            if let Some(line) = line {
                let change = wire::change::<K>(line, &self.connection.node);
                return change.map(|(c, upto)| Next::Change(c, upto)).map_err(|why| Failure::nonsense(&why));
            }
            match timeout_at(deadline, self.body.frame()).await {
                Err(_) => return Ok(Next::Silence),
                Ok(None) if self.lines.is_cut() => {
                    return Err(Failure::nonsense("a watch that ends within a line"));
                }
                Ok(None) => return Ok(Next::End),
                Ok(Some(Err(error))) => return Err(broken("the watch broke off", &error)),
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.lines.push(bytes);
                    }
                }
            }
        }
    }
}

/// The cause alone: what kube calls it says nothing more.
fn broken(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Service(cause) => Failure::of(what, &**cause),
        kube::Error::HyperError(cause) => Failure::of(what, cause),
        _ => Failure::of(what, error),
    }
}

/// The whole body.
async fn collect(body: Body, longest: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(Failure::other("the API server's answer does not end")),
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(error))) => return Err(broken("the API server's answer broke off", &error)),
            Ok(Some(Ok(frame))) => {
                let part = frame.data_ref().map_or(&[][..], |part| part);
                if bytes.len() + part.len() > longest {
                    return Err(Failure::too_large(longest));
                }
                bytes.extend_from_slice(part);
            }
        }
    }
}

async fn kubeconfig(file: &Path) -> Result<Config, Failure> {
    let what = format!("cannot use the kubeconfig {}", file.display());
    let read = Kubeconfig::read_from(file).map_err(|error| Failure::of(&what, &error))?;
    let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| Failure::of(&what, &error))?;
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        // Nothing is run as root because a file says so, and a program could take for ever.
        let why = "its user needs a program to log in; name a token, tokenFile or client certificate instead";
        return Err(Failure::other(&format!("{what}: {why}")));
    }
    Ok(config)
}

fn in_cluster(url: &str, account: &Path) -> Result<(Config, Option<HeaderValue>), Failure> {
    let url =
        url.parse().map_err(|e| Failure::of(&format!("KUBERNETES_SERVICE_HOST makes no URL ({url})"), &e))?;
    let path = account.join("token");
    let what = format!("cannot use the token {}", path.display());
    let mut token = String::new();
    let opened = std::fs::File::open(&path).map(|file| std::io::Read::take(file, MAX_TOKEN));
    let read = opened.and_then(|mut file| std::io::Read::read_to_string(&mut file, &mut token));
    read.map_err(|error| Failure::of(&what, &error))?;
    let token = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut token = token.map_err(|error| Failure::of(&what, &error))?;
    token.set_sensitive(true);
    let mut config = Config::new(url);
    config.root_cert_file = Some(account.join("ca.crt"));
    Ok((config, Some(token)))
}

/// Percent-encoded: a continue token is whatever the server likes.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_is_escaped() {
        assert_eq!(escaped("aZ9-._~"), "aZ9-._~");
        assert_eq!(escaped("a=&b/é"), "a%3D%26b%2F%C3%A9");
    }
}

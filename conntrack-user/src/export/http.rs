//! The HTTP server: `/metrics`, `/snapshot`, `/`, `/livez`, `/readyz`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::coalesce::Coalesce;
use super::exporter::Exporter;
use super::view::{SnapshotSource, View};
use super::{landing, snapshot_json};

/// Connections served at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 512;
/// Time a client has for its request's head, and may keep an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a client may leave its answer unread (milliseconds).
const UNREAD_TIMEOUT_MS: u32 = 30_000;
/// Time the answers under way get at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Age of the loop's heartbeat from which the daemon counts as stuck.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(10);
/// Pause after the listener could not accept (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens. Done before anything is attached, so that a second daemon stops here.
///
/// # Errors
/// One line: where, why, what to do.
pub async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
            std::io::ErrorKind::AddrNotAvailable => "no such address on this host".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        anyhow!("cannot listen on {address}: {why}; choose another with --web.listen-address")
    })
}

/// What the answers are made from.
pub(super) struct App<S> {
    source: S,
    pub(super) readings: Coalesce<Result<Arc<View>, String>>,
    exporter: Mutex<Exporter>,
}

impl<S> App<S> {
    pub(super) fn new(source: S, exporter: Exporter) -> Arc<Self> {
        Arc::new(Self { source, readings: Coalesce::default(), exporter: Mutex::new(exporter) })
    }
}

/// Serves until `stop` becomes true or its sender is dropped; answers under way are finished first.
pub async fn serve<S: SnapshotSource>(
    listener: TcpListener,
    source: S,
    exporter: Exporter,
    stop: watch::Receiver<bool>,
) {
    serve_app(listener, App::new(source, exporter), stop).await;
}

pub(super) async fn serve_app<S: SnapshotSource>(
    listener: TcpListener,
    app: Arc<App<S>>,
    mut stop: watch::Receiver<bool>,
) {
    let service = TowerToHyperService::new(router(app));
    let (graceful, room) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let stopped = async move {
        // An error means the sender is gone, and with it who could stop us otherwise.
        _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut stopped => break,
            accepted = accepted => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        limit_unread(&stream);
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            _ = connection.await;
            drop(permit);
        });
    }
    drop(listener);
    // Connections that take longer are cut when the runtime ends.
    _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
}

/// The kernel cuts a client that does not take its answer. Failing that, the connection limit still holds.
fn limit_unread(stream: &TcpStream) {
    _ = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_TIMEOUT_MS);
}

fn router<S: SnapshotSource>(app: Arc<App<S>>) -> Router {
    Router::new()
        .route("/", get(root::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/snapshot", get(snapshot::<S>))
        .route("/livez", get(livez::<S>))
        .route("/readyz", get(readyz::<S>))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found; see / for what there is\n") })
        .with_state(app)
}

async fn metrics<S: SnapshotSource>(State(app): State<Arc<App<S>>>) -> Response {
    let reading =
        app.readings.get(|| async { app.source.refresh().await.map_err(|error| format!("{error:#}")) }).await;
    let text = reading.and_then(|view| {
        // A panic in another scrape leaves label sets half entered, which the next entry repairs.
        let mut exporter = app.exporter.lock().unwrap_or_else(PoisonError::into_inner);
        exporter.text(&view).map_err(|error| format!("{error:#}"))
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The latest reading, which is a second old at most while the loop comes round: asking often costs the node nothing.
async fn snapshot<S: SnapshotSource>(State(app): State<Arc<App<S>>>) -> Response {
    let Some(view) = app.source.latest() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no reading yet\n").into_response();
    };
    match snapshot_json::line(&view, app.source.heartbeat_age()) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn root<S: SnapshotSource>(State(app): State<Arc<App<S>>>) -> Html<String> {
    Html(landing::page(app.source.latest().as_deref()))
}

async fn livez<S: SnapshotSource>(
    State(app): State<Arc<App<S>>>,
) -> Result<(StatusCode, String), Infallible> {
    Ok(match app.source.heartbeat_age() {
        Some(age) if age < HEARTBEAT_LIMIT => (StatusCode::OK, "ok\n".to_owned()),
        Some(age) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the loop has been stuck for {} s\n", age.as_secs()))
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "the loop has not started\n".to_owned()),
    })
}

async fn readyz<S: SnapshotSource>(State(app): State<Arc<App<S>>>) -> (StatusCode, &'static str) {
    match app.source.latest() {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no reading yet\n"),
    }
}

/// The address really listened on: with port 0, the one the kernel chose.
///
/// # Errors
/// If the socket cannot tell.
pub fn address(listener: &TcpListener) -> std::io::Result<SocketAddr> {
    listener.local_addr()
}

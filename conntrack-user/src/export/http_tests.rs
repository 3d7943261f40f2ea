//! The server over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::exporter::Exporter;
use super::view::{Later, SnapshotSource, View};
use super::{fixture, http};

#[derive(Clone, Default)]
struct Source {
    refreshed: Arc<AtomicU32>,
    latest: Arc<Mutex<Option<Arc<View>>>>,
    age_s: Arc<AtomicU64>,
    broken: Arc<AtomicU32>,
    /// Where there is one, a reading ends with one of its permits.
    gate: Option<Arc<Semaphore>>,
}

impl SnapshotSource for Source {
    fn refresh(&self) -> Later<'_, anyhow::Result<Arc<View>>> {
        Box::pin(async {
            self.refreshed.fetch_add(1, Ordering::SeqCst);
            if let Some(gate) = &self.gate {
                gate.acquire().await?.forget();
            }
            anyhow::ensure!(self.broken.load(Ordering::SeqCst) == 0, "cannot read /proc: it is gone");
            let view = Arc::new(fixture::view());
            *self.latest.lock().unwrap() = Some(Arc::clone(&view));
            Ok(view)
        })
    }
    fn latest(&self) -> Option<Arc<View>> {
        self.latest.lock().unwrap().clone()
    }
    fn heartbeat_age(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.age_s.load(Ordering::SeqCst)))
    }
}

async fn start(source: Source) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let (_, address, stop, server) = start_app(source).await;
    (address, stop, server)
}

async fn start_app(
    source: Source,
) -> (Arc<http::App<Source>>, SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
    let app = http::App::new(source, Exporter::new(128, true));
    let listener = http::bind("127.0.0.1:0").await.unwrap();
    let address = http::address(&listener).unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(http::serve_app(listener, Arc::clone(&app), stopped));
    (app, address, stop, server)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn every_path_answers() {
    let source = Source::default();
    let (address, stop, server) = start(source.clone()).await;
    assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 503"));
    assert!(ask(address, "GET /").await.contains("No reading yet"));
    assert!(ask(address, "GET /snapshot").await.starts_with("HTTP/1.1 503"));
    let metrics = ask(address, "GET /metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("text/plain; version=0.0.4"));
    assert!(metrics.contains("conntrack_loaded 1") && metrics.contains("process_start_time_seconds"));
    assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET /").await.contains("<td>host"));
    let snapshot = ask(address, "GET /snapshot").await;
    let (head, body) = snapshot.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((body["tables"][0]["entries"].as_u64(), body["age_seconds"].as_f64()), (Some(200), Some(0.0)));
    assert_eq!(body["owner_losses"][0]["drops"], 25);
    assert_eq!(source.refreshed.load(Ordering::SeqCst), 1, "it reads nothing itself");
    assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 200"));
    source.age_s.store(10, Ordering::SeqCst);
    assert!(ask(address, "GET /livez").await.starts_with("HTTP/1.1 503"));
    assert!(ask(address, "GET /nothing").await.starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    source.broken.store(1, Ordering::SeqCst);
    let broken = ask(address, "GET /metrics").await;
    assert!(broken.starts_with("HTTP/1.1 500") && broken.contains("cannot read /proc"));
    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_shutdown() {
    let (address, stop, server) = start(Source::default()).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    drop(stop);
    tokio::time::timeout(Duration::from_secs(2), server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let first = http::bind("127.0.0.1:0").await.unwrap();
    let address = http::address(&first).unwrap().to_string();
    let error = http::bind(&address).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "cannot listen on {address}: address already in use; choose another with --web.listen-address"
        )
    );
}

#[tokio::test]
async fn concurrent_scrapes_share_readings() {
    let gate = Arc::new(Semaphore::new(0));
    let source = Source { gate: Some(Arc::clone(&gate)), ..Source::default() };
    let (app, address, stop, _server) = start_app(source.clone()).await;
    let scrapes: Vec<_> =
        (0..40).map(|_| tokio::spawn(async move { ask(address, "GET /metrics").await })).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    while app.readings.callers() < 40 {
        assert!(Instant::now() < deadline, "{} of 40 scrapes arrived", app.readings.callers());
        tokio::task::yield_now().await;
    }
    gate.add_permits(40);
    for scrape in scrapes {
        assert!(scrape.await.unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!(source.refreshed.load(Ordering::SeqCst), 2, "the first's, and one for all who came during it");
    drop(stop);
}

//! Documents: from a running daemon over HTTP, or from stages in this process.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};

use super::wire::{self, Document};
use crate::export::snapshot_json;
use crate::export::view::SnapshotSource;

/// Time to connect, and that a daemon may be silent.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 256 << 20;

/// Who brings documents.
pub trait Feed: Send {
    /// The latest one. None: there is none yet.
    ///
    /// # Errors
    /// One line: why there is none.
    fn latest(&mut self) -> anyhow::Result<Option<Document>>;

    /// Where it comes from, in a few words.
    fn source(&self) -> String;
}

/// A running daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    address: String,
}

impl Daemon {
    /// At HOST:PORT.
    #[must_use]
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// Does anything listen there?
    #[must_use]
    pub fn is_there(&self) -> bool {
        connect(&self.address).is_ok()
    }
}

impl Feed for Daemon {
    fn latest(&mut self) -> anyhow::Result<Option<Document>> {
        let (status, body) = get(&self.address, "/snapshot").with_context(|| self.address.clone())?;
        match status {
            200 => Ok(Some(wire::read(&body).with_context(|| self.address.clone())?)),
            503 => Ok(None),
            _ => bail!(
                "{} answers {status} for /snapshot: it is no conntrack-pressure, or an older one",
                self.address
            ),
        }
    }

    fn source(&self) -> String {
        format!("daemon at {}", self.address)
    }
}

/// Stages that run in this process.
pub struct Here<S>(pub S);

impl<S: SnapshotSource> Feed for Here<S> {
    fn latest(&mut self) -> anyhow::Result<Option<Document>> {
        // The same way as from a daemon, so that there is one.
        let view = self.0.latest();
        view.map(|view| wire::read(&snapshot_json::line(&view, self.0.heartbeat_age())?)).transpose()
    }

    fn source(&self) -> String {
        "own probes, no daemon".to_owned()
    }
}

fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let mut last = anyhow!("no such host");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Status and body. By HTTP/1.0, whose answers end with the connection.
fn get(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!("it does not answer"),
        _ => error.into(),
    })?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> anyhow::Result<(u16, String)> {
    const NOT: &str = "what it answers is no HTTP";
    let (head, body) = answer.split_once("\r\n\r\n").context(NOT)?;
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)).context(NOT)?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    ensure!(length.is_none_or(|length| length == body.len()), "its answer breaks off");
    Ok((status.parse().context(NOT)?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::export::{fixture, snapshot_json};

    /// Answers one request with these bytes.
    fn answering(answer: String) -> (Daemon, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let daemon = Daemon::at(&listener.local_addr().unwrap().to_string());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (daemon, server)
    }

    fn http(status: &str, body: &str) -> String {
        format!("HTTP/1.0 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_daemons_answer_is_a_document() {
        let body = snapshot_json::line(&fixture::view(), None).unwrap();
        let (mut daemon, server) = answering(http("200 OK", &body));
        let document = daemon.latest().unwrap().unwrap();
        assert_eq!(document.tables.len(), 3);
        assert!(server.join().unwrap().starts_with("GET /snapshot HTTP/1.0\r\n"));
    }

    #[test]
    fn no_reading_yet_is_no_error() {
        let (mut daemon, _server) = answering(http("503 Service Unavailable", "no reading yet\n"));
        assert_eq!(daemon.latest().unwrap(), None);
    }

    #[test]
    fn anything_else_is_one_line_that_names_the_address() {
        let breaks_off = "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}".to_owned();
        for (answer, says) in [
            (http("404 Not Found", "?"), "older one"),
            (http("200 OK", "<html>"), "no snapshot"),
            ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), "no HTTP"),
            (String::new(), "no HTTP"),
            (breaks_off, "breaks off"),
        ] {
            let (mut daemon, _server) = answering(answer.clone());
            let error = format!("{:#}", daemon.latest().unwrap_err());
            assert!(error.contains(says) && error.contains("127.0.0.1:") && !error.contains('\n'), "{error}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut daemon = Daemon::at(&listener.local_addr().unwrap().to_string());
        assert!(daemon.is_there());
        drop(listener);
        assert!(!daemon.is_there());
        assert!(format!("{:#}", daemon.latest().unwrap_err()).contains("refused"));
    }
}

//! Clients of the proxy, each with a connection that it keeps and an address of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::haproxy::PORT;
use crate::lab::connect::{plus, tcp_from};

/// The first address.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// How many addresses there are.
const ADDRESSES: u64 = 90;
const PATIENCE: Duration = Duration::from_secs(30);

/// Their connections.
#[derive(Debug)]
pub(super) struct Clients(Vec<BufReader<TcpStream>>);

/// What they were answered.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// 200.
    pub(super) good: usize,
    /// Nothing: the connection was closed.
    pub(super) none: usize,
}

impl Clients {
    /// Connects them, in the calling thread's namespace.
    ///
    /// # Errors
    /// When one cannot connect.
    pub(super) fn connect(proxy: IpAddr, count: usize) -> anyhow::Result<Self> {
        let connect = |n| {
            let stream = tcp_from(Some(plus(FIRST, n as u64 % ADDRESSES)), (proxy, PORT).into())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(BufReader::new(stream))
        };
        Ok(Self((0..count).map(connect).collect::<anyhow::Result<_>>()?))
    }

    /// Each sends a request; then each reads its answer.
    ///
    /// # Errors
    /// When it is another than these.
    pub(super) fn ask(&mut self) -> anyhow::Result<Answered> {
        for stream in &mut self.0 {
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        }
        let mut answered = Answered::default();
        for stream in &mut self.0 {
            match status(stream)? {
                Some(200) => answered.good += 1,
                None => answered.none += 1,
                Some(other) => bail!("a client was answered {other}"),
            }
        }
        Ok(answered)
    }
}

/// Reads one answer, body and all; None: there is none.
fn status(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<u16>> {
    let (mut first, mut length) = (String::new(), 0);
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    let status = first.split_whitespace().nth(1).with_context(|| format!("no answer: {first:?}"))?;
    Ok(Some(status.parse()?))
}

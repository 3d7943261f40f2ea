//! The process of a pod or service in the lab: it makes the connections that it is told to on its standard input,
//! in its own cgroup and namespace, and answers each command with one line.

use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::lab::connect::{self, tcp_from, udp_from};

/// What it holds, and what it is doing.
#[derive(Default)]
struct State {
    clients: Vec<TcpStream>,
    served: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<anyhow::Result<[u64; 2]>>>,
}

/// Obeys until standard input ends.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut state = State::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match state.obey(&words) {
            Ok([first, second]) => format!("ok {first} {second}"),
            Err(error) => format!("error {error:#}").replace('\n', " "),
        };
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

impl State {
    /// Two figures: connections made, and those refused with EPERM.
    fn obey(&mut self, words: &[&str]) -> anyhow::Result<[u64; 2]> {
        match words {
            ["unshare"] => own_namespace().map(|()| [0, 0]),
            ["listen", port] => self.listen(port.parse()?),
            ["tcp", from, to, count] => {
                let (from, to, count) = (parse_from(from)?, to.parse()?, count.parse()?);
                let made = self.connect(from, to, count)?;
                Ok([made, 0])
            }
            ["udp", from, to, count] => datagrams(parse_from(from)?, to.parse()?, count.parse()?),
            ["spray", from, to, first, count] => {
                spray(parse_from(from)?, to.parse()?, first.parse()?, count.parse()?)
            }
            ["churn", "udp", from, to] => self.start(churn_udp, parse_from(from)?, to.parse()?),
            ["churn", "tcp", from, to] => self.start(churn_tcp, parse_from(from)?, to.parse()?),
            ["stop"] => self.stop(),
            ["close"] => {
                self.clients.clear();
                lock(&self.served).clear();
                Ok([0, 0])
            }
            _ => bail!("not understood: {words:?}"),
        }
    }

    /// Takes what comes to a port of any address, TCP and UDP, and holds it.
    fn listen(&self, port: u16) -> anyhow::Result<[u64; 2]> {
        let any = SocketAddr::from(([0_u16; 8], port));
        let listener = TcpListener::bind(any).with_context(|| format!("TCP port {port}"))?;
        let socket = UdpSocket::bind(any).with_context(|| format!("UDP port {port}"))?;
        let served = self.served.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A connection that is gone already is none to hold.
                lock(&served).extend(stream.ok());
            }
        });
        std::thread::spawn(move || {
            let mut byte = [0];
            loop {
                // An error here is a past packet's, told by ICMP.
                let _: std::io::Result<usize> = socket.recv(&mut byte);
            }
        });
        Ok([0, 0])
    }

    fn connect(&mut self, from: Option<IpAddr>, to: SocketAddr, count: u64) -> anyhow::Result<u64> {
        for number in 0..count {
            let stream = tcp_from(from, to).with_context(|| format!("connection {number} to {to}"))?;
            self.clients.push(stream);
        }
        Ok(count)
    }

    fn start(&mut self, act: Churn, from: Option<IpAddr>, to: SocketAddr) -> anyhow::Result<[u64; 2]> {
        self.stop.store(false, Ordering::Relaxed);
        let stop = self.stop.clone();
        self.running.push(std::thread::spawn(move || act(from, to, &stop)));
        Ok([0, 0])
    }

    fn stop(&mut self) -> anyhow::Result<[u64; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = [0, 0];
        for running in self.running.drain(..) {
            let done = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            sum = [sum[0] + done[0], sum[1] + done[1]];
        }
        Ok(sum)
    }
}

type Churn = fn(Option<IpAddr>, SocketAddr, &AtomicBool) -> anyhow::Result<[u64; 2]>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `-` is any address.
fn parse_from(word: &str) -> anyhow::Result<Option<IpAddr>> {
    if word == "-" { Ok(None) } else { Ok(Some(word.parse()?)) }
}

/// Moves this process, while it has one thread only, into a network namespace of its own.
fn own_namespace() -> anyhow::Result<()> {
    // SAFETY: no descriptor is shared or closed by CLONE_NEWNET.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.context("unshare")
}

/// One datagram from each of `count` new sockets.
fn datagrams(from: Option<IpAddr>, to: SocketAddr, count: u64) -> anyhow::Result<[u64; 2]> {
    let mut sum = connect::Sends::default();
    for _ in 0..count {
        sum.note(udp_from(from, to)?.send_to(b"x", to))?;
    }
    Ok([sum.taken, sum.refused])
}

/// One datagram to each of `count` ports of consecutive addresses, from one socket.
fn spray(from: Option<IpAddr>, to: IpAddr, first: u64, count: u64) -> anyhow::Result<[u64; 2]> {
    const PORTS: u64 = 50_000;
    let socket = udp_from(from, SocketAddr::new(to, 1))?;
    let mut sum = connect::Sends::default();
    for number in first..first + count {
        let address = connect::plus(to, number / PORTS);
        sum.note(socket.send_to(b"x", (address, 10_000 + (number % PORTS) as u16)))?;
    }
    Ok([sum.taken, sum.refused])
}

/// Ever new flows.
fn churn_udp(from: Option<IpAddr>, to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<[u64; 2]> {
    let mut sum = connect::Sends::default();
    while !stop.load(Ordering::Relaxed) {
        sum.note(udp_from(from, to)?.send_to(b"x", to))?;
    }
    Ok([sum.taken, sum.refused])
}

/// Short connections. One that a full table refuses is given up.
fn churn_tcp(from: Option<IpAddr>, to: SocketAddr, stop: &AtomicBool) -> anyhow::Result<[u64; 2]> {
    let mut made = [0, 0];
    while !stop.load(Ordering::Relaxed) {
        match connect::tcp_within(from, to, Duration::from_millis(500)) {
            Ok(_) => made[0] += 1,
            Err(_) => made[1] += 1,
        }
    }
    Ok(made)
}

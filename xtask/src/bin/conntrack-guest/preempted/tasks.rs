//! Tasks of one processor: some as the scheduler likes, some that preempt those whenever they wake.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Done;
use crate::lab::connect::{Sends, tcp_within};
use crate::lab::netns::Netns;

/// Tasks as the scheduler likes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// Send datagrams.
    pub(super) senders: u8,
    /// Open and close connections.
    pub(super) connectors: u8,
    /// Only use the processor.
    pub(super) hogs: u8,
}

/// How far they are, and whether they are to go on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stop: AtomicBool,
    connects: AtomicU64,
}

impl Progress {
    /// Connections made so far.
    pub(super) fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// They are to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Sleep of each of the tasks that preempt. They differ, so that each meets the others at ever other moments.
const PREEMPTING: [Duration; 3] =
    [Duration::from_micros(211), Duration::from_micros(307), Duration::from_micros(419)];
const STREAM_PORT: u16 = 8_080;
const PATIENCE: Duration = Duration::from_secs(20);

/// What runs.
pub(super) struct Tasks<'scope> {
    senders: Vec<ScopedJoinHandle<'scope, anyhow::Result<Sends>>>,
    connectors: Vec<ScopedJoinHandle<'scope, anyhow::Result<u64>>>,
    hogs: Vec<ScopedJoinHandle<'scope, anyhow::Result<()>>>,
}

/// Starts all of them, on processor 0, and beside them some that preempt: as many senders as have a sleep, and one
/// that opens connections.
pub(super) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    progress: &'scope Progress,
    quiet: &'scope Netns,
    crowd: Crowd,
) -> Tasks<'scope> {
    let sleeps = std::iter::repeat_n(None, usize::from(crowd.senders)).chain(PREEMPTING.map(Some));
    let sender = |(number, sleep): (u8, Option<Duration>)| {
        scope.spawn(move || {
            take_place(sleep.is_some())?;
            send(number, sleep, progress)
        })
    };
    let connector = |number: u8| {
        scope.spawn(move || {
            quiet.enter()?;
            // The last one preempts.
            let preempts = number == crowd.connectors;
            take_place(preempts)?;
            connect(number, preempts.then_some(PREEMPTING[1]), progress)
        })
    };
    let hog = |_| {
        scope.spawn(move || {
            take_place(false)?;
            while progress.goes_on() {
                std::hint::spin_loop();
            }
            Ok(())
        })
    };
    Tasks {
        senders: (0..).zip(sleeps).map(sender).collect(),
        connectors: (0..=crowd.connectors).map(connector).collect(),
        hogs: (0..crowd.hogs).map(hog).collect(),
    }
}

impl Tasks<'_> {
    /// Waits for their ends: datagrams of all, and connections made.
    pub(super) fn end(self) -> anyhow::Result<(Done, u64)> {
        let mut done = Done::default();
        for sender in self.senders {
            done.add(&joined(sender)?);
        }
        let mut connects = 0;
        for connector in self.connectors {
            connects += joined(connector)?;
        }
        self.hogs.into_iter().try_for_each(joined)?;
        Ok((done, connects))
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Moves this thread to processor 0, where it preempts the others when it wakes, or does not.
fn take_place(preempts: bool) -> anyhow::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).context("sched_setaffinity")?;
    if preempts {
        let priority = libc::sched_param { sched_priority: 10 };
        // SAFETY: this thread (0), and a structure that lives until the call returns.
        let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        ensure!(done == 0, "SCHED_FIFO: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Every datagram to another place, so that each that is taken makes an entry.
fn send(number: u8, sleep: Option<Duration>, progress: &Progress) -> anyhow::Result<Sends> {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 10, number, 1), 0))?;
    let mut places = (1..=254_u8).flat_map(|host| (1..=u16::MAX).map(move |port| (host, port)));
    let mut sends = Sends::default();
    while progress.goes_on() {
        let (host, port) = places.next().context("ran out of ports")?;
        sends.note(socket.send_to(b"x", (Ipv4Addr::new(127, 20, number, host), port)))?;
        if let Some(sleep) = sleep {
            std::thread::sleep(sleep);
        }
    }
    Ok(sends)
}

/// Connections that are reset as soon as they are there, each from another port.
fn connect(number: u8, sleep: Option<Duration>, progress: &Progress) -> anyhow::Result<u64> {
    let at = SocketAddr::from((Ipv4Addr::new(127, 30, number, 1), STREAM_PORT));
    let listener = TcpListener::bind(at)?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let _: std::io::Result<_> = listener.accept();
            }
        });
        let made = connections(number, at, sleep, progress);
        ended.store(true, Ordering::Relaxed);
        // Of the test's own, so that the server sees the end.
        let last = TcpStream::connect_timeout(&at, PATIENCE);
        server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        last.context("the server does not end")?;
        Ok(made? + 1)
    })
}

fn connections(
    number: u8,
    at: SocketAddr,
    sleep: Option<Duration>,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let mut made = 0_u64;
    while progress.goes_on() {
        // No pair of addresses lasts longer than there are ports.
        let [.., third, fourth] = (made / 10_000 + 1).to_be_bytes();
        let from = IpAddr::from(Ipv4Addr::new(127, 40 + number, third, fourth));
        let stream = tcp_within(Some(from), at, PATIENCE)?;
        set_socket_linger(stream.as_fd(), Some(Duration::ZERO))?;
        made += 1;
        progress.connects.fetch_add(1, Ordering::Relaxed);
        if let Some(sleep) = sleep {
            std::thread::sleep(sleep);
        }
    }
    Ok(made)
}

//! TCP connection attempts under way, and what the kernel says became of them.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::socket_option;

/// What became of an attempt, by its own socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing yet.
    UnderWay,
    /// It is connected.
    Connected,
    /// It failed with this error.
    Failed(i32),
}

/// A connection attempt that does not block; given up when dropped.
#[derive(Debug)]
pub(crate) struct Attempt(TcpStream);

impl Attempt {
    /// Begins one in the calling thread's namespace; `retries` is how often the kernel sends its SYN again, if that
    /// is to be another number than the namespace's.
    ///
    /// # Errors
    /// When there can be no socket, or the attempt fails at once.
    pub(crate) fn begin(to: SocketAddr, retries: Option<i32>) -> anyhow::Result<Self> {
        Self::begin_from(None, to, retries)
    }

    /// The same, from this address and port.
    ///
    /// # Errors
    /// As [`Attempt::begin`].
    pub(crate) fn begin_from(
        from: Option<SocketAddr>,
        to: SocketAddr,
        retries: Option<i32>,
    ) -> anyhow::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(retries) = retries {
            socket_option::set(&socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, retries)?;
        }
        if let Some(from) = from {
            rustix::net::bind(&socket, &from).with_context(|| format!("cannot bind to {from}"))?;
        }
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("connect"),
        }
        Ok(Self(socket.into()))
    }

    /// Its socket.
    pub(crate) const fn stream(&self) -> &TcpStream {
        &self.0
    }

    /// Its socket, when it is connected.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.0
    }

    /// What has become of it so far.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub(crate) fn fate(&self) -> anyhow::Result<Fate> {
        if let Some(error) = self.0.take_error()? {
            return Ok(Fate::Failed(error.raw_os_error().context("no number")?));
        }
        match self.0.peer_addr() {
            Ok(_) => Ok(Fate::Connected),
            Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(Fate::UnderWay),
            Err(error) => Err(error.into()),
        }
    }
}

/// What became of each, when of every one something has, or at the deadline.
///
/// # Errors
/// As [`Attempt::fate`].
pub(crate) fn fates(attempts: &[Attempt], deadline: Duration) -> anyhow::Result<Vec<Fate>> {
    let until = Instant::now() + deadline;
    // An error is told once: it is kept.
    let mut fates = vec![Fate::UnderWay; attempts.len()];
    loop {
        for (fate, attempt) in fates.iter_mut().zip(attempts) {
            if *fate == Fate::UnderWay {
                *fate = attempt.fate()?;
            }
        }
        if fates.iter().all(|fate| *fate != Fate::UnderWay) || Instant::now() > until {
            return Ok(fates);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes sent and not acknowledged.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn unacknowledged(stream: &TcpStream) -> anyhow::Result<i32> {
    let mut bytes = 0;
    // SAFETY: SIOCOUTQ writes one int.
    let done = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    ensure!(done == 0, "SIOCOUTQ: {}", std::io::Error::last_os_error());
    Ok(bytes)
}

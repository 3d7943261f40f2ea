//! One question over netlink and all of its answer.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{self, Timeout};

use super::nlattr::align;

/// How long the kernel may take for each part of an answer.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Receive buffer of the socket.
const SOCKET_BUFFER: usize = 4 << 20;
/// The kernel fills at most 32 KiB at a time.
const READ_BUFFER: usize = 64 << 10;
/// Length of a message's header.
const HEADER: usize = 16;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Ask for all there is, not for one thing.
pub(super) const NLM_F_DUMP: u16 = 0x300;

/// Why the kernel's answer could not be had.
#[derive(Debug)]
pub enum Error {
    /// A system call failed: which, and why.
    Io(&'static str, io::Error),
    /// The kernel refused the question.
    Refused(io::Error),
    /// No answer within two seconds.
    TimedOut,
    /// The answer did not fit the socket's buffer: what was read is not all.
    Overrun,
    /// One datagram was longer than the read buffer: bytes it had.
    Truncated(usize),
    /// The answer is not what this program knows to read: what was wrong.
    Malformed(&'static str),
    /// What was asked for changed while it was told, each time it was asked.
    Overtaken,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(call, error) => write!(f, "netlink: {call} failed: {error}"),
            Self::Refused(error) => {
                write!(f, "netlink: the kernel refused the request: {error}; run with CAP_NET_ADMIN")
            }
            Self::TimedOut => write!(f, "netlink: no answer within 2 s; the next reading tries again"),
            Self::Overrun => {
                write!(f, "netlink: the answer overran the socket's buffer; the next reading tries again")
            }
            Self::Truncated(bytes) => {
                write!(
                    f,
                    "netlink: a datagram of {bytes} bytes was cut off at {READ_BUFFER}; report this kernel"
                )
            }
            Self::Overtaken => {
                write!(f, "netlink: it changed while it was read, each time; the next reading tries again")
            }
            Self::Malformed(what) => {
                write!(f, "netlink: the answer cannot be read: {what}; report this kernel's version")
            }
        }
    }
}

impl std::error::Error for Error {}

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages that fill `datagram`.
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = (|| {
            let mut header = self.rest.get(..HEADER)?;
            let length = usize::try_from(header.get_u32_ne()).ok()?;
            let (kind, flags, sequence) = (header.get_u16_ne(), header.get_u16_ne(), header.get_u32_ne());
            let payload = self.rest.get(HEADER..length)?;
            self.rest = self.rest.get(align(length)..).unwrap_or_default();
            Some(Message { kind, flags, sequence, payload })
        })();
        if parsed.is_none() {
            self.rest = &[];
        }
        Some(parsed.ok_or(Error::Malformed("a message's length is impossible")))
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The kernel said that what it dumped changed meanwhile (`NLM_F_DUMP_INTR`).
    pub interrupted: bool,
}

/// A netlink socket of the namespace in which the thread was when it opened it.
pub struct Connection {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Connection {
    /// Opens a socket. `protocol` is a `NETLINK_*` number.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket cannot be had.
    pub fn open(protocol: isize) -> Result<Self, Error> {
        let mut socket = Socket::new(protocol).map_err(|error| Error::Io("socket", error))?;
        socket.bind_auto().map_err(|error| Error::Io("bind", error))?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(RECEIVE_TIMEOUT))
            .map_err(|errno| Error::Io("setsockopt SO_RCVTIMEO", errno.into()))?;
        // Without CAP_NET_ADMIN in the socket's user namespace the limit of net.core.rmem_max applies; the
        // kernel then dumps in smaller parts, so that neither refusal matters.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)
                .map_err(|errno| Error::Io("setsockopt SO_RCVBUF", errno.into()))?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), sequence: 0 })
    }

    /// Asks, and hands every message of the answer to `each`, until the kernel says that this was all
    /// (a dump), or after one message (no dump).
    ///
    /// # Errors
    /// Any [`Error`], `each`'s own included. What `each` was given before an error is not the whole answer.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut each: impl FnMut(Message<'_>) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(kind, flags, self.sequence, payload)?;
        retry(|| self.socket.send_to(&request, &SocketAddr::new(0, 0), 0))
            .map_err(|error| Error::Io("send", error))?;
        let mut answer = Answer::default();
        let mut last = Instant::now();
        loop {
            self.buffer.clear();
            let (length, sender) =
                retry(|| self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC)).map_err(receive_error)?;
            if length > self.buffer.len() {
                return Err(Error::Truncated(length));
            }
            // Any process may send to this socket: only the kernel, port 0, is believed. Others' datagrams
            // must not keep us waiting for ever.
            if sender.port_number() != 0 {
                if last.elapsed() > RECEIVE_TIMEOUT {
                    return Err(Error::TimedOut);
                }
                continue;
            }
            last = Instant::now();
            for message in Messages::new(&self.buffer) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                answer.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(Error::Overrun),
                    NLMSG_ERROR | NLMSG_DONE => {
                        return status(message.kind, message.payload).map(|()| answer);
                    }
                    _ => {
                        each(message)?;
                        if flags & NLM_F_DUMP == 0 {
                            return Ok(answer);
                        }
                    }
                }
            }
        }
    }
}

/// The bytes of a request.
fn request(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Result<Vec<u8>, Error> {
    let length =
        u32::try_from(HEADER + payload.len()).map_err(|_| Error::Malformed("a request over 4 GiB"))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.put_u32_ne(length);
    bytes.put_u16_ne(kind);
    bytes.put_u16_ne(flags | NLM_F_REQUEST);
    bytes.put_u32_ne(sequence);
    bytes.put_u32_ne(0);
    bytes.put_slice(payload);
    Ok(bytes)
}

/// The verdict in an NLMSG_ERROR or NLMSG_DONE: a negative errno or 0. Old kernels' DONE may have none.
fn status(kind: u16, mut payload: &[u8]) -> Result<(), Error> {
    match payload.try_get_i32_ne() {
        Ok(0) => Ok(()),
        Ok(code) if code < 0 => Err(Error::Refused(io::Error::from_raw_os_error(code.wrapping_neg()))),
        Err(_) if kind == NLMSG_DONE => Ok(()),
        // A positive code ends some dumps: the length of what was dumped, not a failure.
        Ok(_) if kind == NLMSG_DONE => Ok(()),
        _ => Err(Error::Malformed("an error message with no errno")),
    }
}

fn receive_error(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => Error::Overrun,
        Some(libc::EAGAIN) => Error::TimedOut,
        _ => Error::Io("recv", error),
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_datagram() {
        let mut datagram = request(7, 2, 5, &[1, 2, 3]).unwrap();
        datagram.push(0);
        datagram.extend(request(8, 0, 5, &[]).unwrap());
        let all: Vec<_> = Messages::new(&datagram).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], Message { kind: 7, flags: 3, sequence: 5, payload: &[1, 2, 3] });
        assert_eq!(all[1].payload, &[] as &[u8]);
    }

    #[test]
    fn a_cut_datagram_is_an_error_and_the_end() {
        let whole = request(7, 0, 1, &[0; 32]).unwrap();
        for cut in 1..whole.len() {
            let mut messages = Messages::new(&whole[..cut]);
            assert!(matches!(messages.next(), Some(Err(Error::Malformed(_)))), "cut at {cut}");
            assert!(messages.next().is_none());
        }
    }

    #[test]
    fn verdicts() {
        assert!(status(NLMSG_DONE, &[]).is_ok());
        assert!(status(NLMSG_ERROR, &0_i32.to_ne_bytes()).is_ok());
        assert!(status(NLMSG_ERROR, &[]).is_err());
        match status(NLMSG_DONE, &(-libc::EPERM).to_ne_bytes()) {
            Err(Error::Refused(error)) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(receive_error(io::Error::from_raw_os_error(libc::ENOBUFS)), Error::Overrun));
        assert!(matches!(receive_error(io::Error::from_raw_os_error(libc::EAGAIN)), Error::TimedOut));
    }

    #[test]
    fn errors_are_one_line() {
        for error in [
            Error::TimedOut,
            Error::Overrun,
            Error::Overtaken,
            Error::Truncated(70_000),
            Error::Malformed("x"),
        ] {
            assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

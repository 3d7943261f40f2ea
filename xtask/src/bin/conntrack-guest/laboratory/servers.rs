//! Who answers beyond a router, each port in its own way.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use super::case::Kind;
use crate::lab::netns::Netns;
use crate::lab::nft;

/// Beyond a router the first packet of a kind is lost; that is none of the table's doing. Datagrams are never answered.
const LOSSES: &str = "table inet losses { \
    set syns { type inet_service; flags dynamic; size 65535; }; \
    set data { type inet_service; flags dynamic; size 65535; }; \
    set acks { type inet_service; flags dynamic; size 65535; }; \
    chain in { type filter hook input priority 0; \
        meta l4proto udp drop; \
        tcp dport 103 tcp flags & (syn | ack) == syn tcp sport != @syns add @syns { tcp sport } drop; \
        tcp dport 104 tcp flags & psh == psh tcp sport != @data add @data { tcp sport } drop; \
        tcp dport 106 tcp flags & (syn | ack | psh | fin | rst) == ack tcp sport != @acks add @acks { tcp sport } drop; }; }";

/// Connections that an overloaded listener has room for.
const WAITING: i32 = 8;

/// The servers of one namespace.
#[derive(Debug)]
pub(super) struct Servers {
    /// Connections to the port of [`Kind::Deleted`], which the server is to speak on.
    talkers: Arc<Mutex<Vec<TcpStream>>>,
    overloaded: Mutex<Option<OwnedFd>>,
}

impl Servers {
    /// Starts them, and loses what is to be lost. Whether an overloaded one resets is the namespace's.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) fn start(netns: &Netns, resets_when_full: bool, ports: &[u16]) -> anyhow::Result<Self> {
        nft::load(netns, LOSSES)?;
        let talkers = Arc::new(Mutex::new(Vec::new()));
        netns.run(|| {
            let setting = if resets_when_full { "1" } else { "0" };
            std::fs::write("/proc/sys/net/ipv4/tcp_abort_on_overflow", setting)?;
            // With cookies a listener that has no room is silent.
            std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0")?;
            for kind in [Kind::Aborted, Kind::LostSyn, Kind::LostData, Kind::ServerCloses, Kind::Deleted] {
                serve(kind.port(), kind, talkers.clone())?;
            }
            for port in ports {
                serve(*port, Kind::Late, talkers.clone())?;
            }
            Ok(())
        })?;
        Ok(Self { talkers, overloaded: Mutex::new(None) })
    }

    /// Makes the overloaded listener anew: whoever waits in it is reset, and it has room for a few.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn renew(&self, netns: &Netns) -> anyhow::Result<()> {
        let mut listener = self.overloaded.lock().unwrap_or_else(PoisonError::into_inner);
        *listener = None;
        *listener = Some(netns.run(|| overloaded(Kind::Overloaded.port()))?);
        Ok(())
    }

    /// Sends a byte on each connection of [`Kind::Deleted`], and lets go of it.
    ///
    /// # Errors
    /// When one cannot be sent.
    pub(super) fn speak(&self) -> anyhow::Result<usize> {
        let talkers = std::mem::take(&mut *self.talkers.lock().unwrap_or_else(PoisonError::into_inner));
        for mut stream in &talkers {
            stream.write_all(b"x")?;
        }
        Ok(talkers.len())
    }
}

/// Takes connections and holds them, but for [`Kind::ServerCloses`]: those it closes when there is something to read.
fn serve(port: u16, kind: Kind, talkers: Arc<Mutex<Vec<TcpStream>>>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0_u16; 8], port)))?;
    rustix::net::listen(&listener, 1_024)?;
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            match kind {
                Kind::ServerCloses => {
                    // What is peeked at stays unread: a close with data unread is a reset.
                    let _: std::io::Result<usize> = stream.peek(&mut [0]);
                }
                Kind::Deleted => talkers.lock().unwrap_or_else(PoisonError::into_inner).push(stream),
                _ => held.push(stream),
            }
        }
    });
    Ok(())
}

/// A listener that nobody takes from. Of those whose SYNs it has taken, some find no room when their handshake ends; of
/// others it drops the SYN.
fn overloaded(port: u16) -> anyhow::Result<OwnedFd> {
    let listener = socket(AddressFamily::INET6, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &SocketAddr::from(([0_u16; 8], port)))?;
    listen(&listener, WAITING)?;
    Ok(listener)
}

/// A socket of a pod's that sends a datagram with each of these numbers in it.
///
/// # Errors
/// When it cannot be made, or the kernel does not take a datagram.
pub(super) fn datagrams(from: SocketAddr, to: SocketAddr, numbers: &[u64]) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(from)?;
    numbers.iter().try_for_each(|number| Ok(socket.send_to(&number.to_be_bytes(), to).map(drop)?))
}

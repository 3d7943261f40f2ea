//! What is on the wires of a router: every packet of TCP and UDP, as AF_PACKET shows it, on both sides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail, ensure};

use super::case::{TCP, UDP};
use crate::lab::netns::Netns;
use crate::lab::socket_option;

/// Headers of Ethernet, IPv6 and TCP with options, and the number in a datagram.
const SNAP: usize = 128;
const BUFFER: i32 = 128 << 20;
/// `SKF_AD_OFF + SKF_AD_IFINDEX` of linux/filter.h.
const IFINDEX: u32 = (-0x1000_i32 + 8) as u32;
/// Not of the loopback device, of all else the first bytes.
const FILTER: [libc::sock_filter; 4] = [
    libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: IFINDEX },
    libc::sock_filter { code: 0x15, jt: 1, jf: 0, k: 1 },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: SNAP as u32 },
    libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 },
];
/// What floods a table goes to the port of nobody's case.
pub(super) const FLOOD_PORTS: u16 = 10_000;

/// One packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    /// The device that it was on.
    pub(super) device: i32,
    /// It left the router by that device; else it came in.
    pub(super) leaves: bool,
    pub(super) proto: u8,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// TCP's.
    pub(super) flags: u8,
    /// TCP's sequence number; the number that a datagram carries.
    pub(super) number: u64,
    /// Bytes of payload.
    pub(super) length: usize,
}

/// A capture that is running.
#[derive(Debug)]
pub(super) struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Packet>>>,
    socket: Arc<OwnedFd>,
}

impl Capture {
    /// Begins one of all devices of a namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn begin(netns: &Netns) -> anyhow::Result<Self> {
        let socket = Arc::new(netns.run(open)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (reader, stopped) = (socket.clone(), stop.clone());
        let thread = std::thread::spawn(move || read(&reader, &stopped));
        Ok(Self { stop, thread, socket })
    }

    /// Ends it: all packets, in the order in which the kernel saw them.
    ///
    /// # Errors
    /// When a packet was not captured: then nothing is known.
    pub(super) fn end(self) -> anyhow::Result<Vec<Packet>> {
        self.stop.store(true, Ordering::Relaxed);
        let packets = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let lost = lost(&self.socket)?;
        ensure!(lost == 0, "the capture has lost {lost} packets");
        Ok(packets)
    }
}

fn open() -> anyhow::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no pointers.
    let fd =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) };
    ensure!(fd >= 0, "AF_PACKET: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor of its own.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut filter = FILTER;
    let program = libc::sock_fprog { len: FILTER.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until the call returns.
    let done = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as u32,
        )
    };
    ensure!(done == 0, "SO_ATTACH_FILTER: {}", std::io::Error::last_os_error());
    socket_option::set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
    let time = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, time, Some(std::time::Duration::from_millis(200)))?;
    Ok(socket)
}

/// Until nothing comes any more after it was told to stop.
fn read(socket: &OwnedFd, stop: &AtomicBool) -> anyhow::Result<Vec<Packet>> {
    let mut packets = Vec::new();
    let mut bytes = [0_u8; SNAP];
    loop {
        // SAFETY: all-zero is a sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&from) as u32;
        // SAFETY: buffer and address are as long as is told.
        let got = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                0,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        if got < 0 {
            let error = std::io::Error::last_os_error();
            match error.kind() {
                std::io::ErrorKind::WouldBlock if stop.load(Ordering::Relaxed) => return Ok(packets),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted => continue,
                // A device went down.
                _ if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
                _ => bail!(error),
            }
        }
        let leaves = from.sll_pkttype == libc::PACKET_OUTGOING;
        let packet = parse(&bytes[..got as usize]);
        packets.extend(packet.map(|packet| Packet { device: from.sll_ifindex, leaves, ..packet }));
    }
}

/// Packets that found no room, as `PACKET_STATISTICS` has it.
fn lost(socket: &OwnedFd) -> anyhow::Result<u32> {
    let mut statistics = [0_u32; 2];
    let mut length = size_of_val(&statistics) as u32;
    // SAFETY: the kernel writes no more than `length` says there is room for.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    ensure!(done == 0, "PACKET_STATISTICS: {}", std::io::Error::last_os_error());
    Ok(statistics[1])
}

/// A device's number in a namespace.
///
/// # Errors
/// When there is none of this name.
pub(super) fn device(netns: &Netns, name: &str) -> anyhow::Result<i32> {
    let text = netns.output("ip", &["-o", "link", "show", "dev", name])?;
    text.split(':').next().and_then(|number| number.trim().parse().ok()).with_context(|| text.clone())
}

/// None: it is neither TCP nor UDP, or of nobody's case.
fn parse(frame: &[u8]) -> Option<Packet> {
    let (kind, ip) = (u16::from_be_bytes(*frame.get(12..)?.first_chunk()?), frame.get(14..)?);
    let (proto, from, to, total, rest): (u8, IpAddr, IpAddr, usize, &[u8]) = match kind {
        0x0800 => {
            let header = usize::from(ip.first()? & 15) * 4;
            let address = |at: usize| Some(IpAddr::from(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?)));
            let total = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
            (*ip.get(9)?, address(12)?, address(16)?, total.checked_sub(header)?, ip.get(header..)?)
        }
        0x86dd => {
            let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?)));
            let total = usize::from(u16::from_be_bytes(*ip.get(4..)?.first_chunk()?));
            (*ip.get(6)?, address(8)?, address(24)?, total, ip.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let (from, to) = (SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?));
    let (flags, number, header) = match proto {
        TCP => {
            let number = u32::from_be_bytes(*rest.get(4..)?.first_chunk()?);
            (*rest.get(13)?, number.into(), usize::from(rest.get(12)? >> 4) * 4)
        }
        UDP if to.port() >= FLOOD_PORTS && from.port() >= FLOOD_PORTS => return None,
        UDP => {
            (0, rest.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes)), 8)
        }
        _ => return None,
    };
    let length = total.checked_sub(header)?;
    Some(Packet { device: 0, leaves: false, proto, from, to, flags, number, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::packet::segment;

    #[test]
    fn a_segment_is_read_back() {
        let (from, to): (SocketAddr, SocketAddr) =
            ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let tcp = segment(from, to, [77, 0], 0x18, b"xx");
        let mut frame = vec![0; 12];
        frame.extend([
            8,
            0,
            0x45,
            0,
            0,
            20 + tcp.len() as u8,
            0,
            0,
            0,
            0,
            64,
            TCP,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ]);
        frame.extend(tcp);
        let packet = parse(&frame).unwrap();
        assert_eq!((packet.from, packet.to, packet.flags), (from, to, 0x18));
        assert_eq!((packet.number, packet.length, packet.proto), (77, 2, TCP));
        assert!(parse(&frame[..40]).is_none());
    }
}

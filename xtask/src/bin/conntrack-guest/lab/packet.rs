//! Packets made by hand, for what no socket sends.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, bind, ipproto, sendto, socket};

const SCTP_INIT: u8 = 1;
const TCP_PROTOCOL: u8 = 6;
const UDP_PROTOCOL: u8 = 17;

/// A raw socket of the calling thread's namespace: it sends any packet of one protocol to one address.
#[derive(Debug)]
pub(crate) struct Raw {
    socket: OwnedFd,
    to: IpAddr,
}

impl Raw {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn open(to: IpAddr, protocol: Protocol) -> anyhow::Result<Self> {
        Self::open_from(None, to, protocol)
    }

    /// Opens it to send from one of the namespace's addresses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn open_from(from: Option<IpAddr>, to: IpAddr, protocol: Protocol) -> anyhow::Result<Self> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::RAW, Some(protocol)).context("no raw socket")?;
        if let Some(from) = from {
            bind(&socket, &SocketAddr::new(from, 0)).with_context(|| format!("cannot bind to {from}"))?;
        }
        Ok(Self { socket, to })
    }

    /// Opens it for echo requests.
    ///
    /// # Errors
    /// As [`Raw::open`].
    pub(crate) fn for_echo(to: IpAddr) -> anyhow::Result<Self> {
        Self::open(to, if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 })
    }

    /// Sends what comes after the IP header.
    ///
    /// # Errors
    /// What the kernel says, EPERM for a packet that a full table refused.
    pub(crate) fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        sendto(&self.socket, bytes, SendFlags::empty(), &SocketAddr::new(self.to, 0))
    }
}

/// An echo request.
pub(crate) fn echo_request(to: IpAddr, id: u16) -> Vec<u8> {
    echo(to, id, if to.is_ipv4() { 8 } else { 128 })
}

/// The reply to an echo request, asked for or not.
pub(crate) fn echo_reply(to: IpAddr, id: u16) -> Vec<u8> {
    echo(to, id, if to.is_ipv4() { 0 } else { 129 })
}

/// Of ICMPv6 the kernel makes the checksum.
fn echo(to: IpAddr, id: u16, kind: u8) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend([0, 1]);
    if to.is_ipv4() {
        let sum = internet_checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// An SCTP packet with an INIT chunk.
pub(crate) fn sctp_init(from_port: u16, to_port: u16) -> Vec<u8> {
    let mut packet = ports(from_port, to_port);
    packet.extend([0; 8]); // verification tag 0, checksum
    packet.extend([SCTP_INIT, 0, 0, 20]);
    packet.extend(1_u32.to_be_bytes()); // initiate tag
    packet.extend(65_536_u32.to_be_bytes()); // window
    packet.extend([0, 1, 0, 1]); // streams
    packet.extend(1_u32.to_be_bytes()); // first sequence number
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// A TCP packet without payload; `flags` as in the header.
pub(crate) fn tcp(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16, flags: u8) -> Vec<u8> {
    segment(SocketAddr::new(from, from_port), SocketAddr::new(to, to_port), [1, 0], flags, &[])
}

/// A TCP packet with this payload, of an even number of bytes; `numbers` are those of sequence and acknowledgement.
pub(crate) fn segment(
    from: SocketAddr,
    to: SocketAddr,
    [sequence, acknowledged]: [u32; 2],
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = ports(from.port(), to.port());
    packet.extend(sequence.to_be_bytes());
    packet.extend(acknowledged.to_be_bytes());
    packet.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend(payload);
    let sum = transport_checksum(from.ip(), to.ip(), TCP_PROTOCOL, &packet);
    packet[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A UDP datagram without payload.
pub(crate) fn udp(from: IpAddr, to: IpAddr, from_port: u16, to_port: u16) -> Vec<u8> {
    let mut packet = ports(from_port, to_port);
    packet.extend([0, 8, 0, 0]);
    let sum = transport_checksum(from, to, UDP_PROTOCOL, &packet);
    packet[6..8].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

/// The checksum over the packet and what it takes from the IP header.
fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, packet: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend([0, protocol]);
    bytes.extend((packet.len() as u16).to_be_bytes());
    bytes.extend(packet);
    internet_checksum(&bytes)
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// CRC-32C (Castagnoli).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_known_input() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
    }

    #[test]
    fn packets_have_their_lengths() {
        let to = IpAddr::from([10, 0, 2, 2]);
        assert_eq!(echo_request(to, 7).len(), 8);
        assert_eq!(sctp_init(1, 2).len(), 32);
        assert_eq!(tcp(to, to, 1, 2, 2).len(), 20);
        assert_eq!(udp(to, to, 1, 2).len(), 8);
    }
}

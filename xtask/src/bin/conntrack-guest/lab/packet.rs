//! Packets made by hand, for what no socket sends.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType, ipproto, sendto, socket};

use super::traffic::client_for;

const SCTP_INIT: u8 = 1;
const TCP_PROTOCOL: u8 = 6;

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
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::RAW, Some(protocol)).context("no raw socket")?;
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

/// An echo request. Of ICMPv6 the kernel makes the checksum.
pub(crate) fn echo_request(to: IpAddr, id: u16) -> Vec<u8> {
    let mut packet = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
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
    let mut packet = Vec::new();
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
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

/// A TCP packet without payload, from the client to `to`; `flags` as in the header.
pub(crate) fn tcp(to: IpAddr, from_port: u16, to_port: u16, flags: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend(1_u32.to_be_bytes());
    packet.extend(if flags & 0x10 == 0 { 0_u32 } else { 1 }.to_be_bytes());
    packet.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let mut pseudo = Vec::new();
    for address in [client_for(to), to] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend([0, TCP_PROTOCOL, 0, 20]);
    pseudo.extend(&packet);
    let sum = internet_checksum(&pseudo);
    packet[16..18].copy_from_slice(&sum.to_be_bytes());
    packet
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
        assert_eq!(tcp(to, 1, 2, 2).len(), 20);
    }
}

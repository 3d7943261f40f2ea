//! An nfnetlink queue: packets wait in it between conntrack's look-up and the insert, as long as the test likes.
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nfnetlink_queue.h>

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::socket_option;

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;
const CFG_CMD: u16 = 1;
const CFG_PARAMS: u16 = 2;
const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
/// `NFQNL_CFG_CMD_BIND`, and a protocol family that is not looked at.
const BIND: [u8; 4] = [1, 0, 0, 0];
/// No copy of the packet, only what is known of it.
const META: [u8; 5] = [0, 0, 0, 0, 1];
const NF_ACCEPT: u32 = 1;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ERROR: u16 = 2;
const HEADERS: usize = 16 + 4;
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for thousands of packets that wait, those too that are repeated meanwhile.
const BUFFER: i32 = 16 << 20;

/// Queue 0 of the calling thread's namespace.
#[derive(Debug)]
pub(crate) struct Queue(OwnedFd);

impl Queue {
    /// Takes hold of it, as soon as nobody else does: a program that was started while another held it has that one's
    /// socket for a moment.
    ///
    /// # Errors
    /// When the kernel has no such queues, or refuses.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Self::take() {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                taken => return taken,
            }
        }
    }

    fn take() -> anyhow::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        socket_option::set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
        let queue = Self(socket);
        for (kind, value) in [(CFG_CMD, &BIND[..]), (CFG_PARAMS, &META)] {
            send(&queue.0, &message(CONFIG, REQUEST | ACK, kind, value), SendFlags::empty())?;
            queue.acknowledged()?;
        }
        Ok(queue)
    }

    /// Waits until so many packets are held.
    ///
    /// # Errors
    /// When no packet comes for 10 s.
    pub(crate) fn hold(&self, packets: usize) -> anyhow::Result<Held<'_>> {
        let (mut last, mut held) = (0, 0);
        while held < packets {
            let bytes = self.receive().with_context(|| format!("of {packets} packets {held} came"))?;
            for (kind, body) in messages(&bytes) {
                if kind == PACKET {
                    last = packet_id(body).context("a packet without its id")?;
                    held += 1;
                }
            }
        }
        Ok(Held { queue: self, last })
    }

    fn receive(&self) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; 32 << 10];
        let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Packets that come meanwhile stay in the queue.
    fn acknowledged(&self) -> anyhow::Result<()> {
        loop {
            let bytes = self.receive().context("no answer from nfnetlink_queue")?;
            for (kind, body) in messages(&bytes) {
                if kind == ERROR {
                    let error = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
                    ensure!(error == Some(0), "the queue was refused: {error:?}");
                    return Ok(());
                }
            }
        }
    }
}

/// Packets that wait.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    queue: &'a Queue,
    last: u32,
}

impl Held<'_> {
    /// Lets all of them go, in the order they came.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn accept(self) -> anyhow::Result<()> {
        let mut verdict = NF_ACCEPT.to_be_bytes().to_vec();
        verdict.extend(self.last.to_be_bytes());
        send(
            &self.queue.0,
            &message(VERDICT_BATCH, REQUEST | ACK, VERDICT_HDR, &verdict),
            SendFlags::empty(),
        )?;
        self.queue.acknowledged()
    }
}

/// A message with one attribute, for queue 0.
fn message(kind: u16, flags: u16, attribute: u16, value: &[u8]) -> Vec<u8> {
    let length = HEADERS + 4 + value.len().next_multiple_of(4);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8 + 4]); // sequence, port; family, version, queue
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length, 0);
    bytes
}

/// Each message's type, and what follows its header.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (bytes.first_chunk(), bytes.get(4..6)) {
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(body) = bytes.get(16..length) else { break };
        found.push((u16::from_ne_bytes([kind[0], kind[1]]), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The id in a packet's message.
fn packet_id(body: &[u8]) -> Option<u32> {
    let mut rest = body.get(4..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]);
        if kind == PACKET_HDR {
            return Some(u32::from_be_bytes(*rest.get(4..)?.first_chunk()?));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_back() {
        let mut bytes = message(PACKET, 0, 9, &[1, 2]);
        bytes.extend(message(PACKET, 0, PACKET_HDR, &[0, 0, 1, 2, 8, 0, 2]));
        let all = messages(&bytes);
        assert_eq!(all.len(), 2);
        assert_eq!(packet_id(all[0].1), None);
        assert_eq!(packet_id(all[1].1), Some(0x0102));
    }
}

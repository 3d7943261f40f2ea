//! Tells that addresses changed, here or in a pod, without asking every namespace.

use std::io;

use netlink_sys::Socket;

const NETLINK_ROUTE: isize = 0;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// What a message says is not read: the first bytes are enough to take it off the queue.
const READ_BUFFER: usize = 256;

/// A subscription to the changes of addresses in the namespace where it was opened, and in those that this
/// namespace has an id for: those where the other end of one of its veths is, or a device that was moved there.
///
/// Of others (no device in common) changes are not heard, and without CAP_NET_BROADCAST only its own are. It holds no
/// reference of a namespace but the one it was opened in.
#[derive(Debug)]
pub struct RtWatch {
    socket: Socket,
    buffer: Vec<u8>,
    hears_others: bool,
}

impl RtWatch {
    /// Subscribes, in the namespace of the thread.
    ///
    /// # Errors
    /// When the kernel refuses the socket or the subscription.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        let hears_others = socket.set_listen_all_namespaces(true).is_ok();
        for group in [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BUFFER), hears_others })
    }

    /// Did anything change since it was last asked? Does not wait. Where more changed than the socket's buffer holds,
    /// something did.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Any process may send to this socket; only the kernel, port 0, tells of changes.
                Ok((_, sender)) => changed |= sender.port_number() == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                // ENOBUFS is told once, and what is queued follows it.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(_) => return true,
            }
        }
    }

    /// Does it hear of other namespaces? Without CAP_NET_BROADCAST it does not.
    #[must_use]
    pub fn hears_others(&self) -> bool {
        self.hears_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happened_yet() {
        let mut watch = RtWatch::open().unwrap();
        // Another test's doings may be heard, but they end.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while watch.changed() {
            assert!(std::time::Instant::now() < deadline, "changes without end");
        }
    }
}

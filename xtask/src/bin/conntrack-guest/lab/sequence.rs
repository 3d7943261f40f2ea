//! Where a TCP connection stands, by its own socket.

use std::net::TcpStream;

use super::socket_option::{get, set};

/// `TCP_RECV_QUEUE` and `TCP_SEND_QUEUE` of linux/tcp.h.
const RECEIVE_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
/// `TCP_REPAIR_ON`, and `TCP_REPAIR_OFF_NO_WP`: no window probe is sent.
const ON: i32 = 1;
const OFF: i32 = -1;

/// The next sequence numbers that it sends, and that it expects.
///
/// # Errors
/// When the kernel refuses: it takes CAP_NET_ADMIN.
pub(crate) fn numbers(stream: &TcpStream) -> anyhow::Result<[u32; 2]> {
    set(stream, libc::IPPROTO_TCP, libc::TCP_REPAIR, ON)?;
    let read = |queue| {
        set(stream, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue)?;
        get(stream, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ)
    };
    let both = read(SEND_QUEUE).and_then(|sends| Ok([sends, read(RECEIVE_QUEUE)?]));
    set(stream, libc::IPPROTO_TCP, libc::TCP_REPAIR, OFF)?;
    both
}

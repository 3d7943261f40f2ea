//! Where a TCP connection stands, by its own socket.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use anyhow::ensure;

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
    set(stream, libc::TCP_REPAIR, ON)?;
    let read = |queue| {
        set(stream, libc::TCP_REPAIR_QUEUE, queue)?;
        get(stream, libc::TCP_QUEUE_SEQ)
    };
    let both = read(SEND_QUEUE).and_then(|sends| Ok([sends, read(RECEIVE_QUEUE)?]));
    set(stream, libc::TCP_REPAIR, OFF)?;
    both
}

fn set(stream: &TcpStream, option: i32, value: i32) -> anyhow::Result<()> {
    let length = u32::try_from(size_of_val(&value))?;
    // SAFETY: an open socket, and a value that lives until the call returns, of the length given.
    let done = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), length)
    };
    ensure!(done == 0, "socket option {option}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn get(stream: &TcpStream, option: i32) -> anyhow::Result<u32> {
    let mut value = 0_u32;
    let mut length = u32::try_from(size_of_val(&value))?;
    // SAFETY: as above; the kernel writes no more than `length` says there is room for.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    ensure!(done == 0, "socket option {option}: {}", std::io::Error::last_os_error());
    Ok(value)
}

//! Socket options that no library has.

use std::os::fd::AsRawFd;

use anyhow::ensure;

/// Sets one that is an int; `level` and `option` as the kernel's headers have them.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set(socket: &impl AsRawFd, level: i32, option: i32, value: i32) -> anyhow::Result<()> {
    let length = u32::try_from(size_of_val(&value))?;
    // SAFETY: an open socket, and a value that lives until the call returns, of the length given.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    ensure!(done == 0, "socket option {level}:{option}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Reads one that is an unsigned int.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn get(socket: &impl AsRawFd, level: i32, option: i32) -> anyhow::Result<u32> {
    let mut value = 0_u32;
    let mut length = u32::try_from(size_of_val(&value))?;
    // SAFETY: as above; the kernel writes no more than `length` says there is room for.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length)
    };
    ensure!(done == 0, "socket option {level}:{option}: {}", std::io::Error::last_os_error());
    Ok(value)
}

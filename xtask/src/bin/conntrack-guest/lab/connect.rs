//! Sockets of one end, from an address if one is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

const PATIENCE: Duration = Duration::from_secs(10);

/// A UDP socket that sends from this address, or from any.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn udp_from(from: Option<IpAddr>, to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = SocketAddr::new(from.unwrap_or(any), 0);
    UdpSocket::bind(from).with_context(|| format!("cannot bind to {from}"))
}

/// An established connection from this address, or from any.
///
/// # Errors
/// When it cannot be made within a few seconds.
pub(crate) fn tcp_from(from: Option<IpAddr>, to: SocketAddr) -> anyhow::Result<TcpStream> {
    Ok(tcp_within(from, to, PATIENCE)?)
}

/// As [`tcp_from`], within this time.
///
/// # Errors
/// What the kernel says.
pub(crate) fn tcp_within(from: Option<IpAddr>, to: SocketAddr, time: Duration) -> std::io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect_timeout(&to, time) };
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    // While it sends, a socket's time to connect is its time to send.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(time))?;
    rustix::net::connect(&socket, &to)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    Ok(socket.into())
}

/// What became of datagrams.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    /// The kernel took them.
    pub(crate) taken: u64,
    /// EPERM: the table of the sender's own namespace was full.
    pub(crate) refused: u64,
}

impl Sends {
    /// Notes one.
    ///
    /// # Errors
    /// Any other than EPERM, and than what an earlier packet's ICMP answer told.
    pub(crate) fn note(&mut self, sent: std::io::Result<usize>) -> anyhow::Result<()> {
        match sent {
            Ok(_) => self.taken += 1,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.refused += 1,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The address so many further.
pub(crate) fn plus(address: IpAddr, further: u64) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + further as u32).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + u128::from(further)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_on() {
        assert_eq!(plus([198, 18, 0, 255].into(), 1), IpAddr::from([198, 18, 1, 0]));
        let v6: IpAddr = "fd00::ffff".parse().unwrap();
        assert_eq!(plus(v6, 1).to_string(), "fd00::1:0");
    }

    #[test]
    fn only_eperm_is_a_refusal() {
        let mut sends = Sends::default();
        sends.note(Ok(1)).unwrap();
        sends.note(Err(std::io::Error::from_raw_os_error(libc::EPERM))).unwrap();
        assert!(sends.note(Err(std::io::Error::from_raw_os_error(libc::EINVAL))).is_err());
        assert_eq!((sends.taken, sends.refused), (1, 1));
    }
}

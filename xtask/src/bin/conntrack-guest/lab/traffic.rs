//! Connections between client and server.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;

use super::router::{CLIENT4, CLIENT6, Lab};

const PATIENCE: Duration = Duration::from_secs(10);

/// The client's address of the server address's family.
pub(crate) fn client_for(server: IpAddr) -> IpAddr {
    if server.is_ipv4() { CLIENT4.into() } else { CLIENT6.into() }
}

/// One established connection, by both of its ends.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The end in the client's namespace.
    pub(crate) client: TcpStream,
    /// The end in the server's.
    pub(crate) _server: TcpStream,
}

/// Opens TCP connections and holds them.
///
/// # Errors
/// When one cannot be established.
pub(crate) fn hold_tcp(
    lab: &Lab,
    server: IpAddr,
    port: u16,
    count: usize,
) -> anyhow::Result<Vec<Connection>> {
    let at = SocketAddr::new(server, port);
    let listener = lab.server.run(|| Ok(TcpListener::bind(at)?))?;
    lab.client.run(|| {
        let open = |number| {
            let client = TcpStream::connect_timeout(&at, PATIENCE)
                .with_context(|| format!("connection {number} to {at}"))?;
            let (_server, _) = listener.accept()?;
            Ok(Connection { client, _server })
        };
        (0..count).map(open).collect()
    })
}

/// Sends one datagram from each of `count` new sockets to a port of the server; the sends the client's kernel
/// took. Each has a source port of its own, from `first_port` on.
///
/// # Errors
/// When a socket cannot be made.
pub(crate) fn udp_flows(
    lab: &Lab,
    server: IpAddr,
    port: u16,
    first_port: u16,
    count: u16,
) -> anyhow::Result<u64> {
    lab.client.run(|| {
        let mut taken = 0;
        for number in 0..count {
            let from = SocketAddr::new(client_for(server), first_port + number);
            let socket = UdpSocket::bind(from).with_context(|| format!("cannot bind to {from}"))?;
            taken += u64::from(socket.send_to(b"x", (server, port)).is_ok());
        }
        Ok(taken)
    })
}

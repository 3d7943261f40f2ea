//! Short TCP connections over the loopback, one after the other, and the removal of their entries.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::Context as _;

use crate::lab::command::output;

const REQUEST: [u8; 100] = [b'q'; 100];
const ANSWER: [u8; 200] = [b'a'; 200];

/// Answers on every loopback address.
pub(crate) struct Server {
    port: u16,
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A connection that fails here fails at the client, who reports it.
                let _: std::io::Result<()> = stream.and_then(answer);
            }
        });
        Ok(Self { port })
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; REQUEST.len()])?;
    stream.write_all(&ANSWER)?;
    // The client closes first, so that this end keeps no state.
    stream.read(&mut [0; 1]).map(drop)
}

/// What a run did.
pub(crate) struct Run {
    /// Connections that were made and answered.
    pub(crate) made: u64,
    /// How long it took, in nanoseconds of the guest's clock.
    pub(crate) ns: u64,
}

/// Makes the connections, to an address of this run so that no port is short, then destroys their entries.
pub(crate) fn run(server: &Server, connections: u64, number: u64) -> anyhow::Result<Run> {
    let [.., high, low] = number.to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), server.port));
    let started = Instant::now();
    let mut made = 0;
    for _ in 0..connections {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.write_all(&REQUEST)?;
        stream.read_exact(&mut [0; ANSWER.len()])?;
        made += 1;
    }
    output("conntrack", &["-F"])?;
    Ok(Run { made, ns: u64::try_from(started.elapsed().as_nanos())? })
}

//! A hundred backends outside of the node, behind one Service address.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use super::haproxy::SERVICE;
use crate::lab::nft;
use crate::lab::node::Node;

const PORT: u16 = 8_000;
const BACKENDS: u8 = 100;
/// The first of them.
const FIRST: u8 = 100;

/// Listens as each of them, and makes the Service's address lead to all in turn.
///
/// # Errors
/// When there can be no listener, or nft refuses.
pub(super) fn start(node: &Node) -> anyhow::Result<()> {
    let listener = node.outside.netns.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // A request that fails here fails at the proxy, which counts it.
                let _: std::io::Result<()> = answer(stream);
            });
        }
    });
    let backends: Vec<String> = (0..BACKENDS).map(|n| format!("{n} : 203.0.113.{}", FIRST + n)).collect();
    let SocketAddr::V4(service) = SERVICE else { anyhow::bail!("no IPv4 address: {SERVICE}") };
    let rules = format!(
        "table ip service {{ chain pre {{ type nat hook prerouting priority -100; \
         ip daddr {} tcp dport {} dnat to numgen inc mod {BACKENDS} map {{ {} }} : {PORT}; }}; }}",
        service.ip(),
        service.port(),
        backends.join(", ")
    );
    nft::load(&node.host, &rules)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

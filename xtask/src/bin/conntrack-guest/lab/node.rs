//! A Kubernetes node: the guest's own namespace with pods behind a bridge and pods routed one by one, a Service
//! address, a node port, and a network outside.
//!
//! ```text
//! bridged pods 10.244.0.0/16, fd00:244::/64 ── cni0 ─┐
//! routed pods 10.245.x.y/32, fd00:245::z/128 ────────┤ node 192.0.2.1, 2001:db8::1 ── eth0 ── outside
//! ```
//!
//! The outside has no address of its own, which the daemon would find on this machine: it takes and sends as any of
//! 203.0.113.0/24 and 2001:db8:ff::/64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context as _;

use super::kernel;
use super::netns::Netns;
use super::nft;
use super::process::Process;
use super::router::{UNTRACKED_SCRAPES, batch};

/// An address of nobody on this machine, of each family.
pub(crate) const STRANGERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9)),
];
/// The first address of a network that swallows what is sent to it, of each family.
pub(crate) const VOIDS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1))];
/// The node's addresses.
pub(crate) const NODES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// The addresses of the Service.
pub(crate) const SERVICES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10))];
/// Where pods and the outside listen, and the Service.
pub(crate) const PORT: u16 = 80;
/// The node port of the Service.
pub(crate) const NODE_PORT: u16 = 30_080;

const WIRES: &str = "\
link add cni0 address 02:00:00:00:00:01 type bridge mcast_snooping 0 forward_delay 0
address add 10.244.0.1/16 dev cni0
address add fd00:244::1/64 dev cni0 nodad
link set cni0 up
address add 192.0.2.1/24 dev eth0
address add 2001:db8::1/64 dev eth0 nodad
link set eth0 up
neighbour replace 192.0.2.2 lladdr 02:00:00:00:02:02 nud permanent dev eth0
neighbour replace 2001:db8::2 lladdr 02:00:00:00:02:02 nud permanent dev eth0
route add default via 192.0.2.2
route add default via 2001:db8::2
";
const OUTSIDE: &str = "\
link set lo up
link set wire addrgenmode none
link set wire up
neighbour replace 192.0.2.1 lladdr 02:00:00:00:02:01 nud permanent dev wire
neighbour replace 2001:db8::1 lladdr 02:00:00:00:02:01 nud permanent dev wire
route add local 203.0.113.0/24 dev lo
route add local 2001:db8:ff::/64 dev lo
route add default via 192.0.2.1 dev wire onlink
route add default via 2001:db8::1 dev wire onlink
";

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    /// The guest's own namespace.
    pub(crate) host: Netns,
    /// What is not on the node; it listens on [`PORT`].
    pub(crate) outside: Process,
}

impl Node {
    /// Builds it, without pods. Scrapes are kept out of its table; entries of UDP live ten minutes.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(crate) fn build() -> anyhow::Result<Self> {
        kernel::load()?;
        super::command::output("modprobe", &["br_netfilter"])?;
        let host = Netns::host()?;
        let mut outside = Process::in_its_netns("")?;
        let link = format!(
            "link add eth0 address 02:00:00:00:02:01 type veth peer name wire address 02:00:00:00:02:02 netns {}\n",
            outside.pid()
        );
        batch(&host, &format!("{link}{WIRES}"))?;
        batch(&outside.netns, OUTSIDE)?;
        outside.netns.run(|| {
            for family in ["ipv4", "ipv6"] {
                std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1")?;
            }
            Ok(())
        })?;
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").context(name)?;
        }
        nft::load(&host, UNTRACKED_SCRAPES)?;
        nft::load(&host, &masquerade())?;
        kernel::set(&host, "udp_timeout", 600)?;
        outside.listen(PORT)?;
        Ok(Self { host, outside })
    }

    /// Makes the Service's address and node port lead to these addresses, v4 and v6.
    ///
    /// # Errors
    /// When nft refuses.
    pub(crate) fn serve(&self, backends: [IpAddr; 2]) -> anyhow::Result<()> {
        for ((service, backend), ip) in SERVICES.into_iter().zip(backends).zip(["ip", "ip6"]) {
            let to = SocketAddr::new(backend, PORT);
            // A node port from outside is masqueraded too, as kube-proxy does: the answer must come by here.
            let rules = format!(
                "table {ip} kube {{ \
                   chain svc {{ \
                     {ip} daddr {service} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to {to}; \
                     fib daddr type local meta l4proto {{ tcp, udp }} th dport {NODE_PORT} meta mark set 0x4000 dnat to {to}; }}; \
                   chain pre {{ type nat hook prerouting priority -100; jump svc; }}; \
                   chain out {{ type nat hook output priority -100; jump svc; }}; \
                 }}"
            );
            nft::load(&self.host, &rules)?;
        }
        Ok(())
    }
}

/// What leaves the node does so by the node's address, and what came by a node port too.
fn masquerade() -> String {
    let table = |ip: &str, pods: &str| {
        format!(
            "table {ip} leaving {{ chain post {{ type nat hook postrouting priority 100; \
             oifname \"eth0\" {ip} saddr {pods} masquerade; meta mark 0x4000 masquerade; }}; }}\n"
        )
    };
    table("ip", "10.244.0.0/15") + &table("ip6", "{ fd00:244::/64, fd00:245::/64 }")
}

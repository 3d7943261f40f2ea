//! A router beside the node's own table: pods on one side, a network on the other, its table its own.
//!
//! ```text
//! pods 10.NET.N.2, fd00:NET:N::2 ── podN ── router 192.0.NET.1, 2001:db8:NET::1 ── far ── beyond
//! ```
//!
//! Beyond takes and sends as any of 100.NET.0.0/24 and 2001:db8:NET:ff::/64 and has no address; it swallows the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::case::{Maker, Table, UNTRANSLATED};
use super::wire::device;
use crate::lab::netns::Netns;
use crate::lab::nft;
use crate::lab::process::Process;
use crate::lab::router::batch;
use crate::lab::workload::{self, Logs, Wiring};

/// The router, its pods, and what is beyond.
#[derive(Debug)]
pub(super) struct Site {
    /// Where the table is.
    pub(super) router: Netns,
    /// Beyond it.
    pub(super) beyond: Netns,
    /// Its pods.
    pub(super) pods: Vec<SitePod>,
    net: u8,
}

/// A pod at such a router.
#[derive(Debug)]
pub(super) struct SitePod {
    pub(super) process: Process,
    pub(super) maker: Maker,
    _logs: Logs,
}

impl Site {
    /// Builds it; `net` is its number.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(super) fn build(net: u8, table: Table, names: &[&str]) -> anyhow::Result<Self> {
        let (router, beyond) =
            (Netns::create(&format!("router{net}"))?, Netns::create(&format!("beyond{net}"))?);
        let link = format!(
            "link add far address 02:00:00:{net:02x}:02:01 type veth peer name wire address 02:00:00:{net:02x}:02:02 netns beyond{net}\n"
        );
        let [v4, v6] = [format!("192.0.{net}"), format!("2001:db8:{net}:")];
        batch(
            &router,
            &format!(
                "{link}address add {v4}.1/24 dev far\naddress add {v6}:1/64 dev far nodad\nlink set far up\n\
                 neighbour replace {v4}.2 lladdr 02:00:00:{net:02x}:02:02 nud permanent dev far\n\
                 neighbour replace {v6}:2 lladdr 02:00:00:{net:02x}:02:02 nud permanent dev far\n\
                 route add default via {v4}.2\nroute add default via {v6}:2\n"
            ),
        )?;
        batch(
            &beyond,
            &format!(
                "link set wire addrgenmode none\nlink set wire up\n\
                 neighbour replace {v4}.1 lladdr 02:00:00:{net:02x}:02:01 nud permanent dev wire\n\
                 neighbour replace {v6}:1 lladdr 02:00:00:{net:02x}:02:01 nud permanent dev wire\n\
                 route add local 100.{net}.0.0/24 dev lo\nroute add local 2001:db8:{net}:ff::/64 dev lo\n\
                 route add default via {v4}.1 dev wire onlink\nroute add default via {v6}:1 dev wire onlink\n"
            ),
        )?;
        beyond.run(|| {
            for family in ["ipv4", "ipv6"] {
                std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1")?;
            }
            Ok(())
        })?;
        router.run(|| {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1")?;
            }
            Ok(())
        })?;
        let mut site = Self { router, beyond, pods: Vec::new(), net };
        nft::load(&site.router, &site.translation())?;
        for (n, name) in names.iter().enumerate() {
            let pod = site.pod(n as u8, table, name)?;
            site.pods.push(pod);
        }
        Ok(site)
    }

    /// Addresses beyond.
    pub(super) fn servers(&self) -> [IpAddr; 2] {
        let net = self.net;
        [
            Ipv4Addr::new(100, net, 0, 9).into(),
            Ipv6Addr::new(0x2001, 0xdb8, hex(net), 0xff, 0, 0, 0, 9).into(),
        ]
    }

    /// Addresses of a Service, whose backends are [`Site::servers`].
    pub(super) fn services(&self) -> [IpAddr; 2] {
        let net = self.net;
        [Ipv4Addr::new(10, 96, net, 10).into(), Ipv6Addr::new(0xfd00, 0x96, hex(net), 0, 0, 0, 0, 10).into()]
    }

    /// Numbers of the devices that lead to pods, and of the one that leads beyond.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(super) fn devices(&self) -> anyhow::Result<(Vec<i32>, i32)> {
        let near = (0..self.pods.len()).map(|n| device(&self.router, &format!("pod{n}")));
        Ok((near.collect::<anyhow::Result<_>>()?, device(&self.router, "far")?))
    }

    /// The Service is translated to its backend, all else that leaves to the router's address.
    fn translation(&self) -> String {
        let table = |ip: &str, service: IpAddr, server: IpAddr| {
            format!(
                "table {ip} nat {{ \
                 chain pre {{ type nat hook prerouting priority -100; {ip} daddr {service} dnat to {server}; }}; \
                 chain post {{ type nat hook postrouting priority 100; ct status dnat accept; tcp dport {UNTRANSLATED} accept; oifname \"far\" masquerade; }}; }}\n"
            )
        };
        let ([service4, service6], [server4, server6]) = (self.services(), self.servers());
        table("ip", service4, server4) + &table("ip6", service6, server6)
    }

    fn pod(&self, n: u8, table: Table, name: &str) -> anyhow::Result<SitePod> {
        let net = self.net;
        let number = u16::from(net) * 100 + u16::from(n);
        let process = Process::in_its_netns(&workload::cgroup(Wiring::Routed, number))?;
        let logs = workload::logs(number, name)?;
        let [v4, v6] = [format!("10.{net}.{n}"), format!("fd00:{net}:{n}:")];
        let mac = |side: u8| format!("02:00:00:{net:02x}:{:02x}:{side:02x}", 0x10 + n);
        let (outer, inner) = (mac(1), mac(2));
        batch(
            &self.router,
            &format!(
                "link add pod{n} address {outer} type veth peer name eth0 address {inner} netns {}\n\
                 address add {v4}.1/24 dev pod{n}\naddress add {v6}:1/64 dev pod{n} nodad\nlink set pod{n} up\n\
                 neighbour replace {v4}.2 lladdr {inner} nud permanent dev pod{n}\n\
                 neighbour replace {v6}:2 lladdr {inner} nud permanent dev pod{n}\n",
                process.pid()
            ),
        )?;
        batch(
            &process.netns,
            &format!(
                "link set lo up\naddress add {v4}.2/24 dev eth0\naddress add {v6}:2/64 dev eth0 nodad\nlink set eth0 up\n\
                 neighbour replace {v4}.1 lladdr {outer} nud permanent dev eth0\n\
                 neighbour replace {v6}:1 lladdr {outer} nud permanent dev eth0\n\
                 route add default via {v4}.1\nroute add default via {v6}:1\n"
            ),
        )?;
        let addresses = [format!("{v4}.2").parse()?, format!("{v6}:2").parse()?];
        Ok(SitePod { process, maker: Maker { pod: name.to_owned(), table, addresses }, _logs: logs })
    }
}

/// The number whose hexadecimal digits are this one's decimal ones, as in the texts of addresses above.
const fn hex(net: u8) -> u16 {
    (net / 10) as u16 * 16 + (net % 10) as u16
}

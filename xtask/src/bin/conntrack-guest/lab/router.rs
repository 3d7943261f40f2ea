//! Client, NAT router and server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;

use super::command::feed;
use super::netns::Netns;
use super::nft;

/// The client's addresses.
pub(crate) const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
/// The client's IPv6 address.
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);
/// The addresses of another host on the client's network, which is the client too.
pub(crate) const NEIGHBOURS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 1, 3)), IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3))];
/// The server's addresses.
pub(crate) const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The server's IPv6 address.
pub(crate) const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);
/// Both addresses of the server.
pub(crate) const SERVERS: [IpAddr; 2] = [IpAddr::V4(SERVER4), IpAddr::V6(SERVER6)];

/// The scrapes are kept out of the table, or a full one would refuse them too and they would be counted.
pub(crate) const UNTRACKED_SCRAPES: &str = "table inet scrapes { \
    chain out { type filter hook output priority -300; tcp dport 9466 notrack; tcp sport 9466 notrack; }; \
    chain in { type filter hook prerouting priority -300; tcp dport 9466 notrack; tcp sport 9466 notrack; }; }";

/// All that leaves for the server is masqueraded.
const MASQUERADE: &str = "table inet nat { chain out { type nat hook postrouting priority 100; \
    oifname \"server\" masquerade; }; }";

const NEIGHBOUR: &str =
    "address add 10.0.1.3/24 dev uplink\naddress add fd00:1::3/64 dev uplink nodad preferred_lft 0\n";

/// Where the router's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// In a namespace of its own: nothing but the test's packets ever enters it.
    OwnNetns,
    /// In the guest's own namespace, as on a node; the daemon's scrapes are kept out by rule.
    Guest,
}

/// The three namespaces, wired up.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where connections start. It has no conntrack hooks.
    pub(crate) client: Netns,
    /// Where the table is. Its devices are named `client` and `server` for where they lead.
    pub(crate) router: Netns,
    /// Where connections go. It has no conntrack hooks.
    pub(crate) server: Netns,
}

impl Lab {
    /// Builds it: routes both ways, forwarding on, neighbours fixed (no packet is lost to resolution),
    /// masquerade towards the server.
    ///
    /// # Errors
    /// When a command fails.
    pub(crate) fn build(placement: Placement) -> anyhow::Result<Self> {
        super::kernel::load()?;
        let client = Netns::create("client")?;
        let server = Netns::create("server")?;
        let router = match placement {
            Placement::OwnNetns => Netns::create("router")?,
            Placement::Guest => Netns::host()?,
        };
        // Made in the router's namespace, so that its ends need no moving.
        let wires = "link add client address 02:00:00:00:01:01 type veth \
             peer name uplink address 02:00:00:00:01:02 netns client\n\
             link add server address 02:00:00:00:02:01 type veth \
             peer name uplink address 02:00:00:00:02:02 netns server\n";
        batch(&router, &format!("{wires}{}{}", side("client", 1, 1), side("server", 2, 1)))?;
        batch(&client, &format!("{}{}{NEIGHBOUR}", side("uplink", 1, 2), gateway(1)))?;
        batch(&server, &format!("{}{}", side("uplink", 2, 2), gateway(2)))?;
        router.run(|| {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{name}"), "1").context(name)?;
            }
            Ok(())
        })?;
        nft::load(&Netns::host()?, UNTRACKED_SCRAPES)?;
        nft::load(&router, MASQUERADE)?;
        Ok(Self { client, router, server })
    }
}

/// Commands of `ip`, in a namespace.
///
/// # Errors
/// When one fails.
pub(crate) fn batch(netns: &Netns, commands: &str) -> anyhow::Result<()> {
    netns.run(|| feed("ip", &["-batch", "-"], commands)).map(drop)
}

/// One end of the wire on network `net`: its addresses, and where its peer is.
fn side(device: &str, net: u8, own: u8) -> String {
    let peer = 3 - own;
    format!(
        "address add 10.0.{net}.{own}/24 dev {device}\n\
         address add fd00:{net}::{own}/64 dev {device} nodad\n\
         link set {device} up\n\
         neighbour replace 10.0.{net}.{peer} lladdr 02:00:00:00:0{net}:0{peer} nud permanent dev {device}\n\
         neighbour replace fd00:{net}::{peer} lladdr 02:00:00:00:0{net}:0{peer} nud permanent dev {device}\n"
    )
}

fn gateway(net: u8) -> String {
    format!("route add default via 10.0.{net}.1\nroute add default via fd00:{net}::1\n")
}

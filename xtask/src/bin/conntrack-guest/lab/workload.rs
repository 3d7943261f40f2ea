//! Pods of the node lab, as a kubelet and a network plugin leave them: cgroup, namespace, veth, log directory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::netns::Netns;
use super::node::{Node, PORT};
use super::process::Process;
use super::router::batch;

/// How a pod is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// Behind the bridge.
    Bridged,
    /// By a route of its own to its veth.
    Routed,
}

/// A pod with a network namespace of its own. It listens on [`PORT`]. Gone when dropped, log directory and all.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its process.
    pub(crate) process: Process,
    /// Its addresses, v4 and v6.
    pub(crate) addresses: [IpAddr; 2],
    /// Its log directory, which tells its name.
    _logs: Logs,
}

/// A pod's log directory, gone when dropped.
#[derive(Debug)]
pub(crate) struct Logs(PathBuf);

impl Drop for Logs {
    fn drop(&mut self) {
        let _: std::io::Result<()> = std::fs::remove_dir(&self.0);
    }
}

/// The namespace of all pods in the lab.
pub(crate) const NAMESPACE: &str = "shop";

impl Workload {
    /// Pod number `number`, in namespace `shop`, with the addresses of that number.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(crate) fn start(node: &Node, wiring: Wiring, number: u16, name: &str) -> anyhow::Result<Self> {
        Self::start_at(node, wiring, number, number, name)
    }

    /// The same, with the addresses of another number.
    ///
    /// # Errors
    /// As [`Workload::start`].
    pub(crate) fn start_at(
        node: &Node,
        wiring: Wiring,
        number: u16,
        address: u16,
        name: &str,
    ) -> anyhow::Result<Self> {
        let mut process = Process::in_its_netns(&cgroup(wiring, number))?;
        let logs = logs(number, name)?;
        let wires = Wires { wiring, number, address, pid: process.pid() };
        let addresses = wires.lay(node, &process.netns)?;
        process.listen(PORT)?;
        Ok(Self { process, addresses, _logs: logs })
    }
}

/// A pod in the node's network namespace.
#[derive(Debug)]
pub(crate) struct HostNetworkPod {
    /// Its process.
    pub(crate) process: Process,
    _logs: Logs,
}

impl HostNetworkPod {
    /// Pod number `number`.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub(crate) fn start(number: u16, name: &str) -> anyhow::Result<Self> {
        let process = Process::on_the_node(&cgroup(Wiring::Bridged, number))?;
        Ok(Self { process, _logs: logs(number, name)? })
    }
}

fn uid(number: u16) -> String {
    format!("0a1b2c3d-1111-4222-8333-{number:012x}")
}

/// Wires the namespace of a process as pod number `number` is; its addresses, v4 and v6.
///
/// # Errors
/// When `ip` refuses.
pub(crate) fn wire(
    node: &Node,
    wiring: Wiring,
    number: u16,
    pid: u32,
    netns: &Netns,
) -> anyhow::Result<[IpAddr; 2]> {
    Wires { wiring, number, address: number, pid }.lay(node, netns)
}

/// A container's cgroup: by the cgroupfs driver for bridged pods, by systemd's for routed ones.
pub(crate) fn cgroup(wiring: Wiring, number: u16) -> String {
    let (uid, container) = (uid(number), format!("{number:064x}"));
    match wiring {
        Wiring::Bridged => format!("/kubepods/burstable/pod{uid}/{container}"),
        Wiring::Routed => {
            let uid = uid.replace('-', "_");
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid}.slice/\
                 cri-containerd-{container}.scope"
            )
        }
    }
}

/// The log directory of pod number `number`.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn logs(number: u16, name: &str) -> anyhow::Result<Logs> {
    let path = PathBuf::from(format!("/var/log/pods/{NAMESPACE}_{name}_{}", uid(number)));
    std::fs::create_dir_all(&path)?;
    Ok(Logs(path))
}

struct Wires {
    wiring: Wiring,
    number: u16,
    address: u16,
    pid: u32,
}

impl Wires {
    fn lay(&self, node: &Node, netns: &Netns) -> anyhow::Result<[IpAddr; 2]> {
        batch(&node.host, &self.outer())?;
        batch(netns, &self.inner())?;
        Ok(self.addresses())
    }

    fn addresses(&self) -> [IpAddr; 2] {
        let [high, low] = self.address.to_be_bytes();
        let (net4, net6) = match self.wiring {
            Wiring::Bridged => (244, 0x244),
            Wiring::Routed => (245, 0x245),
        };
        [
            Ipv4Addr::new(10, net4, high, low).into(),
            Ipv6Addr::new(0xfd00, net6, 0, 0, 0, 0, 0, self.address).into(),
        ]
    }

    /// The device on the node's side.
    fn device(&self) -> String {
        match self.wiring {
            Wiring::Bridged => format!("veth{}", self.number),
            Wiring::Routed => format!("cali{}", self.number),
        }
    }

    fn mac(&self, side: u8) -> String {
        let [high, low] = self.number.to_be_bytes();
        format!(
            "02:00:00:{:02x}:{high:02x}:{low:02x}",
            side + if self.wiring == Wiring::Bridged { 16 } else { 32 }
        )
    }

    fn outer(&self) -> String {
        let (device, outer, inner, pid) = (self.device(), self.mac(1), self.mac(2), self.pid);
        let [v4, v6] = self.addresses();
        let link = format!(
            "link add {device} address {outer} type veth peer name eth0 address {inner} netns {pid}\n"
        );
        let joined = match self.wiring {
            Wiring::Bridged => format!("link set {device} master cni0\nlink set {device} up\n"),
            Wiring::Routed => {
                format!(
                    "link set {device} up\nroute replace {v4}/32 dev {device}\nroute replace {v6}/128 dev {device}\n"
                )
            }
        };
        let wire = if self.wiring == Wiring::Bridged { "cni0" } else { &device };
        let neighbours = format!(
            "neighbour replace {v4} lladdr {inner} nud permanent dev {wire}\n\
             neighbour replace {v6} lladdr {inner} nud permanent dev {wire}\n"
        );
        format!("{link}{joined}{neighbours}")
    }

    fn inner(&self) -> String {
        let [v4, v6] = self.addresses();
        let (bits4, bits6, gate4, gate6, mac) = match self.wiring {
            Wiring::Bridged => (16, 64, "10.244.0.1", "fd00:244::1", "02:00:00:00:00:01".to_owned()),
            Wiring::Routed => (32, 128, "169.254.1.1", "fe80::1", self.mac(1)),
        };
        format!(
            "link set lo up\n\
             address add {v4}/{bits4} dev eth0\n\
             address add {v6}/{bits6} dev eth0 nodad\n\
             link set eth0 up\n\
             neighbour replace {gate4} lladdr {mac} nud permanent dev eth0\n\
             neighbour replace {gate6} lladdr {mac} nud permanent dev eth0\n\
             route add default via {gate4} dev eth0 onlink\n\
             route add default via {gate6} dev eth0 onlink\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_paths_and_addresses_of_their_own() {
        assert_eq!(
            cgroup(Wiring::Bridged, 10),
            format!("/kubepods/burstable/pod0a1b2c3d-1111-4222-8333-00000000000a/{:064x}", 10)
        );
        assert!(cgroup(Wiring::Routed, 10).contains("-pod0a1b2c3d_1111_4222_8333_00000000000a.slice/"));
        let wires = Wires { wiring: Wiring::Routed, number: 300, address: 301, pid: 7 };
        assert_eq!(wires.addresses().map(|a| a.to_string()), ["10.245.1.45", "fd00:245::12d"]);
        assert_ne!(wires.mac(1), wires.mac(2));
        assert!(wires.outer().contains("netns 7\n"));
    }
}

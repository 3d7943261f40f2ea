//! Gaps by other trackers of connections beside the kernel's table.

use super::Gap;
use crate::drain::surroundings::{Ipvs, Surroundings};

/// What is known of kube-proxy's rules in the host's namespace.
fn kube_proxy(around: &Surroundings) -> Option<bool> {
    let ipvs = around.links.iter().flatten().any(|l| l.name == "kube-ipvs0");
    let rules = around.rulesets.iter().filter(|n| n.host).find_map(|n| n.rules.as_ref().ok());
    match (ipvs, rules) {
        (true, _) => Some(true),
        (false, Some(rules)) if rules.kube_proxy => Some(true),
        // iptables-legacy's chains are not read.
        _ if around.legacy_raw != Some(false) => None,
        (false, Some(_)) => Some(false),
        (false, None) => None,
    }
}

pub(super) fn cilium(around: &Surroundings) -> Gap {
    const KIND: &str = "cilium";
    const DO: &str =
        "watch Cilium's own map: `cilium-dbg bpf ct list global`, and its metric cilium_bpf_map_pressure";
    let map = around.pinned.iter().find(|name| name.starts_with("cilium_ct"));
    let mut links = around.links.iter().flatten();
    let link = links.find(|l| l.name == "cilium_host" || l.name == "cilium_net");
    let seen = match (map, link) {
        (Some(map), _) => format!("its map {map} is pinned"),
        (None, Some(link)) => format!("there is a device {}", link.name),
        (None, None) if around.links.is_none() => {
            return Gap::unknown(
                KIND,
                "the host's devices could not be read",
                "run as root with CAP_SYS_ADMIN",
            );
        }
        (None, None) => return Gap::absent(KIND),
    };
    let (beside, means) = match kube_proxy(around) {
        Some(true) => (
            " beside kube-proxy",
            "connections that its BPF programs forward are tracked in its own map and not here; Services go \
             through the kernel's table",
        ),
        Some(false) => (
            " without kube-proxy",
            "its own BPF map tracks the connections of pods; the figures here are of the kernel's table, which \
             sees the host's own at most",
        ),
        None => (
            "",
            "connections that its BPF programs forward are tracked in its own map and not here; whether \
             kube-proxy runs beside it cannot be told",
        ),
    };
    Gap::present(KIND, format!("Cilium{beside} ({seen}): {means}"), DO)
}

pub(super) fn calico(around: &Surroundings) -> Gap {
    const KIND: &str = "calico_bpf";
    match around.pinned.iter().find(|name| name.starts_with("cali_v4_ct") || name.starts_with("cali_v6_ct")) {
        Some(map) => Gap::present(
            KIND,
            format!(
                "Calico's BPF dataplane (its map {map} is pinned): it tracks the connections of pods in its own \
                 map; the figures here are of the kernel's table"
            ),
            "watch Calico's own map: `calico-node -bpf conntrack dump`",
        ),
        None => Gap::absent(KIND),
    }
}

pub(super) fn ipvs(around: &Surroundings) -> Gap {
    const KIND: &str = "ipvs";
    const DO: &str = "`ipvsadm -Lnc` lists IPVS's own table, which has no limit but memory";
    let Some(Ipvs { services, conntrack }) = around.ipvs.filter(|ipvs| ipvs.services > 0) else {
        return Gap::absent(KIND);
    };
    let services = if services == 1 { "1 service".to_owned() } else { format!("{services} services") };
    match conntrack {
        Some(true) => Gap::present(
            KIND,
            format!(
                "IPVS ({services}) keeps a table of its own beside conntrack's: only the latter is covered"
            ),
            DO,
        ),
        Some(false) => Gap::present(
            KIND,
            format!(
                "IPVS ({services}) with net.ipv4.vs.conntrack=0: its connections are in a table of its own and \
                 have no entry in conntrack's"
            ),
            DO,
        ),
        None => Gap::unknown(
            KIND,
            format!(
                "IPVS ({services}); net.ipv4.vs.conntrack, which tells whether its connections have entries in \
                     conntrack's table too, could not be read"
            ),
            DO,
        ),
    }
}

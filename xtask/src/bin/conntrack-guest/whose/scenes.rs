//! The kinds of connections there are on a node.

use std::net::IpAddr;

use super::*;

const LOOPBACKS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

/// All of them.
pub(super) fn all(cast: &Cast) -> Vec<Scene> {
    let a = cast.bridged.addresses;
    let b = cast.bridged_too.addresses;
    let r = cast.routed.addresses;
    let s = cast.routed_too.addresses;
    let m = cast.mesh.addresses;
    let (bridged, bridged_too) = (pod("host", "bridged"), pod("host", "bridged-too"));
    let (routed, routed_too) = (pod("host", "routed"), pod("host", "routed-too"));
    let mesh = pod("host", "mesh");
    let host_network = pod("host", "host-network");
    let unit = cgroup(SERVICE_UNIT);
    vec![
        scene("bridged pod to outside", |c| &mut c.bridged.process, STRANGERS)
            .owned(a, STRANGERS, &bridged, None),
        scene("routed pod to outside", |c| &mut c.routed.process, STRANGERS)
            .owned(r, STRANGERS, &routed, None),
        scene("bridged pod to bridged pod", |c| &mut c.bridged.process, b).owned(
            a,
            b,
            &bridged,
            Some(&bridged_too),
        ),
        scene("bridged pod to routed pod", |c| &mut c.bridged.process, r).owned(
            a,
            r,
            &bridged,
            Some(&routed),
        ),
        scene("routed pod to routed pod", |c| &mut c.routed.process, s).owned(
            r,
            s,
            &routed,
            Some(&routed_too),
        ),
        scene("routed pod to bridged pod", |c| &mut c.routed.process, b).owned(
            r,
            b,
            &routed,
            Some(&bridged_too),
        ),
        scene("bridged pod to a Service on its bridge", |c| &mut c.bridged.process, SERVICES).owned(
            a,
            b,
            &bridged,
            Some(&bridged_too),
        ),
        scene("routed pod to a Service", |c| &mut c.routed.process, SERVICES).owned(
            r,
            b,
            &routed,
            Some(&bridged_too),
        ),
        scene("routed pod to a node port", |c| &mut c.routed.process, NODES).port(NODE_PORT).owned(
            r,
            b,
            &routed,
            Some(&bridged_too),
        ),
        scene("outside to a node port", |c| &mut c.node.outside, NODES)
            .port(NODE_PORT)
            .from(STRANGERS)
            .owned(STRANGERS, b, &other("external"), Some(&bridged_too)),
        scene("outside to a pod", |c| &mut c.node.outside, r).from(STRANGERS).owned(
            STRANGERS,
            r,
            &other("external"),
            Some(&routed),
        ),
        scene("outside to a hostNetwork pod", |c| &mut c.node.outside, NODES)
            .port(8_080)
            .from(STRANGERS)
            .owned(STRANGERS, NODES, &other("external"), None),
        scene("hostNetwork pod to outside", |c| &mut c.host_network.process, STRANGERS).owned(
            NODES,
            STRANGERS,
            &host_network,
            None,
        ),
        scene("hostNetwork pod to a Service", |c| &mut c.host_network.process, SERVICES).owned(
            NODES,
            b,
            &host_network,
            Some(&bridged_too),
        ),
        scene("host service to outside", |c| &mut c.service, STRANGERS).owned(NODES, STRANGERS, &unit, None),
        scene("host service to a Service", |c| &mut c.service, SERVICES).owned(
            NODES,
            b,
            &unit,
            Some(&bridged_too),
        ),
        scene("host service to a hostNetwork pod by loopback", |c| &mut c.service, LOOPBACKS)
            .port(8_080)
            .owned(LOOPBACKS, LOOPBACKS, &unit, None),
        scene("the node itself to outside", |c| &mut c.itself, STRANGERS).owned(
            NODES,
            STRANGERS,
            &other("host"),
            None,
        ),
        scene("routed pod to a host service", |c| &mut c.routed.process, NODES)
            .port(8_081)
            .owned(r, NODES, &routed, None),
        scene("pod with rules of its own to outside", |c| &mut c.mesh.process, STRANGERS)
            .own_table()
            .owned(m, STRANGERS, &mesh, None),
        scene("pod with rules of its own to a Service", |c| &mut c.mesh.process, SERVICES).own_table().owned(
            m,
            b,
            &mesh,
            Some(&bridged_too),
        ),
        scene("outside to a pod with rules of its own", |c| &mut c.node.outside, m)
            .from(STRANGERS)
            .own_table()
            .owned(STRANGERS, m, &other("external"), Some(&mesh)),
        scene("pod to the proxy in it", |c| &mut c.mesh.process, STRANGERS).port(MESH_PORT).own_table(),
    ]
}

fn scene(what: &'static str, who: fn(&mut Cast) -> &mut Process, to: [IpAddr; 2]) -> Scene {
    Scene {
        what,
        who,
        source: [None; 2],
        to: to.map(|address| (address, PORT)),
        on_node: None,
        in_mesh: false,
    }
}

impl Scene {
    fn port(mut self, port: u16) -> Self {
        self.to = self.to.map(|(address, _)| (address, port));
        self
    }

    fn from(mut self, source: [IpAddr; 2]) -> Self {
        self.source = source.map(Some);
        self
    }

    fn own_table(mut self) -> Self {
        self.in_mesh = true;
        self
    }

    /// In the node's table: by whom, answered from where, and whose both are.
    fn owned(
        mut self,
        from: [IpAddr; 2],
        answering: [IpAddr; 2],
        owner: &Holder,
        responder: Option<&Holder>,
    ) -> Self {
        let ends = |n: usize| Ends { from: from[n], answering: answering[n] };
        self.on_node =
            Some(OnNode { ends: [ends(0), ends(1)], owner: owner.clone(), responder: responder.cloned() });
        self
    }
}

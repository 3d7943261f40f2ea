//! Where the kernel keeps what the probes read: found in its BTF by the daemon, set before load.

/// Byte offsets into kernel structures. [`Offsets::ABSENT`] where the running kernel has no such member.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `nf_conn.tuplehash[0].tuple`
    pub ct_orig: u32,
    /// `nf_conn.tuplehash[1].tuple`
    pub ct_reply: u32,
    /// `nf_conn.status`
    pub ct_status: u32,
    /// `nf_conn.timeout`
    pub ct_timeout: u32,
    /// `nf_conn.proto.tcp.state`
    pub ct_tcp_state: u32,
    /// `nf_conn.ct_net.net`
    pub ct_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    /// `sk_buff._nfct`
    pub skb_nfct: u32,
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff.dev`
    pub skb_dev: u32,
    /// `sk_buff.skb_iif`
    pub skb_iif: u32,
    /// `sk_buff.head`
    pub skb_head: u32,
    /// `sk_buff.network_header`
    pub skb_network_header: u32,
    /// `sk_buff.transport_header`
    pub skb_transport_header: u32,
    /// `net_device.ifindex`
    pub dev_ifindex: u32,
    /// `net_device.nd_net.net`
    pub dev_net: u32,
    /// `sock.__sk_common.skc_net.net`
    pub sk_net: u32,
    /// `sock.__sk_common.skc_family`
    pub sk_family: u32,
    /// `sock.__sk_common.skc_state`
    pub sk_state: u32,
    /// `sock.__sk_common.skc_daddr`
    pub sk_daddr: u32,
    /// `sock.__sk_common.skc_rcv_saddr`
    pub sk_rcv_saddr: u32,
    /// `sock.__sk_common.skc_dport` (network order)
    pub sk_dport: u32,
    /// `sock.__sk_common.skc_num` (host order)
    pub sk_num: u32,
    /// `sock.__sk_common.skc_v6_daddr`
    pub sk_v6_daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    pub sk_v6_rcv_saddr: u32,
    /// `sock.sk_protocol`
    pub sk_protocol: u32,
    /// `sock.sk_err`
    pub sk_err: u32,
    /// `sock.sk_shutdown`
    pub sk_shutdown: u32,
    /// `tcp_sock.total_retrans`
    pub tcp_total_retrans: u32,
    /// `inet_sock.inet_sport` (network order)
    pub sk_sport: u32,
    /// `sock.sk_cgrp_data`: a `struct cgroup *`, or a tagged u64 before 5.15
    pub sk_cgrp_data: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kernfs_id: u32,
    /// `task_struct.stack`
    pub task_stack: u32,
}

impl Offsets {
    /// The running kernel has no such member.
    pub const ABSENT: u32 = u32::MAX;
}

const _: () = assert!(size_of::<Offsets>() == 136);

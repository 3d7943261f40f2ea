//! The probes' offsets, from BTF.

use conntrack_common::Offsets;

use super::btf::KernelBtf;

/// Finds where the running kernel keeps what the probes read; [`Offsets::ABSENT`] for what it does not have.
#[must_use]
pub fn offsets(btf: &KernelBtf) -> Offsets {
    let at = |structure: &str, path: &str| btf.member_offset(structure, path).unwrap_or(Offsets::ABSENT);
    let ct_orig = at("nf_conn", "tuplehash.tuple");
    Offsets {
        ct_orig,
        ct_reply: match btf.array_stride("nf_conn", "tuplehash") {
            Some(stride) if ct_orig != Offsets::ABSENT => ct_orig + stride,
            _ => Offsets::ABSENT,
        },
        ct_status: at("nf_conn", "status"),
        ct_timeout: at("nf_conn", "timeout"),
        ct_tcp_state: at("nf_conn", "proto.tcp.state"),
        ct_net: at("nf_conn", "ct_net.net"),
        net_inum: at("net", "ns.inum"),
        skb_nfct: at("sk_buff", "_nfct"),
        skb_sk: at("sk_buff", "sk"),
        skb_dev: at("sk_buff", "dev"),
        skb_iif: at("sk_buff", "skb_iif"),
        skb_head: at("sk_buff", "head"),
        skb_network_header: at("sk_buff", "network_header"),
        skb_transport_header: at("sk_buff", "transport_header"),
        dev_ifindex: at("net_device", "ifindex"),
        dev_net: at("net_device", "nd_net.net"),
        sk_net: at("sock", "__sk_common.skc_net.net"),
        sk_family: at("sock", "__sk_common.skc_family"),
        sk_state: at("sock", "__sk_common.skc_state"),
        sk_daddr: at("sock", "__sk_common.skc_daddr"),
        sk_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr"),
        sk_dport: at("sock", "__sk_common.skc_dport"),
        sk_num: at("sock", "__sk_common.skc_num"),
        sk_v6_daddr: at("sock", "__sk_common.skc_v6_daddr"),
        sk_v6_rcv_saddr: at("sock", "__sk_common.skc_v6_rcv_saddr"),
        sk_protocol: at("sock", "sk_protocol"),
        sk_err: at("sock", "sk_err"),
        sk_shutdown: at("sock", "sk_shutdown"),
        tcp_total_retrans: at("tcp_sock", "total_retrans"),
        sk_sport: at("inet_sock", "inet_sport"),
        sk_cgrp_data: at("sock", "sk_cgrp_data"),
        cgroup_kn: at("cgroup", "kn"),
        kernfs_id: at("kernfs_node", "id"),
        task_stack: at("task_struct", "stack"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::btf_fixture::Fixture;
    use super::*;

    /// Facts that hold on every kernel from 5.10 to 7.3.
    #[test]
    fn of_the_running_kernel() {
        let begin = std::time::Instant::now();
        let btf = match KernelBtf::open(Path::new("/sys/kernel/btf")) {
            Ok(btf) => btf,
            Err(error) => return println!("skipped: {error}"),
        };
        println!("parsed BTF in {:?}", begin.elapsed());
        if btf.struct_size("nf_conn").is_none() {
            return println!("skipped: this kernel's BTF has no nf_conn");
        }
        let found = offsets(&btf);
        println!("{found:?}");
        assert_eq!((found.ct_orig, found.ct_reply), (32, 88));
        assert_eq!((found.skb_sk, found.skb_dev), (24, 16));
        assert_eq!((found.sk_daddr, found.sk_rcv_saddr, found.sk_dport, found.sk_num), (0, 4, 12, 14));
        assert_eq!((found.sk_family, found.sk_state), (16, 18));
        for (path, offset) in [
            ("src.u3", 0),
            ("src.u", 16),
            ("src.l3num", 18),
            ("dst.u3", 20),
            ("dst.u", 36),
            ("dst.protonum", 38),
            ("dst.dir", 39),
        ] {
            assert_eq!(btf.member_offset("nf_conntrack_tuple", path), Some(offset), "{path}");
        }
        assert_eq!(btf.struct_size("nf_conntrack_tuple"), Some(40));
        let state_change = btf.tracepoint_args("inet_sock_set_state").unwrap();
        let types: Vec<_> = state_change.iter().map(|argument| argument.c_type.as_str()).collect();
        assert_eq!(types, ["const struct sock *", "const int", "const int"]);
        let rcv = btf.function("tcp_v4_rcv").unwrap();
        assert_eq!((rcv.in_module, rcv.returns.as_str()), (None, "int"));
        assert_eq!((rcv.params[0].c_type.as_str(), rcv.params[0].name.as_str()), ("struct sk_buff *", "skb"));
    }

    #[test]
    fn a_kernel_without_conntrack_types() {
        let fixture = Fixture::write("offsets");
        let found = offsets(&KernelBtf::open(fixture.folder()).unwrap());
        assert_eq!((found.ct_orig, found.ct_reply), (Offsets::ABSENT, Offsets::ABSENT));
        assert_eq!((found.net_inum, found.task_stack), (Offsets::ABSENT, Offsets::ABSENT));
    }
}

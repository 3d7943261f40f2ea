//! One connection as `struct nf_conntrack_tuple` in memory, told by both ways: as the probes read it, and as
//! ctnetlink dumps it.

use super::super::nlattr::build::{nest, put};
use super::*;

/// What ctnetlink tells of a protocol beside its number: the protocol's `tuple_to_nlattr`.
#[derive(Clone, Copy)]
enum Told {
    /// `nf_ct_port_tuple_to_nlattr`: TCP, UDP, UDP-Lite, SCTP, DCCP, GRE.
    Ports,
    /// `icmp_tuple_to_nlattr`.
    Icmp,
    /// `icmpv6_tuple_to_nlattr`.
    Icmpv6,
    /// Generic protocols have no function for it.
    Nothing,
}

const V4: ([u8; 16], [u8; 16]) =
    ([10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [192, 0, 2, 250, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const V6: ([u8; 16], [u8; 16]) = (
    [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe],
);

/// The 40 bytes of the structure: `src.u3`, `src.u`, `src.l3num`, `dst.u3`, `dst.u`, `protonum`, `dir`.
fn memory(
    family: u8,
    (source, destination): ([u8; 16], [u8; 16]),
    protonum: u8,
    u: ([u8; 2], [u8; 2]),
) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&source);
    bytes[16..18].copy_from_slice(&u.0);
    bytes[18..20].copy_from_slice(&u16::from(family).to_ne_bytes());
    bytes[20..36].copy_from_slice(&destination);
    bytes[36..38].copy_from_slice(&u.1);
    bytes[38] = protonum;
    bytes
}

/// As `conntrack-ebpf/src/kernel.rs` reads it.
fn as_probes_read(memory: &[u8; 40]) -> Tuple {
    let half = |at: usize| u64::from_ne_bytes(memory[at..at + 8].try_into().unwrap());
    let be = |at: usize| u16::from_be(u16::from_ne_bytes([memory[at], memory[at + 1]]));
    Tuple {
        saddr: [half(0), half(8)],
        daddr: [half(20), half(28)],
        sport: be(16),
        dport: be(36),
        l3num: u16::from_ne_bytes([memory[18], memory[19]]) as u8,
        protonum: memory[38],
        pad: 0,
    }
}

/// As `ctnetlink_dump_tuples` writes it.
fn as_dumped(memory: &[u8; 40], told: Told) -> Vec<u8> {
    let mut out = Vec::new();
    for direction in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
        nest(&mut out, direction, |tuple| {
            nest(tuple, CTA_TUPLE_IP, |ip| {
                if memory[18] == AF_INET {
                    put(ip, CTA_IP_V4_SRC, &memory[..4]);
                    put(ip, CTA_IP_V4_DST, &memory[20..24]);
                } else {
                    put(ip, CTA_IP_V6_SRC, &memory[..16]);
                    put(ip, CTA_IP_V6_DST, &memory[20..36]);
                }
            });
            nest(tuple, CTA_TUPLE_PROTO, |proto| {
                put(proto, CTA_PROTO_NUM, &memory[38..39]);
                let (id, kind, code) = match told {
                    Told::Nothing => return,
                    Told::Ports => {
                        put(proto, CTA_PROTO_SRC_PORT, &memory[16..18]);
                        put(proto, CTA_PROTO_DST_PORT, &memory[36..38]);
                        return;
                    }
                    Told::Icmp => (CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE),
                    Told::Icmpv6 => (CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE),
                };
                put(proto, id, &memory[16..18]);
                put(proto, kind, &memory[36..37]);
                put(proto, code, &memory[37..38]);
            });
        });
    }
    put(&mut out, CTA_STATUS, &[0, 0, 0, 8]);
    out
}

#[test]
fn every_protocol_is_told_alike_by_dump_and_probes() {
    let ports = ([0x9c, 0x40], [0x00, 0x35]);
    for (name, protonum, u, told) in [
        ("TCP", 6, ports, Told::Ports),
        ("UDP", 17, ports, Told::Ports),
        ("SCTP", 132, ports, Told::Ports),
        ("DCCP", 33, ports, Told::Ports),
        ("UDP-Lite", 136, ports, Told::Ports),
        // GRE version 1 (PPTP) has a key for each direction, version 0 none.
        ("GRE", 47, ([0x12, 0x34], [0xab, 0xcd]), Told::Ports),
        ("GRE without keys", 47, ([0; 2], [0; 2]), Told::Ports),
        ("ICMP", 1, ([0xfe, 0xdc], [8, 0]), Told::Icmp),
        ("ICMP timestamp", 1, ([0x00, 0x01], [13, 0]), Told::Icmp),
        ("ICMPv6", 58, ([0xfe, 0xdc], [128, 0]), Told::Icmpv6),
        ("ICMPv6 with code", 58, ([0x80, 0x00], [139, 2]), Told::Icmpv6),
        ("ESP", 50, ([0; 2], [0; 2]), Told::Nothing),
        ("OSPF", 89, ([0; 2], [0; 2]), Told::Nothing),
        ("reserved", 255, ([0; 2], [0; 2]), Told::Nothing),
    ] {
        for (family, addresses) in [(AF_INET, V4), (AF_INET6, V6)] {
            let memory = memory(family, addresses, protonum, u);
            let entry = Entry::parse(&as_dumped(&memory, told)).unwrap();
            assert_eq!(kernel_tuple(&entry), as_probes_read(&memory), "{name}, family {family}");
        }
    }
}

#[test]
fn an_echo_and_its_answer_are_two_tuples() {
    let request = memory(AF_INET, V4, 1, ([0xfe, 0xdc], [8, 0]));
    let tuple = kernel_tuple(&Entry::parse(&as_dumped(&request, Told::Icmp)).unwrap());
    assert_eq!((tuple.sport, tuple.dport), (0xfedc, 8 << 8));
    assert_eq!(tuple.saddr[0].to_ne_bytes(), [10, 1, 2, 3, 0, 0, 0, 0]);
}

#[test]
fn of_a_translated_entry_it_is_the_original() {
    let original = memory(AF_INET, V4, 6, ([0x9c, 0x40], [0, 80]));
    let other = memory(AF_INET, (V4.1, V4.0), 6, ([0x1f, 0x90], [0x9c, 0x40]));
    let mut bytes = Vec::new();
    let parts = [as_dumped(&original, Told::Ports), as_dumped(&other, Told::Ports)];
    put(&mut bytes, CTA_TUPLE_REPLY, Attributes::new(&parts[1]).find(CTA_TUPLE_REPLY).unwrap());
    put(&mut bytes, CTA_TUPLE_ORIG, Attributes::new(&parts[0]).find(CTA_TUPLE_ORIG).unwrap());
    put(&mut bytes, CTA_STATUS, &[0; 4]);
    let entry = Entry::parse(&bytes).unwrap();
    assert_eq!(kernel_tuple(&entry), as_probes_read(&original));
    assert_eq!(entry.reply, as_probes_read(&other));
}

//! One entry of a conntrack table, read in place from a ctnetlink message.

use conntrack_common::Tuple;

use super::nlattr::{Attributes, be16, be32};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// One entry, as the kernel dumps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As the first packet of the connection had it.
    pub orig: Tuple,
    /// As replies have it; not the inverse of `orig` when the connection is translated.
    pub reply: Tuple,
    /// Conntrack zone; 0 is the default zone, which the kernel does not name. When the directions have
    /// different zones, that of the original one.
    pub zone: u16,
    /// The connection mark. None: the kernel keeps none, or (recent kernels) it is 0.
    pub mark: Option<u32>,
    /// `IPS_*` bits.
    pub status: u32,
}

impl Entry {
    /// Reads the attributes of one entry (what follows `struct nfgenmsg`). None: a part that every entry has
    /// is missing or too short.
    #[inline]
    #[must_use]
    pub fn parse(attributes: &[u8]) -> Option<Self> {
        let (mut orig, mut reply, mut status) = (None, None, None);
        let (mut zone, mut orig_zone, mut mark) = (None, None, None);
        for (kind, payload) in Attributes::new(attributes) {
            match kind {
                CTA_TUPLE_ORIG => {
                    let (tuple, zone) = parse_tuple(payload)?;
                    orig = Some(tuple);
                    orig_zone = zone;
                }
                CTA_TUPLE_REPLY => reply = Some(parse_tuple(payload)?.0),
                CTA_STATUS => status = Some(be32(payload)?),
                CTA_MARK => mark = Some(be32(payload)?),
                CTA_ZONE => zone = Some(be16(payload)?),
                _ => {}
            }
        }
        const DEFAULT_ZONE: u16 = 0;
        Some(Self {
            orig: orig?,
            reply: reply?,
            zone: zone.or(orig_zone).unwrap_or(DEFAULT_ZONE),
            mark,
            status: status?,
        })
    }
}

/// The original tuple as the probes read it from `struct nf_conntrack_tuple`, byte for byte: what is learnt of an
/// entry from a dump meets what the probes learn of it later under the same key.
///
/// Both are the kernel's own fields: what ctnetlink does not tell (ports of a protocol that conntrack does not know)
/// is zero in the kernel too (`nf_ct_get_tuple`), and GRE's keys and ICMP's id, type and code lie where ports do.
#[inline]
#[must_use]
pub fn kernel_tuple(entry: &Entry) -> Tuple {
    entry.orig
}

/// One direction, and its zone when the kernel names one for this direction alone.
#[inline]
fn parse_tuple(attributes: &[u8]) -> Option<(Tuple, Option<u16>)> {
    let mut tuple = Tuple::default();
    let mut zone = None;
    let (mut has_ip, mut has_proto) = (false, false);
    for (kind, payload) in Attributes::new(attributes) {
        match kind {
            CTA_TUPLE_IP => {
                parse_addresses(payload, &mut tuple)?;
                has_ip = true;
            }
            CTA_TUPLE_PROTO => {
                parse_protocol(payload, &mut tuple)?;
                has_proto = true;
            }
            CTA_TUPLE_ZONE => zone = Some(be16(payload)?),
            _ => {}
        }
    }
    (has_ip && has_proto).then_some((tuple, zone))
}

#[inline]
fn parse_addresses(attributes: &[u8], tuple: &mut Tuple) -> Option<()> {
    let (mut has_source, mut has_destination) = (false, false);
    for (kind, payload) in Attributes::new(attributes) {
        match kind {
            CTA_IP_V4_SRC => tuple.saddr = v4(payload)?,
            CTA_IP_V4_DST => tuple.daddr = v4(payload)?,
            CTA_IP_V6_SRC => tuple.saddr = v6(payload)?,
            CTA_IP_V6_DST => tuple.daddr = v6(payload)?,
            _ => continue,
        }
        tuple.l3num = if kind <= CTA_IP_V4_DST { AF_INET } else { AF_INET6 };
        has_source |= matches!(kind, CTA_IP_V4_SRC | CTA_IP_V6_SRC);
        has_destination |= matches!(kind, CTA_IP_V4_DST | CTA_IP_V6_DST);
    }
    (has_source && has_destination).then_some(())
}

#[inline]
fn parse_protocol(attributes: &[u8], tuple: &mut Tuple) -> Option<()> {
    let mut has_number = false;
    for (kind, payload) in Attributes::new(attributes) {
        match kind {
            CTA_PROTO_NUM => {
                tuple.protonum = *payload.first()?;
                has_number = true;
            }
            CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => tuple.sport = be16(payload)?,
            CTA_PROTO_DST_PORT => tuple.dport = be16(payload)?,
            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => {
                tuple.dport |= u16::from(*payload.first()?) << 8;
            }
            CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => tuple.dport |= u16::from(*payload.first()?),
            _ => {}
        }
    }
    has_number.then_some(())
}

/// The four bytes of an address as they lie in memory, the rest zero.
#[inline]
fn v4(payload: &[u8]) -> Option<[u64; 2]> {
    let [a, b, c, d] = *payload.first_chunk()?;
    Some([u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0])
}

#[inline]
fn v6(payload: &[u8]) -> Option<[u64; 2]> {
    let high = payload.first_chunk()?;
    let low = payload.get(8..)?.first_chunk()?;
    Some([u64::from_ne_bytes(*high), u64::from_ne_bytes(*low)])
}

#[cfg(test)]
mod kernel_tuple_tests;

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::nlattr::build::{nest, put};
    use super::*;

    fn put_v4(out: &mut Vec<u8>, kind: u16, src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16) {
        nest(out, kind, |tuple| {
            nest(tuple, CTA_TUPLE_IP, |ip| {
                put(ip, CTA_IP_V4_SRC, &src.octets());
                put(ip, CTA_IP_V4_DST, &dst.octets());
            });
            nest(tuple, CTA_TUPLE_PROTO, |proto| {
                put(proto, CTA_PROTO_NUM, &[17]);
                put(proto, CTA_PROTO_SRC_PORT, &sport.to_be_bytes());
                put(proto, CTA_PROTO_DST_PORT, &dport.to_be_bytes());
            });
        });
    }

    /// The attributes of a UDP entry as 6.x kernels dump them.
    pub(in crate::drain) fn udp_entry(src: Ipv4Addr, sport: u16) -> Vec<u8> {
        let dst = Ipv4Addr::new(10, 9, 8, 7);
        let mut out = Vec::new();
        put_v4(&mut out, CTA_TUPLE_ORIG, src, dst, sport, 53);
        put_v4(&mut out, CTA_TUPLE_REPLY, dst, src, 53, sport);
        put(&mut out, CTA_STATUS, &0x18a_u32.to_be_bytes());
        put(&mut out, 7, &30_u32.to_be_bytes());
        put(&mut out, CTA_MARK, &0x1234_u32.to_be_bytes());
        put(&mut out, 12, &[1, 2, 3, 4]);
        put(&mut out, 11, &[0, 0, 0, 1]);
        out
    }

    #[test]
    fn udp_over_ipv4() {
        let entry = Entry::parse(&udp_entry(Ipv4Addr::new(192, 0, 2, 1), 4000)).unwrap();
        assert_eq!(&entry.orig.saddr[0].to_ne_bytes()[..4], &[192, 0, 2, 1]);
        assert_eq!(entry.orig.saddr[0].to_ne_bytes()[4..], [0; 4]);
        assert_eq!((entry.orig.sport, entry.orig.dport), (4000, 53));
        assert_eq!((entry.orig.l3num, entry.orig.protonum), (2, 17));
        assert_eq!(entry.orig.flow_key(), entry.reply.flow_key());
        assert_eq!((entry.zone, entry.mark, entry.status), (0, Some(0x1234), 0x18a));
    }

    #[test]
    fn icmp_over_ipv6_and_zones() {
        let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let tuple = |kind: u8, zone: Option<u16>| {
            move |tuple: &mut Vec<u8>| {
                nest(tuple, CTA_TUPLE_IP, |ip| {
                    put(ip, CTA_IP_V6_SRC, &src.octets());
                    put(ip, CTA_IP_V6_DST, &dst.octets());
                });
                nest(tuple, CTA_TUPLE_PROTO, |proto| {
                    put(proto, CTA_PROTO_NUM, &[58]);
                    put(proto, CTA_PROTO_ICMPV6_ID, &7_u16.to_be_bytes());
                    put(proto, CTA_PROTO_ICMPV6_TYPE, &[kind]);
                    put(proto, CTA_PROTO_ICMPV6_CODE, &[3]);
                });
                if let Some(zone) = zone {
                    put(tuple, CTA_TUPLE_ZONE, &zone.to_be_bytes());
                }
            }
        };
        let mut out = Vec::new();
        nest(&mut out, CTA_TUPLE_ORIG, tuple(128, Some(5)));
        nest(&mut out, CTA_TUPLE_REPLY, tuple(129, None));
        put(&mut out, CTA_STATUS, &[0; 4]);
        let entry = Entry::parse(&out).unwrap();
        let bytes: Vec<u8> = entry.orig.saddr.iter().flat_map(|half| half.to_ne_bytes()).collect();
        assert_eq!(bytes, src.octets());
        assert_eq!((entry.orig.l3num, entry.orig.protonum), (10, 58));
        assert_eq!((entry.orig.sport, entry.orig.dport), (7, 128 << 8 | 3));
        assert_eq!((entry.zone, entry.mark), (5, None));

        put(&mut out, CTA_ZONE, &9_u16.to_be_bytes());
        assert_eq!(Entry::parse(&out).unwrap().zone, 9);
    }

    #[test]
    fn a_missing_part_is_no_entry() {
        let whole = udp_entry(Ipv4Addr::LOCALHOST, 1);
        for skipped in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS] {
            let mut out = Vec::new();
            for (kind, payload) in Attributes::new(&whole).filter(|(kind, _)| *kind != skipped) {
                put(&mut out, kind, payload);
            }
            assert_eq!(Entry::parse(&out), None, "without {skipped}");
        }
    }

    #[test]
    fn no_cut_makes_it_panic() {
        let whole = udp_entry(Ipv4Addr::LOCALHOST, 1);
        for cut in 0..whole.len() {
            let _ = Entry::parse(&whole[..cut]);
        }
    }
}

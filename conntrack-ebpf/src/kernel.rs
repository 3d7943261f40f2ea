//! Reading kernel structures by the offsets of the running kernel.

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_smp_processor_id, bpf_probe_read_kernel, generated::bpf_jiffies64,
};
use conntrack_common::{Offsets, Tuple};

use crate::maps::offsets;

/// `AF_INET`.
pub(crate) const AF_INET: u8 = 2;
/// `AF_INET6`.
pub(crate) const AF_INET6: u8 = 10;

const IPPROTO_ICMP: u8 = 1;
/// `IPPROTO_TCP`.
pub(crate) const IPPROTO_TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub(crate) const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_SCTP: u8 = 132;

/// Low bits of `sk_buff._nfct`: `ctinfo`; the rest is the `struct nf_conn *`.
const NFCT_INFOMASK: u64 = 7;
/// `IP_CT_IS_REPLY`: this `ctinfo` and those above are of the reply direction.
const IP_CT_IS_REPLY: u64 = 3;

/// `THREAD_SIZE` of x86-64 and arm64 without KASAN.
const THREAD_SIZE: u64 = 16 << 10;

/// `IPS_SRC_NAT | IPS_DST_NAT` of `nf_conn.status`.
pub(crate) const IPS_NAT_MASK: u32 = 1 << 4 | 1 << 5;

/// `IPS_DYING` of `nf_conn.status`: it was deleted.
pub(crate) const IPS_DYING: u32 = 1 << 9;

/// `TCP_CONNTRACK_CLOSE` of `nf_conn.proto.tcp.state`: a reset went through the entry.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nf_conntrack_tcp.h#L10>
const TCP_CONNTRACK_CLOSE: u8 = 8;
/// `TCP_CONNTRACK_SYN_SENT`: it was made by a SYN, and nothing has answered yet.
const TCP_CONNTRACK_SYN_SENT: u8 = 1;

/// Where members of `struct nf_conntrack_tuple` are: `src.u`, `src.l3num`, `dst.u3`, `dst.u`.
const TUPLE_SPORT: u64 = 16;
const TUPLE_L3NUM: u64 = 18;
const TUPLE_DST: u64 = 20;
const TUPLE_DPORT: u64 = 36;

/// A way to read kernel memory.
pub(crate) trait Reader {
    /// Can it meet a kernel that tags pointers? Those whose pointers have types do not.
    const TAGGED: bool;

    /// Reads a value; `None` when the address faults.
    fn read<T: Copy>(address: u64) -> Option<T>;

    /// Family and source address of a `struct nf_conntrack_tuple *`, as in [`Tuple`].
    #[inline(always)]
    fn tuple_source(address: u64) -> Option<(u32, [u64; 2])> {
        let l3num = u32::from(Self::read::<u16>(address + TUPLE_L3NUM)?);
        let word = |n: u64| Self::read::<u32>(address + 4 * n).map(u64::from);
        let mut source = [word(0)?, 0];
        if l3num == u32::from(AF_INET6) {
            source = [source[0] | word(1)? << 32, word(2)? | word(3)? << 32];
        }
        Some((l3num, source))
    }

    /// A fingerprint of a `struct nf_conntrack_tuple *`, that tells an entry from another at the same address: of its
    /// ports, and parts of its addresses.
    #[inline(always)]
    fn tuple_print(address: u64) -> Option<u16> {
        let word = |offset: u64| Self::read::<u32>(address + offset);
        let port = |offset: u64| Self::read::<u16>(address + offset).map(u32::from);
        Some(print([word(0)?, word(12)?, word(TUPLE_DST)?], [port(TUPLE_SPORT)?, port(TUPLE_DPORT)?]))
    }

    /// A pointer that was read, as one to read by.
    #[inline(always)]
    fn follow(pointer: u64) -> u64 {
        pointer
    }
}

/// By helper, from any address.
pub(crate) struct Probed;

impl Reader for Probed {
    const TAGGED: bool = true;

    #[inline(always)]
    fn read<T: Copy>(address: u64) -> Option<T> {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
    }

    /// In one read.
    #[inline(always)]
    fn tuple_source(address: u64) -> Option<(u32, [u64; 2])> {
        let [first, second, third]: [u64; 3] = Self::read(address)?;
        Some((u32::from((third >> 16) as u16), [first, second]))
    }

    /// In one read.
    #[inline(always)]
    fn tuple_print(address: u64) -> Option<u16> {
        let [first, second, third, _, fifth]: [u64; 5] = Self::read(address)?;
        let words = [first as u32, (second >> 32) as u32, (third >> 32) as u32];
        Some(print(words, [u32::from(third as u16), u32::from((fifth >> 32) as u16)]))
    }
}

/// See [`Reader::tuple_print`].
#[inline(always)]
fn print(words: [u32; 3], ports: [u32; 2]) -> u16 {
    let mixed = words[0] ^ words[1].rotate_left(7) ^ words[2].rotate_left(15) ^ ports[0] << 16 ^ ports[1];
    (mixed.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// By plain loads, from what the verifier knows the type of: arguments of fentry and fexit programs, and what
/// those point to. A `T` must be a member's own.
pub(crate) struct Typed;

impl Reader for Typed {
    const TAGGED: bool = false;

    #[inline(always)]
    fn read<T: Copy>(address: u64) -> Option<T> {
        // SAFETY: the verifier lets only loads of members pass, and the kernel catches one that faults.
        Some(unsafe { core::ptr::read_volatile(address as *const T) })
    }
}

/// Reads a value; `None` when the address faults.
#[inline(always)]
pub(crate) fn read<T: Copy>(address: u64) -> Option<T> {
    Probed::read(address)
}

/// Reads a member by its offset; `None` when this kernel has no such member.
#[inline(always)]
pub(crate) fn member<T: Copy>(base: u64, offset: usize) -> Option<T> {
    member_by::<Probed, T>(base, offset)
}

/// As [`member`], by this way.
#[inline(always)]
pub(crate) fn member_by<R: Reader, T: Copy>(base: u64, offset: usize) -> Option<T> {
    if offset == Offsets::ABSENT as usize || base == 0 { None } else { R::read(base + offset as u64) }
}

/// inode of a `struct net *`.
#[inline(always)]
pub(crate) fn netns(net: u64) -> u32 {
    netns_by::<Probed>(net)
}

/// As [`netns`], by this way.
#[inline(always)]
pub(crate) fn netns_by<R: Reader>(net: u64) -> u32 {
    member_by::<R, u32>(net, offsets().net_inum()).unwrap_or(0)
}

/// inode of the namespace of a `struct nf_conn *`.
#[inline(always)]
pub(crate) fn ct_netns(ct: u64) -> u32 {
    netns(member(ct, offsets().ct_net()).unwrap_or(0))
}

/// Tells an entry from an earlier one at the same address: of its original tuple, all but the source address.
#[inline(always)]
pub(crate) fn ct_life(ct: u64) -> u64 {
    let [first, second, third]: [u64; 3] = read(ct + offsets().ct_orig() as u64 + 16).unwrap_or_default();
    first ^ second.rotate_left(21) ^ third.rotate_left(42)
}

/// Has a reset gone through this entry, of TCP?
#[inline(always)]
pub(crate) fn ct_is_reset(ct: u64) -> bool {
    member::<u8>(ct, offsets().ct_tcp_state()) == Some(TCP_CONNTRACK_CLOSE)
}

/// Is this still the entry of that tuple, and has no reset gone through it? Its memory may be another entry's by now.
#[inline(never)]
pub(crate) fn ct_is_open(ct: u64, orig: &Tuple) -> bool {
    if ct_is_reset(ct) || ct_status(ct) & IPS_DYING != 0 {
        return false;
    }
    tuple(ct + offsets().ct_orig() as u64).is_some_and(|now| now == *orig)
}

/// Is this, of TCP, an entry that a SYN has just made?
#[inline(always)]
pub(crate) fn ct_begins(ct: u64) -> bool {
    member::<u8>(ct, offsets().ct_tcp_state()) == Some(TCP_CONNTRACK_SYN_SENT)
}

/// `nf_conn.status`.
#[inline(always)]
pub(crate) fn ct_status(ct: u64) -> u32 {
    member::<u64>(ct, offsets().ct_status()).unwrap_or(0) as u32
}

/// `nf_ct_is_expired`.
/// <https://github.com/torvalds/linux/blob/v6.12/include/net/netfilter/nf_conntrack.h#L296>
#[inline(always)]
pub(crate) fn ct_expired<R: Reader>(ct: u64) -> bool {
    let Some(timeout) = member_by::<R, u32>(ct, offsets().ct_timeout()) else { return false };
    // SAFETY: no arguments.
    let now = unsafe { bpf_jiffies64() } as u32;
    timeout.wrapping_sub(now) as i32 <= 0
}

/// `struct nf_conntrack_tuple`, laid out alike from 5.10 to 7.3.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelTuple {
    src_u3: [u64; 2],
    src_u: u16,
    l3num: u16,
    dst_u3: [u32; 4],
    dst_u: u16,
    protonum: u8,
    dir: u8,
}

const _: () = assert!(size_of::<KernelTuple>() == 40);

/// Reads a `struct nf_conntrack_tuple *`.
#[inline(always)]
pub(crate) fn tuple(address: u64) -> Option<Tuple> {
    let kernel: KernelTuple = read(address)?;
    let d = &kernel.dst_u3;
    Some(Tuple {
        saddr: kernel.src_u3,
        daddr: [u64::from(d[0]) | u64::from(d[1]) << 32, u64::from(d[2]) | u64::from(d[3]) << 32],
        sport: u16::from_be(kernel.src_u),
        dport: u16::from_be(kernel.dst_u),
        l3num: kernel.l3num as u8,
        protonum: kernel.protonum,
        pad: 0,
    })
}

/// The entry a packet is tied to (0: none) and whether the packet is of the original direction.
#[inline(always)]
pub(crate) fn skb_ct<R: Reader>(skb: u64) -> (u64, bool) {
    let nfct: u64 = member_by::<R, u64>(skb, offsets().skb_nfct()).unwrap_or(0);
    (nfct & !NFCT_INFOMASK, nfct & NFCT_INFOMASK < IP_CT_IS_REPLY)
}

/// `sk_buff._nfct` as it is: 0 is "no entry", 7 alone "not tracked on purpose".
#[inline(always)]
pub(crate) fn skb_nfct(skb: u64) -> Option<u64> {
    member(skb, offsets().skb_nfct())
}

/// The tuple of a packet from its headers. IPv6 extension headers are not walked: such a packet has the tuple
/// of its addresses and first next-header only.
#[inline(always)]
pub(crate) fn skb_tuple(skb: u64) -> Option<Tuple> {
    let head: u64 = member(skb, offsets().skb_head())?;
    let network: u16 = member(skb, offsets().skb_network_header())?;
    let ip = head + u64::from(network);
    let version: u8 = read(ip)?;
    let mut tuple = Tuple::default();
    let l4;
    if version >> 4 == 4 {
        tuple.l3num = AF_INET;
        tuple.protonum = read(ip + 9)?;
        tuple.saddr[0] = u64::from(read::<u32>(ip + 12)?);
        tuple.daddr[0] = u64::from(read::<u32>(ip + 16)?);
        l4 = ip + u64::from(version & 0xf) * 4;
    } else if version >> 4 == 6 {
        tuple.l3num = AF_INET6;
        tuple.protonum = read(ip + 6)?;
        tuple.saddr = read(ip + 8)?;
        tuple.daddr = read(ip + 24)?;
        l4 = ip + 40;
    } else {
        return None;
    }
    match tuple.protonum {
        IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP => {
            tuple.sport = u16::from_be(read(l4)?);
            tuple.dport = u16::from_be(read(l4 + 2)?);
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            tuple.dport = u16::from_be(read(l4)?);
            tuple.sport = u16::from_be(read(l4 + 4)?);
        }
        _ => {}
    }
    Some(tuple)
}

/// Is the packet itself a TCP reset? (`tcp_v4_send_reset` answers none.)
#[inline(always)]
pub(crate) fn skb_is_reset(skb: u64) -> bool {
    let flags = || {
        let head: u64 = member(skb, offsets().skb_head())?;
        let transport: u16 = member(skb, offsets().skb_transport_header())?;
        read::<u8>(head + u64::from(transport) + 13)
    };
    flags().is_some_and(|flags| flags & 4 != 0)
}

/// What a TCP packet is for.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// It begins a connection, or answers one that does.
    pub(crate) syn: bool,
    /// It carries nothing, or is a reset: its loss hurts nobody.
    pub(crate) bare: bool,
}

/// What a TCP packet is for, from its headers; None of others, and of IPv6 with extension headers.
#[inline(always)]
pub(crate) fn skb_segment(skb: u64) -> Option<Segment> {
    let head: u64 = member(skb, offsets().skb_head())?;
    let network: u16 = member(skb, offsets().skb_network_header())?;
    let ip = head + u64::from(network);
    let version: u8 = read(ip)?;
    let (protocol, header, length) = if version >> 4 == 4 {
        let total = u64::from(u16::from_be(read(ip + 2)?));
        (read::<u8>(ip + 9)?, u64::from(version & 0xf) * 4, total)
    } else {
        (read::<u8>(ip + 6)?, 40, u64::from(u16::from_be(read(ip + 4)?)) + 40)
    };
    if protocol != IPPROTO_TCP {
        return None;
    }
    let [offset, flags]: [u8; 2] = read(ip + header + 12)?;
    let headers = header + u64::from(offset >> 4) * 4;
    Some(Segment { syn: flags & 2 != 0, bare: flags & 4 != 0 || flags & 2 == 0 && length == headers })
}

/// The device a packet is on: (index, inode of its namespace).
#[inline(always)]
pub(crate) fn skb_device(skb: u64) -> Option<(u32, u32)> {
    let device: u64 = member(skb, offsets().skb_dev())?;
    let index: u32 = member(device, offsets().dev_ifindex())?;
    Some((index, skb_netns::<Probed>(skb)?))
}

/// inode of the namespace a packet is in; None while it is on no device.
#[inline(always)]
pub(crate) fn skb_netns<R: Reader>(skb: u64) -> Option<u32> {
    let device = member_by::<R, u64>(skb, offsets().skb_dev()).filter(|device| *device != 0)?;
    let net = member_by::<R, u64>(R::follow(device), offsets().dev_net())?;
    Some(netns_by::<R>(R::follow(net)))
}

/// Index of the device a packet came in by; 0: it was made in this namespace.
#[inline(always)]
pub(crate) fn skb_iif<R: Reader>(skb: u64) -> Option<u32> {
    member_by::<R, u32>(skb, offsets().skb_iif())
}

/// `TCP_TIME_WAIT`, `TCP_NEW_SYN_RECV`: not full sockets, they have no cgroup.
const MINI_SOCKET_STATES: [u8; 2] = [6, 12];

/// cgroup v2 id of a full socket.
///
/// From 5.15 `sk_cgrp_data` starts with a `struct cgroup *`; before, the same word is tagged with bit 0 when it
/// holds a class id and priority instead.
/// <https://github.com/torvalds/linux/blob/v5.10/include/linux/cgroup-defs.h#L770>
#[inline(always)]
pub(crate) fn sk_cgroup<R: Reader>(sk: u64) -> Option<u64> {
    let state: u8 = member_by::<R, u8>(sk, offsets().sk_state())?;
    if MINI_SOCKET_STATES[0] == state || MINI_SOCKET_STATES[1] == state {
        return None;
    }
    let cgroup: u64 = member_by::<R, u64>(sk, offsets().sk_cgrp_data())?;
    if R::TAGGED && cgroup & 1 != 0 {
        return None;
    }
    let node: u64 = member_by::<R, u64>(R::follow(cgroup), offsets().cgroup_kn())?;
    member_by::<R, u64>(R::follow(node), offsets().kernfs_id())
}

/// inode of a socket's namespace.
#[inline(always)]
pub(crate) fn sk_netns(sk: u64) -> u32 {
    netns(member(sk, offsets().sk_net()).unwrap_or(0))
}

/// `sock.sk_err`, of a TCP socket; None: it is of another protocol, or that is not known.
#[inline(always)]
pub(crate) fn tcp_error(sk: u64) -> Option<u32> {
    let protocol: u16 = member(sk, offsets().sk_protocol())?;
    if protocol != u16::from(IPPROTO_TCP) {
        return None;
    }
    member(sk, offsets().sk_err())
}

/// Has this TCP socket sent nothing twice?
#[inline(always)]
pub(crate) fn tcp_never_repeated(sk: u64) -> bool {
    member::<u32>(sk, offsets().tcp_total_retrans()) == Some(0)
}

/// Has nobody closed or shut down this socket? An application that closes it does so before its state changes; the kernel
/// that gives a connection up, after.
#[inline(always)]
pub(crate) fn sk_is_in_use(sk: u64) -> bool {
    member::<u8>(sk, offsets().sk_shutdown()) == Some(0)
}

/// `sock.__sk_common.skc_state`.
#[inline(always)]
pub(crate) fn sk_state(sk: u64) -> Option<u8> {
    member(sk, offsets().sk_state())
}

/// As [`sk_tuple`], of a socket that has given its port back already: `inet_put_port` comes before the state changes.
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp.c#L2760>
#[inline(always)]
pub(crate) fn sk_tuple_closed(sk: u64) -> Option<Tuple> {
    let mut tuple = sk_tuple(sk)?;
    tuple.sport = u16::from_be(member(sk, offsets().sk_sport())?);
    Some(tuple)
}

/// A TCP socket's own view of its connection: source is local.
#[inline(always)]
pub(crate) fn sk_tuple(sk: u64) -> Option<Tuple> {
    let family: u16 = member(sk, offsets().sk_family())?;
    let mut tuple = Tuple {
        sport: member(sk, offsets().sk_num())?,
        dport: u16::from_be(member(sk, offsets().sk_dport())?),
        l3num: family as u8,
        protonum: IPPROTO_TCP,
        ..Tuple::default()
    };
    if tuple.l3num == AF_INET6 {
        tuple.saddr = member(sk, offsets().sk_v6_rcv_saddr())?;
        tuple.daddr = member(sk, offsets().sk_v6_daddr())?;
        // A v4 connection on a v6 socket: ::ffff:a.b.c.d
        if tuple.daddr[0] == 0 && tuple.daddr[1] as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff]) {
            tuple.l3num = AF_INET;
            tuple.saddr = [tuple.saddr[1] >> 32, 0];
            tuple.daddr = [tuple.daddr[1] >> 32, 0];
        }
    } else {
        tuple.saddr[0] = u64::from(member::<u32>(sk, offsets().sk_rcv_saddr())?);
        tuple.daddr[0] = u64::from(member::<u32>(sk, offsets().sk_daddr())?);
    }
    Some(tuple)
}

/// Names the thread of execution that runs this probe: the task while on the task's own stack, else the CPU,
/// since a softirq on its own stack neither moves nor nests. `position` is any address on the current stack.
///
/// A function and what it calls run in one such context, which `current` alone does not tell: a softirq
/// borrows whatever task it interrupts.
#[inline(always)]
pub(crate) fn context(position: u64) -> u64 {
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() };
    let stack: u64 = member(task, offsets().task_stack()).unwrap_or(0);
    if position.wrapping_sub(stack) < THREAD_SIZE {
        task
    } else {
        // SAFETY: no arguments.
        u64::from(unsafe { bpf_get_smp_processor_id() } as u32)
    }
}

/// A pointer the verifier tracks, as the plain number `context` calculates with.
#[inline(always)]
pub(crate) fn number(pointer: u64) -> u64 {
    read(&raw const pointer as u64).unwrap_or(0)
}

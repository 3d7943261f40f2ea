//! Fills the table of the thread's namespace by ctnetlink, with entries whose owners are known.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf, BufMut};
use conntrack_user::attribute::owner::Owner;
use netlink_sys::{Socket, SocketAddr};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`.
const NEW: u16 = 0x100;
/// `NLM_F_REQUEST | NLM_F_EXCL | NLM_F_CREATE`.
const FLAGS: u16 = 0x601;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
/// Requests are sent in parts of about this many bytes.
const PART: usize = 48 << 10;
/// Seconds an entry lives: longer than any test.
const TIMEOUT: u32 = 36_000;

/// What to make.
pub(crate) struct Plan {
    /// How many entries.
    pub(crate) entries: u32,
    /// How many pods they are of.
    pub(crate) pods: u32,
}

/// Uid of a pod.
pub(crate) fn uid(pod: u32) -> String {
    format!("{pod:08x}-1111-4222-8333-1234567890ab")
}

/// A pod's addresses.
pub(crate) fn pod_addresses(pod: u32) -> [IpAddr; 2] {
    let number = u16::try_from(pod + 2).unwrap();
    let [high, low] = number.to_be_bytes();
    [Ipv4Addr::new(10, 244, high, low).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into()]
}

/// The host's address.
pub(crate) fn host() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 1).into()
}

/// Ends of one connection: who asks, the address asked, who answers; the protocol, and who these are.
struct Connection {
    from: IpAddr,
    asked: IpAddr,
    answering: IpAddr,
    protocol: u8,
    initiator: Owner,
    responder: Option<Owner>,
}

fn pod(number: u32) -> Owner {
    Owner::Pod { namespace: String::new(), pod: uid(number), uid: uid(number) }
}

/// The shares of a node that serves: half goes from pods to a Service, a fifth comes from outside, each from an
/// address of its own, and the rest goes out, some of it over IPv6, some of it from the host.
fn connection(number: u32, pods: u32) -> Connection {
    const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
    const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
    const OUTSIDE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
    let (one, other) = (number % pods, (number / 7) % pods);
    let [four, six] = pod_addresses(one);
    let (from, asked, answering, initiator, responder) = match number % 10 {
        0..=4 => (four, SERVICE, pod_addresses(other)[0], pod(one), Some(pod(other))),
        5 | 6 => {
            let client = IpAddr::from(Ipv4Addr::from(0x0b00_0000 + number));
            (client, four, four, Owner::External, Some(pod(one)))
        }
        7 => (six, OUTSIDE6, OUTSIDE6, pod(one), None),
        8 => (four, OUTSIDE, OUTSIDE, pod(one), None),
        _ => (host(), OUTSIDE, OUTSIDE, Owner::Host, None),
    };
    let protocol = if number.is_multiple_of(3) { 17 } else { 6 };
    Connection { from, asked, answering, protocol, initiator, responder }
}

/// Makes the entries, and tells how many each owner made and how many it answers.
pub(crate) fn fill(plan: &Plan) -> BTreeMap<Owner, (i64, i64)> {
    let mut expected: BTreeMap<Owner, (i64, i64)> = BTreeMap::new();
    let mut socket = Socket::new(libc::NETLINK_NETFILTER as isize).unwrap();
    socket.bind_auto().unwrap();
    let mut part = Vec::with_capacity(PART + 512);
    for number in 0..plan.entries {
        let connection = connection(number, plan.pods);
        let last = number + 1 == plan.entries || part.len() >= PART;
        request(&mut part, number, &connection, last);
        if last {
            socket.send_to(&part, &SocketAddr::new(0, 0), 0).unwrap();
            settled(&socket, number);
            part.clear();
        }
        expected.entry(connection.initiator).or_default().0 += 1;
        if let Some(responder) = connection.responder {
            expected.entry(responder).or_default().1 += 1;
        }
    }
    expected
}

/// Waits for the answer to the last request of a part; a failure of an earlier one would come before it.
fn settled(socket: &Socket, number: u32) {
    let mut answer = Vec::with_capacity(8 << 10);
    socket.recv_from(&mut answer, 0).unwrap();
    let mut header = &answer[4..];
    assert_eq!(header.get_u16_ne(), NLMSG_ERROR);
    header.advance(2);
    let sequence = header.get_u32_ne();
    let errno = (&answer[16..]).get_i32_ne();
    assert_eq!((sequence, errno), (number, 0), "entry {sequence} was refused: errno {errno}");
}

/// Ports that no two connections of one pair of addresses share.
fn ports(number: u32) -> (u16, u16) {
    let port = |n: u32| 1_024 + u16::try_from(n).unwrap();
    (port(number % 60_000), port(number / 60_000))
}

fn request(out: &mut Vec<u8>, number: u32, connection: &Connection, answer: bool) {
    let begin = out.len();
    out.put_u32_ne(0);
    out.put_u16_ne(NEW);
    out.put_u16_ne(FLAGS | if answer { NLM_F_ACK } else { 0 });
    out.put_u32_ne(number);
    out.put_u32_ne(0);
    // `struct nfgenmsg`.
    out.put_slice(&[if connection.from.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
    let (sport, dport) = ports(number);
    tuple(out, 1, connection.protocol, (connection.from, sport), (connection.asked, dport));
    tuple(out, 2, connection.protocol, (connection.answering, dport), (connection.from, sport));
    attribute(out, 7, |out| out.put_u32(TIMEOUT));
    let length = u32::try_from(out.len() - begin).unwrap();
    out[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
}

fn tuple(out: &mut Vec<u8>, kind: u16, protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) {
    attribute(out, kind | NESTED, |out| {
        attribute(out, 1 | NESTED, |out| {
            for (at, address) in [(1, from.0), (2, to.0)] {
                match address {
                    IpAddr::V4(v4) => attribute(out, at, |out| out.put_slice(&v4.octets())),
                    IpAddr::V6(v6) => attribute(out, at + 2, |out| out.put_slice(&v6.octets())),
                }
            }
        });
        attribute(out, 2 | NESTED, |out| {
            attribute(out, 1, |out| out.put_u8(protocol));
            attribute(out, 2, |out| out.put_u16(from.1));
            attribute(out, 3, |out| out.put_u16(to.1));
        });
    });
}

fn attribute(out: &mut Vec<u8>, kind: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.put_u16_ne(0);
    out.put_u16_ne(kind);
    payload(out);
    let length = u16::try_from(out.len() - begin).unwrap();
    out[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

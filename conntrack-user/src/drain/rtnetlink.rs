//! Addresses and devices of the namespace the thread is in.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use netlink_packet_core::{NlaBuffer, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessageBuffer};
use netlink_packet_route::link::LinkMessageBuffer;

use super::netlink::{Connection, Error, NLM_F_DUMP};
use super::nlattr::{Attributes, ne32, string};

const NETLINK_ROUTE: isize = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;

/// The zeroed `struct ifinfomsg`, which is longer than `struct ifaddrmsg`: all families, all devices.
const EVERYTHING: [u8; 16] = [0; 16];
const IFADDRMSG: usize = 8;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Index of the device it hangs on: a veth's other end, in the namespace of `peer_nsid`.
    pub peer_ifindex: Option<u32>,
    /// This namespace's id of the namespace of `peer_ifindex`. None: it is in this same namespace.
    pub peer_nsid: Option<i32>,
    /// "veth", "bridge", "vlan", …; None for a physical device, and for lo.
    pub kind: Option<String>,
}

/// Every address of the current namespace once, loopback and link-local ones included, sorted.
///
/// # Errors
/// Any [`Error`].
pub fn addresses() -> Result<Vec<IpAddr>, Error> {
    let mut found = BTreeSet::new();
    Connection::open(NETLINK_ROUTE)?.ask(RTM_GETADDR, NLM_F_DUMP, &EVERYTHING[..IFADDRMSG], |message| {
        if message.kind == RTM_NEWADDR {
            found.extend(parse_address(message.payload)?);
        }
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

/// The ids by which the current namespace calls others: id → inode. Of `others` (inode and path), those that
/// it has no id for, and those that are gone or another namespace by now, are left out. The kernel gives ids
/// when a device that leads elsewhere is listed: ask for [`links`] first.
///
/// # Errors
/// Any [`Error`] but that the kernel refused a single one.
pub fn namespace_ids<'a>(others: impl Iterator<Item = (u32, &'a Path)>) -> Result<HashMap<i32, u32>, Error> {
    let mut connection = Connection::open(NETLINK_ROUTE)?;
    let mut found = HashMap::new();
    for (inum, path) in others {
        // Open for as long as the question takes: a descriptor would keep the namespace alive.
        let Ok(file) = File::open(path) else { continue };
        if file.metadata().is_ok_and(|metadata| metadata.ino() == u64::from(inum)) {
            let asked = connection.ask(RTM_GETNSID, 0, &nsid_question(&file), |message| {
                if message.kind == RTM_NEWNSID {
                    found.extend(parse_nsid(message.payload).map(|id| (id, inum)));
                }
                Ok(())
            });
            match asked {
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// `struct rtgenmsg`, padded, and the attribute NETNSA_FD.
fn nsid_question(namespace: &File) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..6].copy_from_slice(&8_u16.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NETNSA_FD.to_ne_bytes());
    bytes[8..].copy_from_slice(&namespace.as_raw_fd().to_ne_bytes());
    bytes
}

/// The id in an RTM_NEWNSID. None: none is assigned.
fn parse_nsid(payload: &[u8]) -> Option<i32> {
    let id = Attributes::new(payload.get(4..)?).find(NETNSA_NSID).and_then(ne32)?;
    Some(id.cast_signed()).filter(|id| *id >= 0)
}

/// Every device of the current namespace.
///
/// # Errors
/// Any [`Error`].
pub fn links() -> Result<Vec<Link>, Error> {
    let mut found = Vec::new();
    Connection::open(NETLINK_ROUTE)?.ask(RTM_GETLINK, NLM_F_DUMP, &EVERYTHING, |message| {
        if message.kind == RTM_NEWLINK {
            found.push(parse_link(message.payload)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The local address of an RTM_NEWADDR. On a point-to-point device IFA_ADDRESS is the peer's and IFA_LOCAL
/// ours; IPv6 mostly has IFA_ADDRESS alone. None: a family without IP addresses.
fn parse_address(payload: &[u8]) -> Result<Option<IpAddr>, Error> {
    let malformed = |_| Error::Malformed("an address message");
    let buffer = AddressMessageBuffer::new_checked(payload).map_err(malformed)?;
    if !matches!(i32::from(buffer.family()), libc::AF_INET | libc::AF_INET6) {
        return Ok(None);
    }
    let (mut local, mut address) = (None, None);
    // Only these two are decoded, so that a new attribute of a newer kernel cannot spoil them.
    for attribute in buffer.attributes() {
        let attribute = attribute.map_err(malformed)?;
        if !matches!(attribute.kind(), IFA_ADDRESS | IFA_LOCAL) {
            continue;
        }
        match AddressAttribute::parse(&attribute).map_err(malformed)? {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            _ => {}
        }
    }
    Ok(local.or(address))
}

/// An RTM_NEWLINK.
fn parse_link(payload: &[u8]) -> Result<Link, Error> {
    let malformed = |_| Error::Malformed("a device message");
    let buffer = LinkMessageBuffer::new_checked(payload).map_err(malformed)?;
    let (mut name, mut peer_ifindex, mut peer_nsid, mut kind) = (None, None, None, None);
    // The attributes are read one by one: decoding all of them fails on those newer than the decoder.
    for attribute in buffer.attributes() {
        let attribute: NlaBuffer<&[u8]> = attribute.map_err(malformed)?;
        let value = attribute.value();
        match attribute.kind() {
            IFLA_IFNAME => name = string(value).map(str::to_owned),
            // 0 is said by devices that could hang on another and hang on none.
            IFLA_LINK => peer_ifindex = ne32(value).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => peer_nsid = ne32(value).map(u32::cast_signed),
            IFLA_LINKINFO => {
                kind = Attributes::new(value).find(IFLA_INFO_KIND).and_then(string).map(str::to_owned);
            }
            _ => {}
        }
    }
    Ok(Link {
        index: buffer.link_index(),
        name: name.ok_or(Error::Malformed("a device with no name in UTF-8"))?,
        peer_ifindex,
        peer_nsid,
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::super::nlattr::build::{nest, put};
    use super::*;

    #[test]
    fn the_local_end_of_a_point_to_point_address() {
        let mut payload = vec![2, 32, 0, 0, 1, 0, 0, 0];
        put(&mut payload, IFA_ADDRESS, &[10, 0, 0, 2]);
        assert_eq!(parse_address(&payload).unwrap(), Some("10.0.0.2".parse().unwrap()));
        put(&mut payload, IFA_LOCAL, &[10, 0, 0, 1]);
        assert_eq!(parse_address(&payload).unwrap(), Some("10.0.0.1".parse().unwrap()));
        payload[0] = 18;
        assert_eq!(parse_address(&payload).unwrap(), None);
        assert!(parse_address(&payload[..4]).is_err());
    }

    #[test]
    fn a_veth_with_attributes_no_decoder_knows() {
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        put(&mut payload, IFLA_IFNAME, b"veth0\0");
        put(&mut payload, 23, &[1]);
        put(&mut payload, 999, &[1, 2, 3]);
        put(&mut payload, IFLA_LINK, &2_u32.to_ne_bytes());
        put(&mut payload, IFLA_LINK_NETNSID, &(-1_i32).to_ne_bytes());
        nest(&mut payload, IFLA_LINKINFO, |info| put(info, IFLA_INFO_KIND, b"veth\0"));
        let expected = Link {
            index: 7,
            name: "veth0".into(),
            peer_ifindex: Some(2),
            peer_nsid: Some(-1),
            kind: Some("veth".into()),
        };
        assert_eq!(parse_link(&payload).unwrap(), expected);
    }

    #[test]
    fn an_id_that_is_not_assigned_is_none() {
        let answer = |id: i32| {
            let mut payload = vec![0; 4];
            put(&mut payload, NETNSA_NSID, &id.to_ne_bytes());
            parse_nsid(&payload)
        };
        assert_eq!((answer(0), answer(7), answer(-1)), (Some(0), Some(7), None));
        assert_eq!((parse_nsid(&[]), parse_nsid(&[0; 4])), (None, None));
    }

    #[test]
    fn lo_hangs_on_nothing() {
        let mut payload = vec![0; 16];
        assert!(parse_link(&payload).is_err());
        put(&mut payload, IFLA_IFNAME, b"lo\0");
        let link = parse_link(&payload).unwrap();
        assert_eq!((link.peer_ifindex, link.peer_nsid, link.kind), (None, None, None));
    }
}

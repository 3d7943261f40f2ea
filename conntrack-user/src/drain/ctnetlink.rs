//! What conntrack itself has to say of the namespace the thread is in.
//!
//! Asking loads the nf_conntrack module: look at [`super::presence`] first.

use bytes::{Buf, BufMut};

use super::ct_entry::Entry;
use super::netlink::{Connection, Error, Message, NLM_F_DUMP};
use super::nlattr::{Attributes, be32};

const NETLINK_NETFILTER: isize = 12;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_GET_STATS_CPU: u16 = 4;
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

const CTA_STATS_FOUND: u16 = 2;
const CTA_STATS_INVALID: u16 = 4;
const CTA_STATS_INSERT: u16 = 8;
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;
const CTA_STATS_ERROR: u16 = 12;
const CTA_STATS_SEARCH_RESTART: u16 = 13;
const CTA_STATS_CLASH_RESOLVE: u16 = 14;
const CTA_STATS_CHAIN_TOOLONG: u16 = 15;

/// A namespace's table, as the limit sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Entries, unconfirmed ones included.
    pub entries: u64,
    /// The limit in force. None: this kernel does not tell, or 0, which is no limit up to 6.18.
    pub limit: Option<u64>,
}

/// conntrack's statistics of one namespace on one CPU since the namespace came to be; they wrap at 2³².
/// None: this kernel does not have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Which CPU.
    pub cpu: u32,
    /// Lookups that found an entry.
    pub found: Option<u32>,
    /// Packets INVALID.
    pub invalid: Option<u32>,
    /// Inserts by ctnetlink; the packet path does not count here.
    pub insert: Option<u32>,
    /// Inserts that failed: clash, chain too long, dying.
    pub insert_failed: Option<u32>,
    /// Packets dropped: table full, no memory, clash, and others.
    pub drop: Option<u32>,
    /// Entries evicted by `early_drop`.
    pub early_drop: Option<u32>,
    /// Packets with an ICMP error that could not be parsed and kin.
    pub error: Option<u32>,
    /// Lookups restarted.
    pub search_restart: Option<u32>,
    /// Clashes resolved (5.10 and later).
    pub clash_resolve: Option<u32>,
    /// Chains too long (5.15 and later).
    pub chain_toolong: Option<u32>,
}

/// Which entries a dump is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How a dump went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Entries handed on. An entry moved within the table meanwhile can be missing or come twice.
    pub entries: u64,
    /// Entries that could not be read, and were not handed on.
    pub malformed: u64,
    /// The kernel said that the table changed in a way that spoils the dump; conntrack never did so far.
    pub interrupted: bool,
}

/// Entries and limit of the current namespace.
///
/// # Errors
/// Any [`Error`].
pub fn table_counts() -> Result<TableCounts, Error> {
    let mut counts = None;
    ask(IPCTNL_MSG_CT_GET_STATS, 0, None, |_, attributes| {
        counts = Some(parse_counts(attributes)?);
        Ok(())
    })?;
    counts.ok_or(Error::Malformed("no statistics in the answer"))
}

/// The statistics of the current namespace, one for each possible CPU.
///
/// # Errors
/// Any [`Error`].
pub fn cpu_stats() -> Result<Vec<CpuStats>, Error> {
    let mut all = Vec::new();
    ask(IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_DUMP, None, |cpu, attributes| {
        all.push(parse_cpu_stats(cpu, attributes)?);
        Ok(())
    })?;
    if all.is_empty() {
        return Err(Error::Malformed("statistics of no CPU"));
    }
    Ok(all)
}

/// Hands every confirmed entry of the current namespace to `each`; nothing is allocated for an entry.
///
/// # Errors
/// Any [`Error`]; then what `each` was given is not all.
pub fn dump(family: Option<Family>, mut each: impl FnMut(Entry)) -> Result<DumpSummary, Error> {
    let mut summary = DumpSummary::default();
    let answer = ask(IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, |_, attributes| {
        match Entry::parse(attributes) {
            Some(entry) => {
                summary.entries += 1;
                each(entry);
            }
            None => summary.malformed += 1,
        }
        Ok(())
    })?;
    summary.interrupted = answer.interrupted;
    Ok(summary)
}

/// Asks ctnetlink; `each` gets the resource id (the CPU, for statistics) and the attributes.
fn ask(
    command: u16,
    flags: u16,
    family: Option<Family>,
    mut each: impl FnMut(u16, &[u8]) -> Result<(), Error>,
) -> Result<super::netlink::Answer, Error> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    connection.ask(NFNL_SUBSYS_CTNETLINK << 8 | command, flags, &nfgenmsg(family), |message| {
        let (resource, attributes) = split(&message)?;
        each(resource, attributes)
    })
}

/// `struct nfgenmsg`: family, version, resource id.
fn nfgenmsg(family: Option<Family>) -> [u8; 4] {
    let family = match family {
        None => libc::AF_UNSPEC,
        Some(Family::V4) => libc::AF_INET,
        Some(Family::V6) => libc::AF_INET6,
    };
    let mut header = [0; 4];
    // AF_* of IP fit a byte; the kernel's field is one.
    (&mut header[..]).put_u8(family as u8);
    header
}

/// The resource id and the attributes of an nfnetlink message.
#[inline]
fn split<'a>(message: &Message<'a>) -> Result<(u16, &'a [u8]), Error> {
    let (mut header, attributes) =
        message.payload.split_at_checked(4).ok_or(Error::Malformed("an nfnetlink message without header"))?;
    header.advance(2);
    Ok((header.get_u16(), attributes))
}

fn parse_counts(attributes: &[u8]) -> Result<TableCounts, Error> {
    let attributes = Attributes::new(attributes);
    let entries = attributes.find(CTA_STATS_GLOBAL_ENTRIES).and_then(be32);
    let limit = attributes.find(CTA_STATS_GLOBAL_MAX_ENTRIES).and_then(be32);
    Ok(TableCounts {
        entries: entries.ok_or(Error::Malformed("no count of entries"))?.into(),
        limit: limit.filter(|limit| *limit != 0).map(u64::from),
    })
}

fn parse_cpu_stats(cpu: u16, attributes: &[u8]) -> Result<CpuStats, Error> {
    let mut stats = CpuStats { cpu: cpu.into(), ..CpuStats::default() };
    for (kind, payload) in Attributes::new(attributes) {
        let field = match kind {
            CTA_STATS_FOUND => &mut stats.found,
            CTA_STATS_INVALID => &mut stats.invalid,
            CTA_STATS_INSERT => &mut stats.insert,
            CTA_STATS_INSERT_FAILED => &mut stats.insert_failed,
            CTA_STATS_DROP => &mut stats.drop,
            CTA_STATS_EARLY_DROP => &mut stats.early_drop,
            CTA_STATS_ERROR => &mut stats.error,
            CTA_STATS_SEARCH_RESTART => &mut stats.search_restart,
            CTA_STATS_CLASH_RESOLVE => &mut stats.clash_resolve,
            CTA_STATS_CHAIN_TOOLONG => &mut stats.chain_toolong,
            _ => continue,
        };
        *field = Some(be32(payload).ok_or(Error::Malformed("a statistic shorter than 4 bytes"))?);
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Instant;

    use super::super::ct_entry::tests::udp_entry;
    use super::super::netlink::Messages;
    use super::super::nlattr::build::put;
    use super::*;

    #[test]
    fn limit_absent_or_zero_is_none() {
        let mut bytes = Vec::new();
        assert!(parse_counts(&bytes).is_err());
        put(&mut bytes, CTA_STATS_GLOBAL_ENTRIES, &5_u32.to_be_bytes());
        assert_eq!(parse_counts(&bytes).unwrap(), TableCounts { entries: 5, limit: None });
        let mut zero = bytes.clone();
        put(&mut zero, CTA_STATS_GLOBAL_MAX_ENTRIES, &[0; 4]);
        assert_eq!(parse_counts(&zero).unwrap().limit, None);
        put(&mut bytes, CTA_STATS_GLOBAL_MAX_ENTRIES, &262_144_u32.to_be_bytes());
        assert_eq!(parse_counts(&bytes).unwrap().limit, Some(262_144));
    }

    #[test]
    fn each_statistic_lands_in_its_field() {
        let mut bytes = Vec::new();
        for kind in 1_u16..=14 {
            put(&mut bytes, kind, &u32::from(kind).to_be_bytes());
        }
        let stats = parse_cpu_stats(3, &bytes).unwrap();
        let expected = CpuStats {
            cpu: 3,
            found: Some(2),
            invalid: Some(4),
            insert: Some(8),
            insert_failed: Some(9),
            drop: Some(10),
            early_drop: Some(11),
            error: Some(12),
            search_restart: Some(13),
            clash_resolve: Some(14),
            chain_toolong: None,
        };
        assert_eq!(stats, expected);
        put(&mut bytes, CTA_STATS_DROP, &[1]);
        assert!(parse_cpu_stats(3, &bytes).is_err());
    }

    #[test]
    fn request_names_the_family() {
        assert_eq!(nfgenmsg(None), [0, 0, 0, 0]);
        assert_eq!(nfgenmsg(Some(Family::V4)), [2, 0, 0, 0]);
        assert_eq!(nfgenmsg(Some(Family::V6)), [10, 0, 0, 0]);
    }

    #[test]
    fn the_resource_id_is_in_network_order() {
        let payload = [0, 0, 0, 7, 1, 2];
        let message = Message { kind: 0, flags: 0, sequence: 0, payload: &payload };
        assert_eq!(split(&message).unwrap(), (7, &[1, 2][..]));
        assert!(split(&Message { payload: &payload[..3], ..message }).is_err());
    }

    /// A full default table, in datagrams of 32 KiB as the kernel makes them.
    #[test]
    fn parses_a_full_table_fast() {
        const ENTRIES: u32 = 262_144;
        let mut datagrams = vec![Vec::new()];
        for number in 0..ENTRIES {
            let mut message = Vec::new();
            let attributes = udp_entry(Ipv4Addr::from(0x0a00_0000 + number), (number % 60_000) as u16);
            message.put_u32_ne(20 + u32::try_from(attributes.len()).unwrap());
            message.put_u16_ne(NFNL_SUBSYS_CTNETLINK << 8);
            message.put_u16_ne(2);
            message.put_u32_ne(1);
            message.put_u32_ne(0);
            message.put_slice(&nfgenmsg(Some(Family::V4)));
            message.extend(attributes);
            if datagrams.last().unwrap().len() + message.len() > 32 << 10 {
                datagrams.push(Vec::new());
            }
            datagrams.last_mut().unwrap().extend(message);
        }
        let begin = Instant::now();
        let (mut entries, mut sum) = (0_u32, 0_u64);
        for datagram in &datagrams {
            for message in Messages::new(datagram) {
                let entry = Entry::parse(split(&message.unwrap()).unwrap().1).unwrap();
                sum = sum.wrapping_add(entry.orig.saddr[0]).wrapping_add(entry.reply.dport.into());
                entries += 1;
            }
        }
        let took = begin.elapsed();
        let bytes: usize = datagrams.iter().map(Vec::len).sum();
        println!("parsed {entries} entries ({bytes} bytes) in {took:?} (checksum {sum:#x})");
        assert_eq!(entries, ENTRIES);
        if !cfg!(debug_assertions) {
            assert!(took.as_millis() < 500, "{took:?}");
        }
    }
}

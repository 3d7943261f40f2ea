//! From the ABI's integers to addresses and times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use conntrack_common::event::{FLAG_NAT, FLAG_REPLY};
use conntrack_common::{Event, EventKind, SourceKey, Tuple};

use super::observed::{Flow, TokenEvidence};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

impl Flow {
    /// The addresses of a tuple. None where it is of another family than IPv4 and IPv6, as an empty one is.
    #[must_use]
    pub fn from_tuple(tuple: &Tuple) -> Option<Self> {
        Some(Self {
            src: address(tuple.saddr, tuple.l3num)?,
            sport: tuple.sport,
            dst: address(tuple.daddr, tuple.l3num)?,
            dport: tuple.dport,
            protonum: tuple.protonum,
        })
    }
}

/// A flow of which only the source is known: the limiter's key of its events.
#[must_use]
pub fn source_flow(key: &SourceKey) -> Option<Flow> {
    let l3num = u8::try_from(key.l3num).ok()?;
    Flow::from_tuple(&Tuple { saddr: key.saddr, l3num, ..Tuple::default() })
}

/// The words hold an address in network order as it lies in memory.
fn address(words: [u64; 2], family: u8) -> Option<IpAddr> {
    let [high, low] = words.map(u64::to_ne_bytes);
    match family {
        AF_INET => Some(IpAddr::V4(Ipv4Addr::new(high[0], high[1], high[2], high[3]))),
        AF_INET6 => {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&high);
            bytes[8..].copy_from_slice(&low);
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// The original and the reply flow of an event that has an entry. For an outcome the second is None: there the
/// record holds the token's tuple, see [`token_evidence`].
#[must_use]
pub fn flows(event: &Event) -> (Option<Flow>, Option<Flow>) {
    let has_reply = event.flags & FLAG_REPLY != 0 && !kind(event).is_some_and(EventKind::is_outcome);
    (Flow::from_tuple(&event.orig), has_reply.then(|| Flow::from_tuple(&event.reply)).flatten())
}

/// The token an outcome's record was matched with. None for other records, and where the token is later than the
/// outcome.
#[must_use]
pub fn token_evidence(event: &Event) -> Option<TokenEvidence> {
    let outcome = kind(event).filter(|kind| kind.is_outcome() && event.token_ktime_ns != 0)?;
    Some(TokenEvidence {
        kind: EventKind::from_raw(event.token_kind),
        age: Duration::from_nanos(event.ktime_ns.checked_sub(event.token_ktime_ns)?),
        netns: event.token_netns,
        orig: (event.flags & FLAG_REPLY != 0).then(|| Flow::from_tuple(&event.reply)).flatten(),
        nat: event.flags & FLAG_NAT != 0,
        refusals: (!outcome.is_reset()).then_some(event.status),
    })
}

fn kind(event: &Event) -> Option<EventKind> {
    EventKind::from_raw(event.kind)
}

/// Where `CLOCK_MONOTONIC` lies on the calendar. Take a new one now and then: the calendar is set, and slewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// Time of day at which `CLOCK_MONOTONIC` was zero.
    zero: SystemTime,
}

impl ClockOffset {
    /// From one reading of both clocks, `CLOCK_MONOTONIC` since its zero. None where the calendar is so far
    /// off that its zero cannot be told.
    #[must_use]
    pub fn new(monotonic: Duration, realtime: SystemTime) -> Option<Self> {
        realtime.checked_sub(monotonic).map(|zero| Self { zero })
    }

    /// The time of day of a `CLOCK_MONOTONIC` time stamp in nanoseconds.
    #[must_use]
    pub fn time_of(&self, ktime_ns: u64) -> SystemTime {
        // u64 nanoseconds are 585 years: the sum is a time.
        self.zero + Duration::from_nanos(ktime_ns)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tuple of two addresses of the same family.
    pub(crate) fn tuple(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
        let words = |address: IpAddr| {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes = v6.octets(),
            }
            [
                u64::from_ne_bytes(bytes[..8].try_into().unwrap()),
                u64::from_ne_bytes(bytes[8..].try_into().unwrap()),
            ]
        };
        let src: IpAddr = src.parse().unwrap();
        let l3num = if src.is_ipv4() { AF_INET } else { AF_INET6 };
        Tuple {
            saddr: words(src),
            daddr: words(dst.parse().unwrap()),
            sport,
            dport,
            l3num,
            protonum: 6,
            pad: 0,
        }
    }

    #[test]
    fn both_families() {
        let flow = Flow::from_tuple(&tuple("10.1.2.3", 40000, "192.0.2.9", 443)).unwrap();
        assert_eq!((flow.src.to_string().as_str(), flow.sport), ("10.1.2.3", 40000));
        assert_eq!((flow.dst.to_string().as_str(), flow.dport, flow.protonum), ("192.0.2.9", 443, 6));
        let flow = Flow::from_tuple(&tuple("2001:db8::1:2", 1, "fd00:1:2:3:4:5:6:7", 2)).unwrap();
        assert_eq!(flow.src.to_string(), "2001:db8::1:2");
        assert_eq!(flow.dst.to_string(), "fd00:1:2:3:4:5:6:7");
    }

    #[test]
    fn other_families_are_none() {
        assert_eq!(Flow::from_tuple(&Tuple::default()), None);
        assert_eq!(Flow::from_tuple(&Tuple { l3num: 17, ..Tuple::default() }), None);
    }

    #[test]
    fn the_reply_of_a_reset_is_the_tokens() {
        let mut event = Event {
            ktime_ns: 30,
            kind: EventKind::EvictedGc as u32,
            flags: FLAG_REPLY | FLAG_NAT,
            netns: 1,
            ifindex: 0,
            cgroup_id: 0,
            status: 0,
            token_netns: 2,
            token_ktime_ns: 10,
            token_kind: EventKind::EvictedEarlyDrop as u32,
            suppressed: 0,
            orig: tuple("10.0.0.1", 1, "10.0.0.2", 2),
            reply: tuple("10.0.0.3", 3, "10.0.0.4", 4),
            account: 0,
            responder: 0,
        };
        let reply = Flow::from_tuple(&event.reply);
        assert_eq!(flows(&event), (Flow::from_tuple(&event.orig), reply));
        assert_eq!(token_evidence(&event), None);
        event.kind = EventKind::ResetSent as u32;
        assert_eq!(flows(&event).1, None);
        let token = token_evidence(&event).unwrap();
        assert_eq!((token.orig, token.netns, token.nat), (reply, 2, true));
        assert_eq!((token.kind, token.age), (Some(EventKind::EvictedEarlyDrop), Duration::from_nanos(20)));
        event.flags = 0;
        assert_eq!(token_evidence(&event).unwrap().orig, None);
        event.kind = EventKind::RefusedTableFull as u32;
        assert_eq!(flows(&event), (Flow::from_tuple(&event.orig), None));
    }

    #[test]
    fn monotonic_to_calendar() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let clock = ClockOffset::new(Duration::from_secs(100), now).unwrap();
        assert_eq!(clock.time_of(100_000_000_000), now);
        assert_eq!(clock.time_of(99_999_999_999), now - Duration::from_nanos(1));
        assert_eq!(clock.time_of(101_000_000_000), now + Duration::from_secs(1));
        assert!(clock.time_of(u64::MAX) > now);
        // A board without a clock battery starts at the epoch.
        assert!(ClockOffset::new(Duration::from_secs(100), SystemTime::UNIX_EPOCH).is_some());
    }
}

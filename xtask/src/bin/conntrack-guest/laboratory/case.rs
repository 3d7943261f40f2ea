//! One case: one connection, what it was begun as, and what its own socket said in the end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::ensure;

use super::draw::Draw;
use crate::lab::attempt::Fate;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Whose table a case's packets meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// The node's own: at the limit, nothing in it can be evicted.
    Full,
    /// It has room.
    Roomy,
    /// At the limit, and what is in it can be evicted.
    Evicting,
}

/// What a case is begun as. What it is, the capture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ByKernel,
    ByApplication,
    Late,
    Stall,
    Datagram,
    Lookup,
    Evicted,
    Invalid,
    RacedDatagram,
    RacedLookup,
    RacedConnect,
    Aborted,
    ClosedPort,
    LostSyn,
    LostData,
    ServerCloses,
    Overloaded,
    Swallowed,
    RejectedByReset,
    RejectedByIcmp,
    DroppedBefore,
    DroppedAfter,
    AbortedInFull,
    Reused,
    Deleted,
    InvalidDropped,
    EvictedForNothing,
    EvictedUntranslated,
    RaceResolved,
}

/// What the table is to do.
pub(super) const TRUE: [Kind; 11] = [
    Kind::ByKernel,
    Kind::ByApplication,
    Kind::Late,
    Kind::Stall,
    Kind::Datagram,
    Kind::Lookup,
    Kind::Evicted,
    Kind::Invalid,
    Kind::RacedDatagram,
    Kind::RacedLookup,
    Kind::RacedConnect,
];

/// Look-alikes that are made at the table with room, and untracked through the full one.
pub(super) const ANYWHERE: [Kind; 11] = [
    Kind::Aborted,
    Kind::ClosedPort,
    Kind::LostSyn,
    Kind::LostData,
    Kind::ServerCloses,
    Kind::Overloaded,
    Kind::Swallowed,
    Kind::RejectedByReset,
    Kind::RejectedByIcmp,
    Kind::DroppedBefore,
    Kind::DroppedAfter,
];

/// Look-alikes that are made at one place only.
pub(super) const ELSEWHERE: [Kind; 7] = [
    Kind::AbortedInFull,
    Kind::Reused,
    Kind::Deleted,
    Kind::InvalidDropped,
    Kind::EvictedForNothing,
    Kind::EvictedUntranslated,
    Kind::RaceResolved,
];

impl Kind {
    /// Of what the table is to do: cause and effect, as [`super::told`] has them. Of a look-alike, what it is.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ByKernel => "table_full connect_timeout by kernel",
            Self::ByApplication => "table_full connect_timeout by application",
            Self::Late => "table_full slow_connect",
            Self::Stall => "table_full stall",
            Self::Datagram => "table_full udp_refused",
            Self::Lookup => "table_full dns_stall",
            Self::Evicted => "evicted reset",
            Self::Invalid => "invalid reset",
            Self::RacedDatagram => "race udp_refused",
            Self::RacedLookup => "race dns_stall",
            Self::RacedConnect => "race slow_connect",
            Self::Aborted => "SO_LINGER 0",
            Self::ClosedPort => "closed port",
            Self::LostSyn => "first SYN lost beyond the router",
            Self::LostData => "first data lost beyond the router",
            Self::ServerCloses => "server closes with data unread",
            Self::Overloaded => "overloaded listener",
            Self::Swallowed => "address that swallows all",
            Self::RejectedByReset => "REJECT with a reset",
            Self::RejectedByIcmp => "REJECT with ICMP",
            Self::DroppedBefore => "rule drops before conntrack",
            Self::DroppedAfter => "rule drops after conntrack",
            Self::AbortedInFull => "SO_LINGER 0 in the full table",
            Self::Reused => "tuple refused before, now let in",
            Self::Deleted => "conntrack -D, then a reset",
            Self::InvalidDropped => "rule drops an INVALID packet, then SO_LINGER 0",
            Self::EvictedForNothing => "evicted, made anew, then SO_LINGER 0",
            Self::EvictedUntranslated => "evicted, of no translation, then SO_LINGER 0",
            Self::RaceResolved => "race that the kernel resolves",
        }
    }

    pub(super) fn is_control(self) -> bool {
        !TRUE.contains(&self)
    }

    /// Does a rule drop or reject its packets, so that not to pass is none of the table's doing?
    pub(super) const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::RejectedByReset | Self::RejectedByIcmp | Self::DroppedBefore | Self::DroppedAfter
        )
    }

    /// The port that it goes to: [`ANYWHERE`] those of [`PLAIN`] on.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Datagram => 500,
            Self::Lookup | Self::RacedLookup => 53,
            Self::RacedDatagram | Self::RaceResolved => 530,
            Self::RacedConnect => 531,
            Self::AbortedInFull => 8081,
            Self::Deleted => 91,
            Self::InvalidDropped => 92,
            Self::EvictedUntranslated => UNTRANSLATED,
            Self::Aborted => PLAIN + 1,
            Self::ClosedPort => PLAIN + 2,
            Self::LostSyn | Self::EvictedForNothing => PLAIN + 3,
            Self::LostData => PLAIN + 4,
            Self::ServerCloses => PLAIN + 5,
            Self::Overloaded => PLAIN + 6,
            Self::Swallowed => PLAIN + 7,
            Self::RejectedByReset => PLAIN + 8,
            Self::RejectedByIcmp => PLAIN + 9,
            Self::DroppedBefore => PLAIN + 10,
            Self::DroppedAfter => PLAIN + 11,
            _ => 80,
        }
    }
}

/// Ports from here on, a hundred, are never tracked at the full table.
pub(super) const PLAIN: u16 = 100;

/// Connections to this port keep their addresses.
pub(super) const UNTRANSLATED: u16 = 95;

/// What its own socket said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) fate: Fate,
    /// All that was sent was acknowledged.
    pub(super) delivered: bool,
}

/// A connection.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) kind: Kind,
    pub(super) table: Table,
    pub(super) proto: u8,
    /// As its socket has it. No other case has this address and port.
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Whose it is.
    pub(super) pod: String,
    pub(super) said: Said,
}

/// A pod's address and name, to make cases of.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) pod: String,
    pub(super) table: Table,
    pub(super) addresses: [std::net::IpAddr; 2],
}

impl Maker {
    /// A case from a port that none had before, to one of these addresses.
    pub(super) fn case(
        &self,
        draw: &mut Draw,
        kind: Kind,
        to: [std::net::IpAddr; 2],
    ) -> anyhow::Result<Case> {
        let family = draw.below(2);
        Ok(self.case_from(next_port()?, family, kind, to))
    }

    /// A case from this port.
    pub(super) fn case_from(&self, port: u16, family: usize, kind: Kind, to: [std::net::IpAddr; 2]) -> Case {
        let proto = match kind {
            Kind::Datagram | Kind::Lookup | Kind::RacedDatagram | Kind::RacedLookup | Kind::RaceResolved => {
                UDP
            }
            _ => TCP,
        };
        Case {
            kind,
            table: self.table,
            proto,
            from: SocketAddr::new(self.addresses[family], port),
            to: SocketAddr::new(to[family], kind.port()),
            pod: self.pod.clone(),
            said: Said { fate: Fate::UnderWay, delivered: false },
        }
    }
}

static NEXT: AtomicU16 = AtomicU16::new(10_000);

/// A port for both ends of a race, or for one case.
pub(super) fn next_port() -> anyhow::Result<u16> {
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    ensure!((10_000..65_000).contains(&port), "more cases than ports");
    Ok(port)
}

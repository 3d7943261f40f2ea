//! What became of each case, by what was on the wires and what its own socket said: never by what it was begun as.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::case::{Case, Kind, TCP, Table, UDP};
use super::roomy::AHEAD;
use super::wire::Packet;
use crate::lab::attempt::Fate;

const FIN_SYN_RST: u8 = 7;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// By what a packet is known again beyond the router, whatever was translated.
type Identity = (u8, u8, u64, usize, u16);

const fn identity(packet: &Packet) -> Identity {
    (packet.proto, packet.flags, packet.number, packet.length, packet.to.port())
}

/// What was on the wires of a router.
#[derive(Debug)]
pub(super) struct Wires {
    packets: Vec<Packet>,
    /// Of each pod's end, its packets on the pod's side.
    near: HashMap<(u8, SocketAddr), Vec<usize>>,
    /// Of each packet, when it left on the other side.
    passed: HashMap<Identity, Vec<usize>>,
    /// Resets that left on the other side, by the port they came from.
    resets: HashMap<u16, Vec<usize>>,
}

impl Wires {
    /// Sorts what was captured; `near` are the devices that lead to pods.
    pub(super) fn new(packets: Vec<Packet>, (near, far): &(Vec<i32>, i32)) -> Self {
        let mut wires = Self {
            packets: Vec::new(),
            near: HashMap::new(),
            passed: HashMap::new(),
            resets: HashMap::new(),
        };
        for (index, packet) in packets.iter().enumerate() {
            if packet.device == *far && packet.leaves {
                wires.passed.entry(identity(packet)).or_default().push(index);
                if packet.flags & RST != 0 && packet.proto == TCP {
                    wires.resets.entry(packet.from.port()).or_default().push(index);
                }
            } else if near.contains(&packet.device) {
                let end = if packet.leaves { packet.to } else { packet.from };
                wires.near.entry((packet.proto, end)).or_default().push(index);
            }
        }
        wires.packets = packets;
        wires
    }

    /// How many packets were captured.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// What the pod's end sent, and whether it left on the other side.
    fn sent(&self, case: &Case) -> Vec<(&Packet, bool)> {
        let mut sent: Vec<(&Packet, bool)> = Vec::new();
        let indices = self.near.get(&(case.proto, case.from)).map_or(&[][..], Vec::as_slice);
        let own: Vec<usize> = indices.iter().copied().filter(|index| !self.packets[*index].leaves).collect();
        for (nth, index) in own.iter().enumerate() {
            let packet = &self.packets[*index];
            // Its repetition is another packet.
            let same = |later: &&usize| identity(&self.packets[**later]) == identity(packet);
            let until = own[nth + 1..].iter().find(same).copied().unwrap_or(usize::MAX);
            let passed = self.passed.get(&identity(packet));
            let passed = passed.is_some_and(|at| at.iter().any(|at| (*index..until).contains(at)));
            sent.push((packet, passed));
        }
        sent
    }

    /// Has the router reset the server, in the place of a connection that it had masqueraded?
    fn reset_by_router(&self, case: &Case, sent: &[(&Packet, bool)]) -> bool {
        let by_router = |index: &usize| {
            let reset = &self.packets[*index];
            let is_forwarded = || sent.iter().any(|(packet, _)| identity(packet) == identity(reset));
            reset.to == case.to && reset.from.ip() != case.from.ip() && !is_forwarded()
        };
        self.resets.get(&case.from.port()).is_some_and(|resets| resets.iter().any(by_router))
    }

    /// The last packet before this reset that came to the pod from whom it answers, and the last number that came from
    /// whom the pod had called.
    fn answered(&self, case: &Case, reset: &Packet) -> Option<(u64, Option<u64>)> {
        let mut of = (None, None);
        for index in self.near.get(&(case.proto, case.from))? {
            let packet = &self.packets[*index];
            if packet.leaves && packet.from == reset.to {
                of.0 = Some(packet.number);
            } else if packet.leaves && packet.from == case.to {
                of.1 = Some(packet.number);
            } else if std::ptr::eq(packet, reset) {
                break;
            }
        }
        Some((of.0?, of.1))
    }
}

/// Cause and effect, as [`Kind::name`] has them. None: the table did nothing to it.
pub(super) fn came_of(case: &Case, wires: &Wires) -> Option<&'static str> {
    if case.kind.is_policy() {
        return None;
    }
    let sent = wires.sent(case);
    if case.proto == UDP {
        return sent.iter().any(|(_, passed)| !passed).then(|| datagram(case));
    }
    if let Some(reset) = untranslated(case, wires, &sent) {
        return reset;
    }
    // Elsewhere entries are only ever deleted, and both ends of a race have one port.
    if case.table == Table::Evicting && wires.reset_by_router(case, &sent) {
        return Some(Kind::Evicted.name());
    }
    // A later connection of the same ends has another initial number.
    let syns: Vec<_> = sent.iter().filter(|(packet, _)| packet.flags & (SYN | ACK) == SYN).collect();
    let number = match case.kind {
        Kind::Reused => syns.last(),
        _ => syns.first(),
    };
    let number = number.map(|(packet, _)| packet.number);
    let syns: Vec<bool> =
        syns.iter().filter(|(packet, _)| Some(packet.number) == number).map(|(_, passed)| *passed).collect();
    let (first, any) = (syns.first().copied().unwrap_or(true), syns.contains(&true));
    match case.said.fate {
        Fate::Failed(libc::ETIMEDOUT) if !any && !syns.is_empty() => Some(given_up(case.table, true)),
        Fate::UnderWay if !any && !syns.is_empty() => Some(given_up(case.table, false)),
        Fate::Connected if !first => Some(late(case.table)),
        Fate::Connected if case.said.delivered => {
            let lost = sent
                .iter()
                .any(|(packet, passed)| packet.length > 0 && packet.flags & FIN_SYN_RST == 0 && !passed);
            lost.then_some(Kind::Stall.name())
        }
        _ => None,
    }
}

/// Has the pod reset somebody whom it had not called? Then whether that was the table's doing.
fn untranslated(case: &Case, wires: &Wires, sent: &[(&Packet, bool)]) -> Option<Option<&'static str>> {
    let (reset, _) = sent.iter().find(|(packet, _)| packet.flags & RST != 0 && packet.to != case.to)?;
    let (answered, called) = wires.answered(case, reset)?;
    let ahead = called.map_or(0, |called| (answered as u32).wrapping_sub(called as u32));
    let is_invalid = (AHEAD / 2..AHEAD * 2).contains(&ahead);
    Some(match case.table {
        _ if is_invalid => Some(Kind::Invalid.name()),
        Table::Evicting => Some(Kind::Evicted.name()),
        // Nothing is evicted there: the kernel's own statistic is held against that.
        Table::Full | Table::Roomy => None,
    })
}

fn datagram(case: &Case) -> &'static str {
    let is_lookup = case.to.port() == Kind::Lookup.port();
    match (case.table, is_lookup) {
        (Table::Roomy, true) => Kind::RacedLookup,
        (Table::Roomy, false) => Kind::RacedDatagram,
        (_, true) => Kind::Lookup,
        (_, false) => Kind::Datagram,
    }
    .name()
}

const fn given_up(table: Table, by_kernel: bool) -> &'static str {
    match (table, by_kernel) {
        (Table::Roomy, true) => "race connect_timeout by kernel",
        (Table::Roomy, false) => "race connect_timeout by application",
        (_, true) => Kind::ByKernel.name(),
        (_, false) => Kind::ByApplication.name(),
    }
}

const fn late(table: Table) -> &'static str {
    match table {
        Table::Roomy => Kind::RacedConnect.name(),
        Table::Full | Table::Evicting => Kind::Late.name(),
    }
}

//! A connection's addresses, as one direction sees them.

/// One direction of a connection.
///
/// Addresses are in network order; an IPv4 address is the first four bytes, the rest zero. `sport` and
/// `dport` are in **host** order; for ICMP they are the echo id and `type << 8 | code`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Tuple {
    /// Source address.
    pub saddr: [u64; 2],
    /// Destination address.
    pub daddr: [u64; 2],
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub l3num: u8,
    /// IP protocol.
    pub protonum: u8,
    /// Always zero: the struct is hashed as bytes.
    pub pad: u16,
}

/// A tuple with its two ends in a fixed order: both directions of one connection give the same key.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FlowKey(pub Tuple);

impl Tuple {
    /// The key that this tuple and its inverse share.
    #[inline(always)]
    #[must_use]
    pub fn flow_key(&self) -> FlowKey {
        let forward = self.saddr[0] < self.daddr[0]
            || (self.saddr[0] == self.daddr[0]
                && (self.saddr[1] < self.daddr[1]
                    || (self.saddr[1] == self.daddr[1] && self.sport <= self.dport)));
        if forward {
            FlowKey(*self)
        } else {
            FlowKey(Tuple {
                saddr: self.daddr,
                daddr: self.saddr,
                sport: self.dport,
                dport: self.sport,
                ..*self
            })
        }
    }
}

const _: () = assert!(size_of::<Tuple>() == 40);

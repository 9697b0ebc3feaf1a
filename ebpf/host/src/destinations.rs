//! Whom a slot talks to over TCP, as a caller reads it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Add, AddAssign, Sub};

use tenantry_abi as abi;

use crate::Slot;

/// Who began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Outgoing,
    Incoming,
}

/// Of an outgoing connection the remote address and port; of incoming ones the clients'
/// network, /24 or /64, and the own port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    pub direction: Direction,
    pub address: IpAddr,
    pub port: u16,
}

/// Exact when a connection has closed. Of an open one, bytes are added once in each round
/// trip and, where it only receives, every 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationCounters {
    /// Established ones.
    pub connections: u64,
    /// Connections and attempts that ended with an error, and attempts given up.
    pub failures: u64,
    /// Payload, each byte once however often it was sent.
    pub sent_bytes: u64,
    /// Payload.
    pub received_bytes: u64,
}

impl Direction {
    pub const ALL: [Direction; 2] = [Direction::Outgoing, Direction::Incoming];

    pub fn name(self) -> &'static str {
        match self {
            Direction::Outgoing => "outgoing",
            Direction::Incoming => "incoming",
        }
    }
}

impl Destination {
    /// The address, or the network with its length.
    pub fn address_text(&self) -> String {
        match (self.direction, self.address) {
            (Direction::Outgoing, address) => address.to_string(),
            (Direction::Incoming, IpAddr::V4(network)) => format!("{network}/24"),
            (Direction::Incoming, IpAddr::V6(network)) => format!("{network}/64"),
        }
    }
}

impl DestinationCounters {
    pub fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            connections: f(self.connections, other.connections),
            failures: f(self.failures, other.failures),
            sent_bytes: f(self.sent_bytes, other.sent_bytes),
            received_bytes: f(self.received_bytes, other.received_bytes),
        }
    }
}

impl Add for DestinationCounters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }
}

impl AddAssign for DestinationCounters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Never below zero.
impl Sub for DestinationCounters {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }
}

pub(crate) fn destination(key: &abi::DestinationKey) -> (Slot, Destination) {
    // The words are in network order: their bytes in memory are the address's.
    let mut bytes = [0; 16];
    for (four, word) in bytes.chunks_exact_mut(4).zip(key.address) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    let address = match key.family {
        4 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
        _ => IpAddr::V6(Ipv6Addr::from(bytes)),
    };
    let direction = match key.direction {
        abi::OUTGOING => Direction::Outgoing,
        _ => Direction::Incoming,
    };
    (key.slot, Destination { direction, address, port: key.port })
}

pub(crate) fn counters(raw: &abi::Destination) -> DestinationCounters {
    DestinationCounters {
        connections: raw.connections,
        failures: raw.failures,
        sent_bytes: raw.sent_bytes,
        received_bytes: raw.received_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_addresses_and_networks() {
        let check = |direction, family, first: [u8; 4], expected: &str| {
            let mut address = [0; 4];
            address[0] = u32::from_ne_bytes(first);
            let key = abi::DestinationKey { slot: 3, port: 443, direction, family, address };
            let (slot, destination) = destination(&key);
            assert_eq!((slot, destination.port), (3, 443));
            assert_eq!(destination.address_text(), expected);
        };
        check(abi::OUTGOING, 4, [10, 1, 2, 3], "10.1.2.3");
        check(abi::INCOMING, 4, [10, 1, 2, 0], "10.1.2.0/24");
        check(abi::OUTGOING, 6, [0x20, 1, 0xd, 0xb8], "2001:db8::");
        check(abi::INCOMING, 6, [0x20, 1, 0xd, 0xb8], "2001:db8::/64");
    }
}

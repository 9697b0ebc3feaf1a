//! IPv6 subnets as values. Pure.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv6 network, `fd00:5::/64`: no host bits set. In serde the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6Subnet {
    network: u128,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Subnet6Error {
    #[error("subnet {0:?}: expected ADDRESS/PREFIX, for example fd00:5::/64")]
    Syntax(String),
    #[error("subnet {text:?}: host bits are set; the network is {network}")]
    HostBits { text: String, network: Ipv6Subnet },
}

impl Ipv6Subnet {
    /// The network that `address` lies in. `None` if `prefix` is above 128.
    pub fn containing(address: Ipv6Addr, prefix: u8) -> Option<Ipv6Subnet> {
        (prefix <= 128).then(|| Ipv6Subnet { network: u128::from(address) & mask(prefix), prefix })
    }

    /// Of an address space that is nobody's (RFC 4193): 40 bits for the site and 16 for the
    /// network, drawn, so that two hosts' networks may meet one day.
    pub fn unique_local(drawn: [u8; 7]) -> Ipv6Subnet {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..8].copy_from_slice(&drawn);
        Ipv6Subnet { network: u128::from_be_bytes(octets), prefix: 64 }
    }

    pub fn network(&self) -> Ipv6Addr {
        self.network.into()
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn last(&self) -> Ipv6Addr {
        (self.network | !mask(self.prefix)).into()
    }

    /// The first host address, `::1`: the bridge's own.
    pub fn gateway(&self) -> Ipv6Addr {
        (self.network | 1).into()
    }

    pub fn contains(&self, address: Ipv6Addr) -> bool {
        u128::from(address) & mask(self.prefix) == self.network
    }

    /// Not the network's own address, which is every router's there (RFC 4291, 2.6.1).
    pub fn is_host(&self, address: Ipv6Addr) -> bool {
        self.contains(address) && address != self.network()
    }

    pub fn overlaps(&self, other: &Ipv6Subnet) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.network & shorter == other.network & shorter
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Ipv6Subnet {
    type Err = Subnet6Error;

    fn from_str(text: &str) -> Result<Ipv6Subnet, Subnet6Error> {
        let syntax = || Subnet6Error::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv6Addr = address.parse().map_err(|_| syntax())?;
        // `u8::from_str` takes "+8"; a network written so is a slip.
        if prefix.len() > 3 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        let network = Ipv6Subnet::containing(address, prefix).ok_or_else(syntax)?;
        if network.network() != address {
            return Err(Subnet6Error::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl Serialize for Ipv6Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv6Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_subnet_is_written_as_it_was_read_and_slips_are_refused() {
        for text in ["fd00:5::/64", "::/0", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Ipv6Subnet>().unwrap().to_string(), text);
        }
        for text in ["", "fd00::", "fd00::/129", "fd00::/+8", "10.0.0.0/8", "fd00::/0064"] {
            assert_eq!(text.parse::<Ipv6Subnet>(), Err(Subnet6Error::Syntax(text.into())));
        }
        assert_eq!(
            "fd00::1/64".parse::<Ipv6Subnet>().unwrap_err().to_string(),
            "subnet \"fd00::1/64\": host bits are set; the network is fd00::/64"
        );
    }

    #[test]
    fn a_drawn_subnet_is_of_the_local_space() {
        let drawn = Ipv6Subnet::unique_local([1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(drawn.to_string(), "fd01:203:405:607::/64");
        assert_eq!(drawn.gateway().to_string(), "fd01:203:405:607::1");
    }

    proptest! {
        #[test]
        fn parse_undoes_render_and_overlap_is_containment(
            a: u128, b: u128, pa in 0u8..=128, pb in 0u8..=128
        ) {
            let a = Ipv6Subnet::containing(a.into(), pa).unwrap();
            let b = Ipv6Subnet::containing(b.into(), pb).unwrap();
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert!(a.contains(a.last()));
            prop_assert_eq!(a.overlaps(&b), a.contains(b.network()) || b.contains(a.network()));
        }
    }
}

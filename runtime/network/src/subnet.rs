//! IPv4 subnets as values, and the choice of one that the host does not use.
//!
//! Pure: reads no address and no route; [`crate::pick_subnet`] does and asks
//! [`choose_subnet`] here.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 network, `10.213.0.0/16`: no host bits set. In serde the same text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Subnet {
    network: u32,
    prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("subnet {0:?}: expected ADDRESS/PREFIX, for example 10.213.0.0/16")]
    Syntax(String),
    #[error("subnet {text:?}: host bits are set; the network is {network}")]
    HostBits { text: String, network: Ipv4Subnet },
}

impl Ipv4Subnet {
    /// The network that `address` lies in. `None` if `prefix` is above 32.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Subnet> {
        (prefix <= 32).then(|| Ipv4Subnet { network: u32::from(address) & mask(prefix), prefix })
    }

    pub fn network(&self) -> Ipv4Addr {
        self.network.into()
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn broadcast(&self) -> Ipv4Addr {
        (self.network | !mask(self.prefix)).into()
    }

    /// The first host address, `.1`: the bridge's own.
    pub fn gateway(&self) -> Ipv4Addr {
        (self.network | 1).into()
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.network
    }

    /// Neither the network's own address nor the broadcast address.
    pub fn is_host(&self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network() && address != self.broadcast()
    }

    pub fn overlaps(&self, other: &Ipv4Subnet) -> bool {
        let shorter = mask(self.prefix.min(other.prefix));
        self.network & shorter == other.network & shorter
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Ipv4Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Ipv4Subnet, SubnetError> {
        let syntax = || SubnetError::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        // `u8::from_str` takes "+8" and "08"; a network written so is a slip.
        if prefix.len() > 2 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let prefix: u8 = prefix.parse().map_err(|_| syntax())?;
        let network = Ipv4Subnet::containing(address, prefix).ok_or_else(syntax)?;
        if network.network() != address {
            return Err(SubnetError::HostBits { text: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl Serialize for Ipv4Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The first candidate that overlaps nothing in `taken` (the host's addresses
/// and routes, without the default route). `None`: all of them do; the operator
/// must name one.
pub fn choose_subnet(candidates: &[Ipv4Subnet], taken: &[Ipv4Subnet]) -> Option<Ipv4Subnet> {
    candidates.iter().find(|c| !taken.iter().any(|t| t.overlaps(c))).copied()
}

/// Where to look, in order: 10.213/16 to 10.232/16, then /24s of 172.31 and of
/// 192.168, for hosts whose routes cover all of 10/8.
pub fn default_candidates() -> Vec<Ipv4Subnet> {
    let of = |a, b, c, prefix| Ipv4Subnet { network: Ipv4Addr::new(a, b, c, 0).into(), prefix };
    (213..=232)
        .map(|b| of(10, b, 0, 16))
        .chain((100..=119).map(|c| of(172, 31, c, 24)))
        .chain((200..=219).map(|c| of(192, 168, c, 24)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Ipv4Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_as_it_was_read_and_slips_are_refused() {
        for text in ["10.213.0.0/16", "0.0.0.0/0", "192.168.7.0/24", "1.2.3.4/32"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for text in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/008", "x/8"]
        {
            assert_eq!(text.parse::<Ipv4Subnet>(), Err(SubnetError::Syntax(text.into())));
        }
        assert_eq!(
            "10.213.0.1/16".parse::<Ipv4Subnet>().unwrap_err().to_string(),
            "subnet \"10.213.0.1/16\": host bits are set; the network is 10.213.0.0/16"
        );
    }

    #[test]
    fn the_first_subnet_that_overlaps_nothing_is_chosen() {
        let candidates = ["10.1.0.0/16", "10.2.0.0/16", "192.168.9.0/24"].map(subnet);
        #[track_caller]
        fn check(candidates: &[Ipv4Subnet], taken: &[&str], expected: Option<&str>) {
            let taken: Vec<_> = taken.iter().map(|t| subnet(t)).collect();
            assert_eq!(choose_subnet(candidates, &taken), expected.map(subnet));
        }
        check(&candidates, &[], Some("10.1.0.0/16"));
        check(&candidates, &["172.16.0.0/12"], Some("10.1.0.0/16"));
        check(&candidates, &["10.1.7.0/24"], Some("10.2.0.0/16"));
        check(&candidates, &["10.0.0.0/8"], Some("192.168.9.0/24"));
        check(&candidates, &["10.1.0.1/32", "10.2.255.255/32"], Some("192.168.9.0/24"));
        check(&candidates, &["0.0.0.0/0"], None);
        check(&candidates, &["10.0.0.0/8", "192.168.0.0/16"], None);
    }

    #[test]
    fn default_candidates_are_disjoint() {
        let all = default_candidates();
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| !a.overlaps(b)), "{a}");
        }
    }

    proptest! {
        #[test]
        fn parse_undoes_render(address: u32, prefix in 0u8..=32) {
            let subnet = Ipv4Subnet::containing(address.into(), prefix).unwrap();
            prop_assert_eq!(subnet.to_string().parse(), Ok(subnet));
            prop_assert!(subnet.contains(address.into()));
            prop_assert!(subnet.contains(subnet.broadcast()));
        }

        #[test]
        fn two_subnets_overlap_when_one_holds_the_others_network(
            a: u32, b: u32, pa in 0u8..=32, pb in 0u8..=32
        ) {
            let a = Ipv4Subnet::containing(a.into(), pa).unwrap();
            let b = Ipv4Subnet::containing(b.into(), pb).unwrap();
            prop_assert_eq!(a.overlaps(&b), a.contains(b.network()) || b.contains(a.network()));
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        }

        #[test]
        fn what_is_chosen_is_a_candidate_and_free(
            candidates in prop::collection::vec((any::<u32>(), 8u8..=24), 0..8),
            taken in prop::collection::vec((any::<u32>(), 1u8..=32), 0..8),
        ) {
            let make = |v: Vec<(u32, u8)>| -> Vec<_> {
                v.into_iter().filter_map(|(a, p)| Ipv4Subnet::containing(a.into(), p)).collect()
            };
            let (candidates, taken) = (make(candidates), make(taken));
            match choose_subnet(&candidates, &taken) {
                Some(s) => {
                    prop_assert!(candidates.contains(&s));
                    prop_assert!(!taken.iter().any(|t| t.overlaps(&s)));
                }
                None => prop_assert!(
                    candidates.iter().all(|c| taken.iter().any(|t| t.overlaps(c)))
                ),
            }
        }
    }
}

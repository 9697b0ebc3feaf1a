//! Who has which address of the bridge's subnet.
//!
//! Pure bookkeeping in memory: after an agent's restart the engine tells it
//! again what is taken ([`crate::Network::adopt`]).

use std::collections::{HashSet, VecDeque};
use std::net::Ipv4Addr;

use crate::error::{Error, Result};
use crate::subnet::Ipv4Subnet;

/// Addresses go out in ascending order; a released one goes out again only when
/// no fresh one is left, and then the longest-released first: peers' ARP caches
/// and connection tracking have forgotten it by then. Never given out: the
/// network's address, the gateway's and the broadcast address.
#[derive(Debug)]
pub struct Ipam {
    subnet: Ipv4Subnet,
    gateway: u32,
    /// The last address that is given out unasked.
    last: u32,
    first: u32,
    taken: HashSet<u32>,
    /// Every address from `first` on and below that is usable is in `taken` or in `released`.
    fresh: u32,
    /// Oldest first; disjoint from `taken`.
    released: VecDeque<u32>,
    /// The network goes: no address is given out any more.
    closed: bool,
}

impl Ipam {
    /// The gateway has the first address, and all others are given out.
    pub fn new(subnet: Ipv4Subnet) -> Ipam {
        Ipam::shaped(subnet, subnet.gateway(), None)
    }

    /// Only addresses of `range` go out unasked.
    pub fn shaped(subnet: Ipv4Subnet, gateway: Ipv4Addr, range: Option<Ipv4Subnet>) -> Ipam {
        let (network, broadcast) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
        let (mut first, mut last) = (network.saturating_add(1), broadcast.saturating_sub(1));
        if let Some(range) = range {
            first = first.max(range.network().into());
            last = last.min(range.broadcast().into());
        }
        let (taken, released) = (HashSet::new(), VecDeque::new());
        let gateway = gateway.into();
        Ipam { subnet, gateway, first, last, taken, fresh: first, released, closed: false }
    }

    /// How many containers can have an address at once without asking for a certain one.
    pub fn capacity(&self) -> u64 {
        let all = (u64::from(self.last) + 1).saturating_sub(self.first.into());
        all - u64::from(all > 0 && (self.first..=self.last).contains(&self.gateway))
    }

    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// True if nobody has an address: then nobody gets one any more.
    pub fn close_if_unused(&mut self) -> bool {
        self.closed |= self.taken.is_empty();
        self.closed
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`Error::Exhausted`]: all are taken; a container must go first. [`Error::Closed`].
    pub fn take_next(&mut self) -> Result<Ipv4Addr> {
        self.check_open()?;
        while self.fresh <= self.last {
            let address = self.fresh;
            self.fresh += 1;
            // Taken by name, or given back after that: then it waits its turn.
            let is_free = !self.taken.contains(&address) && !self.released.contains(&address);
            if address != self.gateway && is_free {
                self.taken.insert(address);
                return Ok(address.into());
            }
        }
        let (subnet, capacity) = (self.subnet.to_string(), self.capacity());
        let exhausted = Error::Exhausted { subnet, capacity };
        let address = self.released.pop_front().ok_or(exhausted)?;
        self.taken.insert(address);
        Ok(address.into())
    }

    /// This address and no other.
    ///
    /// # Errors
    /// [`Error::AddressOutside`] for one that no container of this subnet may
    /// have, [`Error::AddressTaken`] for one that another has. [`Error::Closed`].
    pub fn take(&mut self, address: Ipv4Addr) -> Result<()> {
        self.check_open()?;
        let number = u32::from(address);
        if number == self.gateway || !self.subnet.is_host(address) {
            let subnet = self.subnet.to_string();
            return Err(Error::AddressOutside { address: address.into(), subnet });
        }
        if !self.taken.insert(number) {
            return Err(Error::AddressTaken { address: address.into() });
        }
        self.released.retain(|r| *r != number);
        Ok(())
    }

    /// False if it was not taken.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        let was_taken = self.taken.remove(&number);
        if was_taken && (self.first..=self.last).contains(&number) {
            self.released.push_back(number);
        }
        was_taken
    }

    fn check_open(&self) -> Result<()> {
        if self.closed { Err(Error::Closed { subnet: self.subnet }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(subnet: &str) -> Ipam {
        Ipam::new(subnet.parse().unwrap())
    }

    fn next(ipam: &mut Ipam) -> String {
        ipam.take_next().unwrap().to_string()
    }

    #[test]
    fn addresses_ascend_from_two_and_released_ones_come_last() {
        let mut ipam = ipam("10.0.0.0/29");
        assert_eq!(ipam.capacity(), 5);
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert_eq!(next(&mut ipam), "10.0.0.3");
        assert_eq!(next(&mut ipam), "10.0.0.4");
        assert!(ipam.release("10.0.0.3".parse().unwrap()));
        assert!(ipam.release("10.0.0.2".parse().unwrap()));
        assert!(!ipam.release("10.0.0.2".parse().unwrap()));
        assert_eq!(next(&mut ipam), "10.0.0.5");
        assert_eq!(next(&mut ipam), "10.0.0.6");
        assert_eq!(next(&mut ipam), "10.0.0.3");
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert_eq!(
            ipam.take_next().unwrap_err().to_string(),
            "no free address in 10.0.0.0/29: all 5 are taken"
        );
    }

    #[test]
    fn an_address_may_be_asked_for_by_name() {
        let mut ipam = ipam("10.0.0.0/29");
        ipam.take("10.0.0.3".parse().unwrap()).unwrap();
        assert!(matches!(ipam.take("10.0.0.3".parse().unwrap()), Err(Error::AddressTaken { .. })));
        for outside in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.1.2", "9.255.255.255"] {
            assert!(
                matches!(ipam.take(outside.parse().unwrap()), Err(Error::AddressOutside { .. })),
                "{outside}"
            );
        }
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert_eq!(next(&mut ipam), "10.0.0.4");
    }

    #[test]
    fn the_smallest_subnet_has_room_for_one() {
        let mut ipam = ipam("10.0.0.0/30");
        assert_eq!(next(&mut ipam), "10.0.0.2");
        assert!(ipam.take_next().is_err());
    }

    #[test]
    fn the_last_subnet_of_all_does_not_overflow() {
        let mut ipam = ipam("255.255.255.252/30");
        assert_eq!(next(&mut ipam), "255.255.255.254");
        assert!(ipam.take_next().is_err());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Next,
        Take(u8),
        Release(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Next),
            any::<u8>().prop_map(Step::Take),
            any::<u8>().prop_map(Step::Release),
        ]
    }

    #[test]
    fn only_the_range_goes_out_unasked_and_never_the_gateway() {
        let subnet = "10.0.0.0/24".parse().unwrap();
        let (gateway, range) = (Ipv4Addr::new(10, 0, 0, 18), "10.0.0.16/30".parse().ok());
        let mut ipam = Ipam::shaped(subnet, gateway, range);
        assert_eq!(ipam.capacity(), 3);
        let given: Vec<String> = (0..3).map(|_| next(&mut ipam)).collect();
        assert_eq!(given, ["10.0.0.16", "10.0.0.17", "10.0.0.19"]);
        assert!(matches!(ipam.take_next(), Err(Error::Exhausted { .. })));
        assert!(matches!(ipam.take(gateway), Err(Error::AddressOutside { .. })));
        let outside = Ipv4Addr::new(10, 0, 0, 1);
        ipam.take(outside).unwrap();
        ipam.release(outside);
        assert!(ipam.take_next().is_err(), "asked for, so not given out to others");
    }

    #[test]
    fn a_network_that_goes_gives_no_address_and_one_that_is_used_does_not_go() {
        let mut ipam = ipam("10.0.0.0/29");
        let address = ipam.take_next().unwrap();
        assert!(!ipam.close_if_unused());
        ipam.release(address);
        assert!(ipam.close_if_unused());
        assert!(matches!(ipam.take_next(), Err(Error::Closed { .. })));
        assert!(matches!(ipam.take(address), Err(Error::Closed { .. })));
    }

    proptest! {
        /// Against a model that knows only the set of taken addresses.
        #[test]
        fn no_address_is_ever_given_twice_and_exhaustion_means_all_taken(
            prefix in 26u8..=30, steps in prop::collection::vec(step(), 0..200)
        ) {
            let subnet = Ipv4Subnet::containing(Ipv4Addr::new(10, 9, 8, 0), prefix).unwrap();
            let mut ipam = Ipam::new(subnet);
            let mut model = HashSet::new();
            for step in steps {
                match step {
                    Step::Next => match ipam.take_next() {
                        Ok(a) => {
                            prop_assert!(subnet.contains(a));
                            prop_assert!(a > subnet.gateway() && a < subnet.broadcast());
                            prop_assert!(model.insert(a));
                        }
                        Err(_) => prop_assert_eq!(model.len() as u64, ipam.capacity()),
                    },
                    Step::Take(last) => {
                        let a = Ipv4Addr::new(10, 9, 8, last);
                        let usable = subnet.contains(a)
                            && a > subnet.gateway() && a < subnet.broadcast();
                        prop_assert_eq!(ipam.take(a).is_ok(), usable && model.insert(a));
                    }
                    Step::Release(last) => {
                        let a = Ipv4Addr::new(10, 9, 8, last);
                        prop_assert_eq!(ipam.release(a), model.remove(&a));
                    }
                }
            }
            for _ in model.len() as u64..ipam.capacity() {
                prop_assert!(ipam.take_next().is_ok());
            }
            prop_assert!(ipam.take_next().is_err());
        }
    }
}

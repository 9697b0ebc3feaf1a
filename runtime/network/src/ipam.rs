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
/// network's address, the gateway's (`.1`) and the broadcast address.
#[derive(Debug)]
pub struct Ipam {
    subnet: Ipv4Subnet,
    taken: HashSet<u32>,
    /// Every address below that is usable is in `taken` or in `released`.
    fresh: u32,
    /// Oldest first; disjoint from `taken`.
    released: VecDeque<u32>,
}

impl Ipam {
    pub fn new(subnet: Ipv4Subnet) -> Ipam {
        let fresh = u32::from(subnet.gateway()).saturating_add(1);
        Ipam { subnet, taken: HashSet::new(), fresh, released: VecDeque::new() }
    }

    /// How many containers can have an address at once.
    pub fn capacity(&self) -> u64 {
        u64::from(self.broadcast()).saturating_sub(u64::from(self.gateway()) + 1)
    }

    /// The next free address.
    ///
    /// # Errors
    /// [`Error::Exhausted`]: all are taken; a container must go first.
    pub fn take_next(&mut self) -> Result<Ipv4Addr> {
        while self.fresh < self.broadcast() {
            let address = self.fresh;
            self.fresh += 1;
            // Taken by name, or given back after that: then it waits its turn.
            if !self.taken.contains(&address) && !self.released.contains(&address) {
                self.taken.insert(address);
                return Ok(address.into());
            }
        }
        let address = self
            .released
            .pop_front()
            .ok_or(Error::Exhausted { subnet: self.subnet, capacity: self.capacity() })?;
        self.taken.insert(address);
        Ok(address.into())
    }

    /// This address and no other.
    ///
    /// # Errors
    /// [`Error::AddressOutside`] for one that no container of this subnet may
    /// have, [`Error::AddressTaken`] for one that another has.
    pub fn take(&mut self, address: Ipv4Addr) -> Result<()> {
        let number = u32::from(address);
        if number <= self.gateway() || number >= self.broadcast() {
            return Err(Error::AddressOutside { address, subnet: self.subnet });
        }
        if !self.taken.insert(number) {
            return Err(Error::AddressTaken { address });
        }
        self.released.retain(|r| *r != number);
        Ok(())
    }

    /// False if it was not taken.
    pub fn release(&mut self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        let was_taken = self.taken.remove(&number);
        if was_taken {
            self.released.push_back(number);
        }
        was_taken
    }

    fn gateway(&self) -> u32 {
        self.subnet.gateway().into()
    }

    fn broadcast(&self) -> u32 {
        self.subnet.broadcast().into()
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

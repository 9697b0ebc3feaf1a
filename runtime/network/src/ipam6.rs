//! Who has which IPv6 address of a network.
//!
//! Pure bookkeeping in memory, as [`crate::Ipam`]. A container's address ends as its IPv4
//! address does where that is free, so that it has the same one after each start as long as
//! it keeps the other.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{Error, Result};
use crate::subnet::Ipv4Subnet;
use crate::subnet6::Ipv6Subnet;

#[derive(Debug)]
pub(crate) struct Ipam6 {
    subnet: Ipv6Subnet,
    /// The network's IPv4 addresses, which the ends come from.
    beside: Ipv4Subnet,
    gateway: Ipv6Addr,
    taken: HashSet<Ipv6Addr>,
}

impl Ipam6 {
    pub fn new(subnet: Ipv6Subnet, gateway: Ipv6Addr, beside: Ipv4Subnet) -> Ipam6 {
        Ipam6 { subnet, beside, gateway, taken: HashSet::new() }
    }

    /// For who has this IPv4 address.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn take_beside(&mut self, address: Ipv4Addr) -> Result<Ipv6Addr> {
        let first = u128::from(self.subnet.network());
        let hosts = u128::from(self.subnet.last()) - first;
        let end = u128::from(u32::from(address) - u32::from(self.beside.network()));
        // Of as many, and the gateway's and the network's own, one at least is free, if any is.
        let tries = self.taken.len() as u128 + 3;
        let after = |step: u128| Ipv6Addr::from(first + (end + step) % (hosts.saturating_add(1)));
        let found = (0..tries).map(after).find(|address| self.is_free(*address));
        let capacity = u64::try_from(hosts.saturating_sub(1)).unwrap_or(u64::MAX);
        let exhausted = || Error::Exhausted { subnet: self.subnet.to_string(), capacity };
        let address = found.ok_or_else(exhausted)?;
        self.taken.insert(address);
        Ok(address)
    }

    /// This address and no other.
    ///
    /// # Errors
    /// [`Error::AddressOutside`], [`Error::AddressTaken`].
    pub fn take(&mut self, address: Ipv6Addr) -> Result<()> {
        if address == self.gateway || !self.subnet.is_host(address) {
            let subnet = self.subnet.to_string();
            return Err(Error::AddressOutside { address: address.into(), subnet });
        }
        match self.taken.insert(address) {
            true => Ok(()),
            false => Err(Error::AddressTaken { address: address.into() }),
        }
    }

    pub fn release(&mut self, address: Ipv6Addr) {
        self.taken.remove(&address);
    }

    fn is_free(&self, address: Ipv6Addr) -> bool {
        address != self.gateway && self.subnet.is_host(address) && !self.taken.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(subnet: &str) -> Ipam6 {
        let subnet: Ipv6Subnet = subnet.parse().unwrap();
        Ipam6::new(subnet, subnet.gateway(), "10.5.0.0/16".parse().unwrap())
    }

    fn beside(ipam: &mut Ipam6, last: u8) -> Result<String> {
        ipam.take_beside(Ipv4Addr::new(10, 5, 0, last)).map(|address| address.to_string())
    }

    #[test]
    fn an_address_ends_as_the_other_one_does_or_is_the_next() {
        let mut ipam = ipam("fd00:5::/64");
        assert_eq!(beside(&mut ipam, 2).unwrap(), "fd00:5::2");
        ipam.take("fd00:5::3".parse().unwrap()).unwrap();
        assert_eq!(beside(&mut ipam, 3).unwrap(), "fd00:5::4");
        ipam.release("fd00:5::3".parse().unwrap());
        assert_eq!(beside(&mut ipam, 3).unwrap(), "fd00:5::3");
        for outside in ["fd00:5::", "fd00:5::1", "fd00:6::2"] {
            let error = ipam.take(outside.parse().unwrap()).unwrap_err();
            assert!(matches!(error, Error::AddressOutside { .. }), "{outside}");
        }
        let twice = ipam.take("fd00:5::2".parse().unwrap()).unwrap_err();
        assert_eq!(twice.to_string(), "address fd00:5::2 is taken");
    }

    #[test]
    fn a_small_subnet_gives_all_it_has_and_says_when_that_is_all() {
        let mut ipam = ipam("fd00:5::/126");
        let mut given = vec![beside(&mut ipam, 200).unwrap(), beside(&mut ipam, 201).unwrap()];
        given.sort();
        assert_eq!(given, ["fd00:5::2", "fd00:5::3"]);
        let error = beside(&mut ipam, 2).unwrap_err().to_string();
        assert_eq!(error, "no free address in fd00:5::/126: all 2 are taken");
        ipam.release("fd00:5::3".parse().unwrap());
        assert_eq!(beside(&mut ipam, 2).unwrap(), "fd00:5::3");
    }
}

//! What one network is asked to be, and its validation.
//!
//! Pure: whether the host has room for it is `bridge`'s and `networks`' question.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::link;
use crate::subnet::Ipv4Subnet;
use crate::subnet6::Ipv6Subnet;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// At most 15 characters.
    pub bridge: String,
    pub subnet: Ipv4Subnet,
    /// Our nftables table, family `ip`.
    pub table: String,
    pub shape: Shape,
}

/// In what a network differs from the default one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The bridge's own address; `None`: the subnet's first.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet that addresses are given out from; one that is asked for by
    /// itself may lie outside of it.
    pub range: Option<Ipv4Subnet>,
    /// Nothing is forwarded out of it and nothing into it.
    pub internal: bool,
    /// Bytes of a packet on its links; `None`: the kernel's own for such links, 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// IPv6 addresses besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six: Option<Six>,
    /// The default network's bridge. Set for every other network: nothing new comes into
    /// those from other links but what a published port lets in. `None`: it is the default
    /// network, into which everything is forwarded that finds its way.
    pub apart_from: Option<String>,
}

/// What a network has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Six {
    pub subnet: Ipv6Subnet,
    /// The bridge's own address; `None`: the subnet's first.
    pub gateway: Option<Ipv6Addr>,
}

impl Six {
    pub fn gateway(&self) -> Ipv6Addr {
        self.gateway.unwrap_or_else(|| self.subnet.gateway())
    }
}

impl NetworkConfig {
    pub fn gateway(&self) -> Ipv4Addr {
        self.shape.gateway.unwrap_or_else(|| self.subnet.gateway())
    }

    /// # Errors
    /// [`Error::Invalid`] naming field, value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, value: &dyn ToString, allowed: &str| {
            Err(Error::Invalid { field, value: value.to_string(), allowed: allowed.to_owned() })
        };
        let word = |text: &str, extra: &str| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        if !word(&self.bridge, "-_.") || self.bridge.len() > link::MAX_NAME_BYTES {
            return invalid("bridge", &self.bridge, "a letter, then letters, digits, - _ . (15)");
        }
        if !word(&self.table, "-_") || self.table.len() > 64 {
            return invalid("table", &self.table, "a letter, then letters, digits, - _ (64)");
        }
        if !(8..=30).contains(&self.subnet.prefix()) {
            return invalid("subnet", &self.subnet, "a prefix of 8 to 30");
        }
        let gateway = self.gateway();
        if !self.subnet.is_host(gateway) {
            let allowed = format!("an address of a host in {}", self.subnet);
            return invalid("gateway", &gateway, &allowed);
        }
        if let Some(range) = self.shape.range
            && !(range.prefix() >= self.subnet.prefix() && self.subnet.contains(range.network()))
        {
            return invalid("ip_range", &range, &format!("a part of {}", self.subnet));
        }
        // Smaller ones are not IPv6's (RFC 8200, 5), nor IPv4's (RFC 791).
        let least = if self.shape.six.is_some() { 1280 } else { 68 };
        if let Some(mtu) = self.shape.mtu.filter(|mtu| !(least..=65_535).contains(mtu)) {
            return invalid("mtu", &mtu, &format!("{least} to 65535"));
        }
        if let Some(six) = &self.shape.six {
            let is_local = ["fe80::/10", "ff00::/8", "::/8"].iter().any(|space| {
                space.parse::<Ipv6Subnet>().is_ok_and(|space| space.overlaps(&six.subnet))
            });
            if is_local || !(16..=126).contains(&six.subnet.prefix()) {
                let allowed = "a subnet with a prefix of 16 to 126, such as fd00:5::/64";
                return invalid("subnet", &six.subnet, allowed);
            }
            let gateway = six.gateway();
            if !six.subnet.is_host(gateway) {
                let allowed = format!("an address of a host in {}", six.subnet);
                return invalid("gateway", &gateway, &allowed);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NetworkConfig {
        NetworkConfig {
            bridge: "tenantry0".into(),
            subnet: "10.213.0.0/16".parse().unwrap(),
            table: "tenantry".into(),
            shape: Shape::default(),
        }
    }

    #[track_caller]
    fn check(config: NetworkConfig, field: &str) {
        let message = config.validate().unwrap_err().to_string();
        assert!(message.starts_with(field), "{message}");
    }

    #[test]
    fn a_configuration_is_checked_field_by_field() {
        assert!(good().validate().is_ok());
        for bridge in ["", "a b", "a/b", "..", "sixteencharslong", "0br"] {
            check(NetworkConfig { bridge: bridge.into(), ..good() }, "bridge");
        }
        for table in ["", "a b", "x;y", "0t"] {
            check(NetworkConfig { table: table.into(), ..good() }, "table");
        }
        for subnet in ["0.0.0.0/0", "10.0.0.0/31", "10.0.0.4/32"] {
            check(NetworkConfig { subnet: subnet.parse().unwrap(), ..good() }, "subnet");
        }
    }

    #[test]
    fn an_mtu_is_one_that_the_networks_families_know() {
        let subnet = "fd00:5::/64".parse().unwrap();
        let with = |mtu: u32, is_six: bool| {
            let six = is_six.then_some(Six { subnet, gateway: None });
            let shape = Shape { mtu: Some(mtu), six, ..Shape::default() };
            NetworkConfig { shape, ..good() }
        };
        assert!(with(68, false).validate().is_ok() && with(9000, true).validate().is_ok());
        for (mtu, is_six) in [(67, false), (65_536, false), (1279, true)] {
            check(with(mtu, is_six), "mtu");
        }
    }

    #[test]
    fn of_ipv6_a_subnet_for_hosts_is_taken_and_its_gateway_lies_in_it() {
        let with = |subnet: &str, gateway: Option<&str>| {
            let gateway = gateway.map(|text| text.parse().unwrap());
            let six = Some(Six { subnet: subnet.parse().unwrap(), gateway });
            NetworkConfig { shape: Shape { six, ..Shape::default() }, ..good() }
        };
        assert!(with("fd00:5::/64", None).validate().is_ok());
        assert!(with("2001:db8::/80", Some("2001:db8::9")).validate().is_ok());
        for subnet in ["fe80::/64", "ff02::/64", "::/64", "fd00::/8", "fd00::/127"] {
            check(with(subnet, None), "subnet");
        }
        for gateway in ["fd00:5::", "fd00:6::1"] {
            check(with("fd00:5::/64", Some(gateway)), "gateway");
        }
    }

    #[test]
    fn gateway_and_range_lie_in_the_subnet() {
        for gateway in ["10.213.0.0", "10.213.255.255", "10.214.0.1"] {
            let shape = Shape { gateway: gateway.parse().ok(), ..Shape::default() };
            check(NetworkConfig { shape, ..good() }, "gateway");
        }
        for range in ["10.0.0.0/8", "10.214.0.0/24"] {
            let shape = Shape { range: range.parse().ok(), ..Shape::default() };
            check(NetworkConfig { shape, ..good() }, "ip_range");
        }
        let shape = Shape {
            gateway: "10.213.9.9".parse().ok(),
            range: "10.213.7.0/24".parse().ok(),
            ..Shape::default()
        };
        assert!(NetworkConfig { shape, ..good() }.validate().is_ok());
    }
}

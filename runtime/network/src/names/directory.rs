//! Who is called what on which network, and who may ask about it. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Digits of an id that are a name.
const SHORT_ID: usize = 12;

/// A container on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub address: Ipv4Addr,
    pub six: Option<Ipv6Addr>,
    /// Its own name first, then the beginning of its id, then aliases.
    pub names: Vec<String>,
    pub network_name: String,
}

impl Named {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [IpAddr::V4(self.address)].into_iter().chain(self.six.map(IpAddr::V6))
    }
}

/// As many entries as containers have addresses.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By network id.
    named: HashMap<String, Vec<Named>>,
    /// The networks that each container is on, by its id: it may ask about these alone.
    on: HashMap<String, Vec<Membership>>,
}

#[derive(Debug)]
struct Membership {
    network: String,
    /// Not of a network that is internal.
    leads_out: bool,
    links: Vec<Link>,
}

/// Another name for a neighbour, which is this container's alone (`--link db:store`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Name or id.
    pub container: String,
    pub alias: String,
}

impl Link {
    fn leads_to(&self, named: &Named) -> bool {
        let is = |own: &String| {
            *own == self.container
                // A whole id; its beginning is among the names.
                || (own.len() == SHORT_ID && self.container.len() > SHORT_ID
                    && self.container.starts_with(own.as_str()))
        };
        named.names.iter().any(is)
    }
}

impl Directory {
    pub fn join(&mut self, container: &str, network: &str, leads_out: bool, links: Vec<Link>) {
        let mut links = links;
        for link in &mut links {
            link.container.make_ascii_lowercase();
            link.alias.make_ascii_lowercase();
        }
        let on = self.on.entry(container.to_owned()).or_default();
        on.retain(|known| known.network != network);
        on.push(Membership { network: network.to_owned(), leads_out, links });
    }

    /// Replaces what was known of that address: a container may be called otherwise now.
    pub fn register(&mut self, network: &str, mut named: Named) {
        named.names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        named.network_name.make_ascii_lowercase();
        self.forget(network, named.address);
        self.named.entry(network.to_owned()).or_default().push(named);
    }

    pub fn leave(&mut self, container: &str, network: &str, address: Ipv4Addr) {
        self.forget(network, address);
        if let Some(on) = self.on.get_mut(container) {
            on.retain(|known| known.network != network);
            if on.is_empty() {
                self.on.remove(container);
            }
        }
    }

    fn forget(&mut self, network: &str, address: Ipv4Addr) {
        if let Some(all) = self.named.get_mut(network) {
            all.retain(|named| named.address != address);
            if all.is_empty() {
                self.named.remove(network);
            }
        }
    }

    /// Of whoever is called so on one of the container's networks, with or without the
    /// network's name behind it. Several containers may share an alias.
    pub fn addresses(&self, container: &str, name: &str) -> Vec<IpAddr> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let of_network = |on: &Membership| -> Vec<IpAddr> {
            let is = |named: &&Named| {
                let without = name.strip_suffix(&named.network_name);
                let without = without.and_then(|name| name.strip_suffix('.'));
                let is_name = |own: &str| own == name || Some(own) == without;
                named.names.iter().any(|own| is_name(own))
                    || on.links.iter().any(|link| is_name(&link.alias) && link.leads_to(named))
            };
            let named = self.named.get(&on.network).into_iter().flatten();
            named.filter(is).flat_map(Named::addresses).collect()
        };
        self.on.get(container).into_iter().flatten().flat_map(of_network).collect()
    }

    /// `web.front`, if the address is of a container on one of its networks.
    pub fn name_of(&self, container: &str, address: IpAddr) -> Option<String> {
        let is = |named: &&Named| named.addresses().any(|own| own == address);
        let found = self.around(container).find(is)?;
        Some(format!("{}.{}", found.names.first()?, found.network_name))
    }

    /// Whether one of its networks leads out: who is on internal ones alone must not reach
    /// the world by way of its questions either.
    pub fn leads_out(&self, container: &str) -> bool {
        self.on.get(container).is_some_and(|on| on.iter().any(|known| known.leads_out))
    }

    fn around(&self, container: &str) -> impl Iterator<Item = &Named> {
        let networks = self.on.get(container).into_iter().flatten();
        networks.filter_map(move |known| self.named.get(&known.network)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn address(last: u8) -> IpAddr {
        v4(last).into()
    }

    fn named(last: u8, names: &[&str]) -> Named {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Named { address: v4(last), six: None, names, network_name: "Front".into() }
    }

    fn two_networks() -> Directory {
        let mut all = Directory::default();
        all.register("n1", named(2, &["Web", "0123456789ab", "www"]));
        all.register("n1", named(3, &["api", "www"]));
        all.register("n2", named(4, &["db"]));
        all.join("one", "n1", true, vec![]);
        all.join("both", "n1", true, vec![]);
        all.join("both", "n2", false, vec![]);
        all
    }

    #[test]
    fn names_are_found_on_the_askers_networks_alone() {
        let all = two_networks();
        let check = |container: &str, name: &str, expected: &[u8]| {
            let expected: Vec<IpAddr> = expected.iter().map(|last| address(*last)).collect();
            assert_eq!(all.addresses(container, name), expected, "{name}");
        };
        check("one", "web", &[2]);
        check("one", "WEB.", &[2]);
        check("one", "web.front.", &[2]);
        check("one", "0123456789ab", &[2]);
        check("one", "www", &[2, 3]);
        check("one", "db", &[]);
        check("both", "db", &[4]);
        check("one", "web.back", &[]);
        check("one", "webfront", &[]);
        check("one", "", &[]);
        check("nobody", "web", &[]);
        assert_eq!(all.name_of("one", address(2)).as_deref(), Some("web.front"));
        assert_eq!(all.name_of("one", address(4)), None);
    }

    #[test]
    fn who_has_an_ipv6_address_has_one_name_for_both() {
        let mut all = two_networks();
        let six: Ipv6Addr = "fd00:5::3".parse().unwrap();
        all.register("n1", Named { six: Some(six), ..named(3, &["api", "www"]) });
        assert_eq!(all.addresses("one", "api"), [address(3), six.into()]);
        assert_eq!(all.name_of("one", six.into()).as_deref(), Some("api.front"));
        all.leave("one", "n1", v4(3));
        assert!(all.addresses("both", "api").is_empty());
    }

    #[test]
    fn who_leaves_is_forgotten_and_forgets() {
        let mut all = two_networks();
        all.leave("both", "n1", v4(2));
        assert_eq!(all.addresses("one", "www"), [address(3)]);
        assert!(all.addresses("both", "api").is_empty());
        assert_eq!(all.addresses("both", "db"), [address(4)]);
        all.leave("both", "n2", v4(9));
        assert!(all.addresses("both", "db").is_empty() && !all.on.contains_key("both"));
    }

    #[test]
    fn who_is_called_otherwise_now_has_lost_the_old_name() {
        let mut all = two_networks();
        all.register("n1", named(2, &["site"]));
        assert!(all.addresses("one", "web").is_empty());
        assert_eq!(all.addresses("one", "site"), [address(2)]);
    }

    #[test]
    fn one_network_that_leads_out_is_enough() {
        let mut all = two_networks();
        assert!(all.leads_out("one") && all.leads_out("both") && !all.leads_out("nobody"));
        all.leave("both", "n1", v4(9));
        assert!(!all.leads_out("both"));
    }

    #[test]
    fn a_link_is_one_containers_own_name_for_another() {
        let mut all = two_networks();
        let link = |container: &str, alias: &str| Link {
            container: container.into(),
            alias: alias.into(),
        };
        let whole_id = format!("0123456789ab{}", "c".repeat(52));
        let links = vec![link("API", "Backend"), link(&whole_id, "site"), link("db", "store")];
        all.join("one", "n1", true, links);
        let check = |container: &str, name: &str, expected: &[u8]| {
            let expected: Vec<IpAddr> = expected.iter().map(|last| address(*last)).collect();
            assert_eq!(all.addresses(container, name), expected, "{container}: {name}");
        };
        check("one", "backend", &[3]);
        check("one", "backend.front.", &[3]);
        check("one", "site", &[2]);
        check("one", "api", &[3]);
        check("one", "store", &[]);
        check("both", "backend", &[]);
    }
}

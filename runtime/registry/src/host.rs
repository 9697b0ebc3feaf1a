//! Which address a registry's name means, and whether plain HTTP may be spoken to it. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Docker Hub's name in images, and where it answers.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// `HOST[:PORT]` of the registry that an image's domain names.
pub fn endpoint(domain: &str) -> &str {
    if domain == HUB.0 || domain == "index.docker.io" { HUB.1 } else { domain }
}

/// A registry, or a network of registries, that may be spoken to without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insecure {
    /// As in an image's name: `registry.lan:5000`.
    Host(String),
    /// Registries that are named by an address in it.
    Network { address: IpAddr, prefix: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HOST[:PORT] or ADDRESS/PREFIX, without a scheme")]
pub struct InvalidInsecure;

impl FromStr for Insecure {
    type Err = InvalidInsecure;

    fn from_str(text: &str) -> Result<Self, InvalidInsecure> {
        if let Some((address, prefix)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| InvalidInsecure)?;
            let prefix: u8 = prefix.parse().map_err(|_| InvalidInsecure)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (prefix <= most)
                .then_some(Insecure::Network { address, prefix })
                .ok_or(InvalidInsecure);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:[]_".contains(c);
        (!text.is_empty() && text.chars().all(allowed))
            .then(|| Insecure::Host(text.to_ascii_lowercase()))
            .ok_or(InvalidInsecure)
    }
}

/// Whether plain HTTP may be spoken to a registry: configuration names it, or it is this host's
/// own (127.0.0.0/8, ::1, `localhost`), which is an exception that Docker makes as well.
pub(crate) fn may_be_plain(authority: &str, insecure: &[Insecure]) -> bool {
    let host = host_of(authority);
    if is_loopback(host) {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    insecure.iter().any(|entry| match entry {
        Insecure::Host(name) => authority.eq_ignore_ascii_case(name),
        Insecure::Network { address: network, prefix } => {
            address.is_some_and(|address| is_within(address, *network, *prefix))
        }
    })
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without port and brackets.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (wide(address), wide(network), 32),
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    let rest = width - u32::from(prefix);
    // A shift by all bits of the type is none.
    address.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

fn wide(address: Ipv4Addr) -> u128 {
    address.to_bits().into()
}

/// Whether a token service may be told a registry's password: it is on the same host, of the
/// same domain as somebody registered it, or named by the configuration.
pub(crate) fn is_trusted_realm(registry: &str, realm_host: &str, named: &[String]) -> bool {
    let host = host_of(registry);
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if same(host, realm_host) || named.iter().any(|name| same(name, realm_host)) {
        return true;
    }
    let is_address = |host: &str| host.parse::<IpAddr>().is_ok();
    if is_address(host) || is_address(realm_host) {
        return false;
    }
    let domain = |host: &str| psl::domain_str(host).map(str::to_owned);
    let (ours, theirs) = (domain(&host.to_lowercase()), domain(&realm_host.to_lowercase()));
    ours.is_some() && ours == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_docker_hub_answers_elsewhere() {
        assert_eq!(endpoint("docker.io"), "registry-1.docker.io");
        assert_eq!(endpoint("ghcr.io"), "ghcr.io");
        assert_eq!(endpoint("127.0.0.1:5000"), "127.0.0.1:5000");
    }

    #[test]
    fn plain_http_is_for_loopback_and_for_who_is_named() {
        let insecure: Vec<Insecure> = ["registry.lan:5000", "10.1.0.0/16", "fd00::/8"]
            .map(|text| text.parse().unwrap())
            .into();
        let check = |authority, expected| {
            assert_eq!(may_be_plain(authority, &insecure), expected, "{authority}");
        };
        check("127.0.0.1:5000", true);
        check("127.8.9.1", true);
        check("[::1]:5000", true);
        check("localhost:5000", true);
        check("registry.lan:5000", true);
        check("Registry.LAN:5000", true);
        check("10.1.2.3:5000", true);
        check("[fd00::1]:5000", true);
        check("registry.lan", false);
        check("registry.lan:5001", false);
        check("10.2.0.1", false);
        check("localhost.example.com", false);
        check("docker.io", false);
    }

    #[test]
    fn a_network_may_be_everything_or_one_address() {
        let check = |address: &str, network: &str, expected| {
            let Ok(Insecure::Network { address: of, prefix }) = network.parse() else {
                panic!("{network}")
            };
            assert_eq!(is_within(address.parse().unwrap(), of, prefix), expected, "{address}");
        };
        check("1.2.3.4", "0.0.0.0/0", true);
        check("fd00::1", "::/0", true);
        check("1.2.3.4", "::/0", false);
        check("1.2.3.4", "1.2.3.4/32", true);
        check("1.2.3.5", "1.2.3.4/32", false);
        for text in ["", "http://x", "1.2.3.4/33", "x/8", "a b"] {
            assert_eq!(text.parse::<Insecure>(), Err(InvalidInsecure), "{text}");
        }
    }

    #[test]
    fn a_password_stays_with_its_domain() {
        let check = |registry, realm, expected| {
            let named = ["sso.example.net".to_owned()];
            assert_eq!(is_trusted_realm(registry, realm, &named), expected, "{registry} {realm}");
        };
        check("registry-1.docker.io", "auth.docker.io", true);
        check("registry.gitlab.com", "gitlab.com", true);
        check("127.0.0.1:5000", "127.0.0.1", true);
        check("registry.lan:5000", "registry.lan", true);
        check("registry.example.org", "sso.example.net", true);
        check("127.0.0.1:5000", "127.0.0.2", false);
        check("registry.example.org", "example.com", false);
        // Each is somebody else's, though they end alike.
        check("a.co.uk", "b.co.uk", false);
        check("10.0.0.1", "1.0.0.1", false);
        check("registry.lan", "evil.lan", false);
    }
}

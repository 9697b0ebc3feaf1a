//! The bridge: made, or adopted from an agent before us, and its removal.
//!
//! Owns what is once per network on the host: the bridge with the gateway's
//! address, and removing every link that carries our alias.

use std::net::Ipv6Addr;

use crate::config::NetworkConfig;
use crate::decode::Link;
use crate::error::{Error, Result};
use crate::forwarding;
use crate::link;
use crate::netlink::Netlink;

/// Of the bridge, as Docker's have it.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL_PREFIX: u8 = 64;
/// In the alias of a bridge with IPv6.
const IP6_FORWARD: &str = "ip6_forward=";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge {
    pub index: u32,
    /// What `ip_forward` was before the first agent.
    pub ip_forward_before: bool,
    /// By us, just now: then it is ours to remove if opening fails.
    pub created: bool,
}

/// In the bridge's alias: survives the agent.
fn render_alias(
    config: &NetworkConfig,
    ip_forward_before: bool,
    ip6_forward_before: Option<bool>,
) -> String {
    let what = format!("bridge ip_forward={}", u8::from(ip_forward_before));
    let what = match ip6_forward_before {
        Some(before) => format!("{what} {IP6_FORWARD}{}", u8::from(before)),
        None => what,
    };
    match &config.shape.apart_from {
        Some(default) => link::alias(&config.bridge, &format!("{what} beside {default}")),
        None => link::alias(&config.bridge, &what),
    }
}

fn parse_ip_forward(alias: &str, bridge: &str) -> Option<bool> {
    let rest = link::parse_alias(alias, bridge)?.strip_prefix("bridge ip_forward=")?;
    match rest.split(' ').next() {
        Some("0") => Some(false),
        Some("1") => Some(true),
        _ => None,
    }
}

/// What the switch for IPv6 was before: of a bridge that has IPv6, whoever's network it is.
fn parse_ip6_forward(alias: &str) -> Option<bool> {
    let mut words = alias.strip_prefix("tenantry ")?.split(' ').skip(1);
    (words.next() == Some("bridge")).then_some(())?;
    match words.find_map(|word| word.strip_prefix(IP6_FORWARD))? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// # Errors
/// [`Error::ForeignLink`] for a link of that name that is no bridge, or has not
/// our address; it is not touched.
pub(crate) fn ensure(netlink: &mut Netlink, config: &NetworkConfig) -> Result<Bridge> {
    let name = &config.bridge;
    if let Some(found) = link::find(netlink, name)? {
        return adopt(netlink, config, &found);
    }
    link::create_bridge(netlink, name, link::mac_of(config.gateway()), config.shape.mtu)?;
    let outcome = finish(netlink, config, None);
    if outcome.is_err() {
        let _ = link::delete(netlink, name);
    }
    outcome.map(|bridge| Bridge { created: true, ..bridge })
}

fn adopt(netlink: &mut Netlink, config: &NetworkConfig, found: &Link) -> Result<Bridge> {
    let (gateway, prefix) = (config.gateway(), config.subnet.prefix());
    let mut addresses = link::list_addresses(netlink)?;
    addresses.retain(|a| a.index == found.index);
    let is_bridge = found.kind.as_deref() == Some("bridge");
    let before = found.alias.as_deref().and_then(|a| parse_ip_forward(a, &config.bridge));
    let has_ours = addresses.iter().any(|a| a.address == gateway && a.prefix == prefix);
    // Ours by its alias, without an address: an agent died while making it.
    let half_made = addresses.is_empty() && before.is_some();
    if is_bridge && (has_ours || half_made) {
        return finish(netlink, config, before);
    }
    let kind = found.kind.as_deref().unwrap_or("physical link");
    let listed: Vec<_> = addresses.iter().map(|a| format!("{}/{}", a.address, a.prefix)).collect();
    Err(Error::ForeignLink {
        name: config.bridge.clone(),
        found: match listed.is_empty() {
            true => format!("a {kind} without an IPv4 address"),
            false => format!("a {kind} with {}", listed.join(", ")),
        },
        wanted: format!("a bridge with {gateway}/{prefix}"),
    })
}

/// Alias, address, up; each only where it is missing, so that it may be called
/// on a bridge in any state of completion.
fn finish(netlink: &mut Netlink, config: &NetworkConfig, before: Option<bool>) -> Result<Bridge> {
    let name = &config.bridge;
    let ip_forward_before = match before {
        Some(value) => value,
        None => {
            let value = forwarding::read_ip_forward()?;
            let six = config.shape.six.map(|_| forwarding::read_ip6_forward()).transpose()?;
            link::set_alias(netlink, name, &render_alias(config, value, six))?;
            value
        }
    };
    let index = link::find(netlink, name)?.ok_or_else(|| Error::Gone(name.clone()))?.index;
    let gateway = config.gateway();
    let addresses = link::list_addresses(netlink)?;
    if !addresses.iter().any(|a| a.index == index && a.address == gateway) {
        link::silence_ipv6(netlink, name)?;
        link::add_address(netlink, index, gateway, config.subnet.prefix())?;
    }
    if let Some(six) = &config.shape.six {
        // The kernel asks for the neighbour of a packet that it forwards from such an address
        // alone; without one nobody is found who has not spoken before.
        forwarding::switch_ipv6_on(name)?;
        link::add_address6(netlink, index, LINK_LOCAL, LINK_LOCAL_PREFIX)?;
        link::add_address6(netlink, index, six.gateway(), six.subnet.prefix())?;
    }
    link::set_up(netlink, name)?;
    Ok(Bridge { index, ip_forward_before, created: false })
}

/// What the host's switch for forwarded IPv6 is to be when this bridge has gone: `None`, as it
/// is. The last of several bridges with IPv6 puts it back; one that goes before hands on what it
/// knows.
pub(crate) fn leave_ip6_forward(netlink: &mut Netlink, bridge: &str) -> Result<Option<bool>> {
    let own = link::find(netlink, bridge)?.and_then(|link| link.alias);
    let Some(before) = own.as_deref().and_then(parse_ip6_forward) else { return Ok(None) };
    let is_other = |link: &Link| {
        link.name != bridge && link.alias.as_deref().is_some_and(|a| parse_ip6_forward(a).is_some())
    };
    let Some(other) = link::list(netlink, None)?.into_iter().find(is_other) else {
        return Ok(Some(before));
    };
    if !before {
        let alias = other.alias.unwrap_or_default();
        let off = alias.replace(&format!("{IP6_FORWARD}1"), &format!("{IP6_FORWARD}0"));
        link::set_alias(netlink, &other.name, &off)?;
    }
    Ok(None)
}

/// The ifbs of veths that went away while no agent looked.
pub(crate) fn remove_orphans(netlink: &mut Netlink, bridge: &str) -> Result<()> {
    let links = link::list(netlink, None)?;
    for ifb in &links {
        let what = ifb.alias.as_deref().and_then(|a| link::parse_alias(a, bridge));
        if let Some(veth) = what.and_then(|w| w.strip_prefix("ifb "))
            && ifb.kind.as_deref() == Some("ifb")
            && !links.iter().any(|l| l.name == veth)
        {
            link::delete(netlink, &ifb.name)?;
        }
    }
    Ok(())
}

/// Every link with our alias, the bridge last. Goes on after an error and
/// returns the first.
pub(crate) fn remove_all(netlink: &mut Netlink, bridge: &str) -> Result<()> {
    let mut ours = link::list(netlink, None)?;
    ours.retain(|l| l.alias.as_deref().is_some_and(|a| link::parse_alias(a, bridge).is_some()));
    ours.sort_by_key(|l| l.name == bridge);
    let mut outcome = Ok(());
    for l in &ours {
        outcome = outcome.and(link::delete(netlink, &l.name).map(|_| ()));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Shape;

    #[test]
    fn the_former_ip_forward_is_read_from_the_alias_it_was_written_to() {
        let config = NetworkConfig {
            bridge: "br0".into(),
            subnet: "10.9.0.0/16".parse().unwrap(),
            table: "t".into(),
            shape: Shape::default(),
        };
        let beside = Shape { apart_from: Some("tenantry0".into()), ..Shape::default() };
        let other = NetworkConfig { shape: beside, ..config.clone() };
        for value in [false, true] {
            for (config, six) in [(&config, None), (&other, Some(false)), (&other, Some(true))] {
                let alias = render_alias(config, value, six);
                assert_eq!(parse_ip_forward(&alias, "br0"), Some(value));
                assert_eq!(parse_ip6_forward(&alias), six, "{alias}");
            }
        }
        assert_eq!(
            parse_ip6_forward("tenantry br0 ip6_forward=1"),
            None,
            "a container of that name"
        );
        assert_eq!(parse_ip_forward("tenantry br0 web-1", "br0"), None);
        assert_eq!(parse_ip_forward("tenantry br1 bridge ip_forward=1", "br0"), None);
    }
}

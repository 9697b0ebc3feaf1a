//! A container's networks in Docker's words: what is asked for, and what is shown. Pure.

use std::collections::HashMap;
use std::str::FromStr;

use bollard::models::{EndpointSettings, NetworkingConfig};
use serde_json::{Map, Value, json};
use tenantry_container::{ContainerConfig, NetworkMode, NetworkWish, Record, Snapshot};
use tenantry_network::{Endpoint, Link};

use super::ports;
use crate::api::error::{ApiError, ApiResult};

const DEFAULT: &str = "bridge";
/// Before the name or id of a container whose network is shared.
const LENDER: &str = "container:";

/// The mode, and the networks where they are not left to us. The first is the one that the
/// mode names; clients that say `default` mean the default network.
pub fn wishes(
    mode: Option<&str>,
    config: Option<NetworkingConfig>,
    links: &[String],
) -> ApiResult<(NetworkMode, Option<Vec<NetworkWish>>)> {
    let named = config.and_then(|config| config.endpoints_config).unwrap_or_default();
    let mut named: HashMap<String, EndpointSettings> =
        named.into_iter().map(|(name, settings)| (known_name(&name), settings)).collect();
    let name = known_name(mode.unwrap_or_default());
    let apart = match name.as_str() {
        "none" => Some(NetworkMode::None),
        "host" => Some(NetworkMode::Host),
        other if other.starts_with(LENDER) => Some(NetworkMode::Shared),
        _ => None,
    };
    if let Some(mode) = apart {
        return match links.first() {
            Some(one) => {
                let allowed = "nothing, without a network of the container's own";
                Err(ApiError::invalid("HostConfig.Links", one, allowed))
            }
            None => Ok((mode, None)),
        };
    }
    let settings = named.remove(&name).unwrap_or_default();
    let mut first = wish(&name, settings)?;
    // Clients say the same links here and there.
    let said = links.iter().map(|text| link(text)).filter(|one| !first.links.contains(one));
    let said: Vec<Link> = said.collect();
    first.links.extend(said);
    let mut wishes = vec![first];
    let mut others: Vec<_> = named.into_iter().collect();
    others.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, settings) in others {
        wishes.push(wish(&name, settings)?);
    }
    Ok((NetworkMode::Bridge, Some(wishes)))
}

/// Whose network it is to have, where the mode says so.
pub fn lender(mode: Option<&str>) -> Option<String> {
    mode?.strip_prefix(LENDER).map(str::to_owned)
}

fn known_name(name: &str) -> String {
    match name {
        "" | "default" => DEFAULT.to_owned(),
        other => other.to_owned(),
    }
}

/// One network of one container, as `run`, `create` and `network connect` send it.
pub fn wish(network: &str, settings: EndpointSettings) -> ApiResult<NetworkWish> {
    let field = |name: &str| format!("EndpointsConfig.{network}.{name}");
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let ipam = settings.ipam_config.unwrap_or_default();
    let asked = [
        ("MacAddress", some(&settings.mac_address)),
        ("DriverOpts", settings.driver_opts.is_some_and(|options| !options.is_empty())),
        ("GwPriority", settings.gw_priority.is_some_and(|priority| priority != 0)),
        ("IPAMConfig.LinkLocalIPs", ipam.link_local_ips.is_some_and(|list| !list.is_empty())),
    ];
    if let Some((name, _)) = asked.into_iter().find(|(_, asked)| *asked) {
        return Err(ApiError::unsupported(&field(name), "this"));
    }
    Ok(NetworkWish {
        network: network.into(),
        address: parsed(field("IPAMConfig.IPv4Address"), ipam.ipv4_address, "an IPv4 address")?,
        address6: parsed(field("IPAMConfig.IPv6Address"), ipam.ipv6_address, "an IPv6 address")?,
        aliases: settings.aliases.unwrap_or_default(),
        links: settings.links.unwrap_or_default().iter().map(|text| link(text)).collect(),
    })
}

/// `CONTAINER:ALIAS`, or one word for both.
pub fn link(text: &str) -> Link {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    Link { container: container.trim_start_matches('/').to_owned(), alias: alias.to_owned() }
}

fn parsed<T: FromStr>(field: String, text: Option<String>, allowed: &str) -> ApiResult<Option<T>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ApiError::invalid(field, &text, allowed))
}

/// What is asked for and cannot be had where the container is to be. The first sentence is
/// Docker's; where it says nothing, people look for a fault of theirs.
pub fn warnings(config: &ContainerConfig, is_internal: impl Fn(&str) -> bool) -> Vec<String> {
    if config.published().is_empty() {
        return Vec::new();
    }
    let no_way_out = || config.wishes().iter().all(|wish| is_internal(&wish.network));
    let warning = match config.network {
        NetworkMode::Host => "Published ports are discarded when using host network mode",
        NetworkMode::None => "Published ports are discarded: the container is on no network",
        NetworkMode::Bridge if no_way_out() => {
            "Published ports are discarded while all networks of the container are internal"
        }
        // With another's network a wish for ports is refused.
        NetworkMode::Bridge | NetworkMode::Shared => return Vec::new(),
    };
    vec![warning.to_owned()]
}

/// `HostConfig.NetworkMode`.
pub fn mode(record: &Record) -> String {
    match record.config.network {
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Shared => {
            format!("{LENDER}{}", record.config.network_of.as_deref().unwrap_or_default())
        }
        NetworkMode::Bridge => {
            let first = record.config.wishes().into_iter().next();
            first.map_or(DEFAULT.to_owned(), |wish| wish.network)
        }
    }
}

/// `NetworkSettings.Networks`: those that it is on, or will be when it runs.
pub fn endpoints(container: &Snapshot) -> Value {
    let record = &container.record;
    let mut networks = Map::new();
    let live = container.live.as_ref();
    for wish in record.config.wishes() {
        let mut made = live.into_iter().flat_map(|live| live.endpoints());
        let made = made.find(|made| made.network_name == wish.network);
        networks.insert(wish.network.clone(), endpoint(record, &wish, made));
    }
    if let mode @ (NetworkMode::Host | NetworkMode::None) = record.config.network {
        let name = if mode == NetworkMode::Host { "host" } else { "none" };
        let wish = NetworkWish { network: name.to_owned(), ..NetworkWish::default() };
        networks.insert(name.to_owned(), endpoint(record, &wish, None));
    }
    Value::Object(networks)
}

fn endpoint(record: &Record, wish: &NetworkWish, made: Option<&Endpoint>) -> Value {
    let mut asked = Map::new();
    if let Some(address) = wish.address {
        asked.insert("IPv4Address".to_owned(), address.to_string().into());
    }
    if let Some(address) = wish.address6 {
        asked.insert("IPv6Address".to_owned(), address.to_string().into());
    }
    let ipam = if asked.is_empty() { Value::Null } else { Value::Object(asked) };
    let links = wish.links.iter().map(|link| format!("{}:{}", link.container, link.alias));
    let links = (!wish.links.is_empty()).then(|| links.collect::<Vec<_>>());
    let six = made.and_then(|made| made.six);
    let text = |of: fn(&Endpoint) -> String| made.map(of).unwrap_or_default();
    // Its name, the beginning of its id and its hostname are known to its neighbours, too.
    let own = [record.name.clone(), record.id[..12].to_owned(), record.hostname.clone()];
    let mut names: Vec<String> = Vec::new();
    if !matches!(wish.network.as_str(), DEFAULT | "host" | "none") {
        for name in own.iter().chain(&wish.aliases) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    json!({
        "IPAMConfig": ipam,
        "Links": links,
        "Aliases": wish.aliases,
        "DNSNames": names,
        "DriverOpts": null,
        "NetworkID": text(|made| made.network.clone()),
        "EndpointID": made.map(endpoint_id).unwrap_or_default(),
        "Gateway": made.filter(|made| made.default_route).map(|made| made.gateway.to_string())
            .unwrap_or_default(),
        "IPAddress": text(|made| made.address.to_string()),
        "IPPrefixLen": made.map_or(0, |made| made.prefix),
        "MacAddress": text(|made| made.mac.clone()),
        "IPv6Gateway": six.filter(|_| made.is_some_and(|made| made.default_route))
            .map(|six| six.gateway.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": six.map(|six| six.address.to_string()).unwrap_or_default(),
        "GlobalIPv6PrefixLen": six.map_or(0, |six| six.prefix),
    })
}

/// Of 64 digits, and of nothing that a person could mean: an interface's name on the host is
/// never used twice.
pub fn endpoint_id(endpoint: &Endpoint) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(endpoint.host_interface.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `NetworkSettings` of an inspection. The fields beside `Networks` are the default network's,
/// from the time when there was no other.
pub fn settings(container: &Snapshot) -> Value {
    let mut live = container.live.iter().flat_map(|live| live.endpoints());
    let default = live.find(|made| made.network_name == DEFAULT);
    let text = |of: fn(&Endpoint) -> String| default.map(of).unwrap_or_default();
    json!({
        "Ports": ports::settings(container),
        "Networks": endpoints(container),
        "EndpointID": text(endpoint_id),
        "Gateway": text(|made| made.gateway.to_string()),
        "IPAddress": text(|made| made.address.to_string()),
        "IPPrefixLen": default.map_or(0, |made| made.prefix),
        "MacAddress": text(|made| made.mac.clone()),
    })
}

#[cfg(test)]
mod tests {
    use tenantry_network::PortWish;

    use super::*;

    fn parse(mode: &str, config: Value) -> ApiResult<(NetworkMode, Option<Vec<NetworkWish>>)> {
        wishes(Some(mode), Some(serde_json::from_value(config).unwrap()), &[])
    }

    #[test]
    fn the_first_network_is_the_modes_and_the_others_follow() {
        let config = json!({ "EndpointsConfig": {
            "web": { "IPAMConfig": { "IPv4Address": "10.7.0.9", "IPv6Address": "fd00:7::9" }, "Aliases": ["front"], "Links": ["/db:store", "cache"] },
            "back": {}, "admin": {},
        } });
        let (mode, networks) = parse("web", config).unwrap();
        let networks = networks.unwrap();
        assert_eq!(mode, NetworkMode::Bridge);
        let names: Vec<&str> = networks.iter().map(|wish| wish.network.as_str()).collect();
        assert_eq!(names, ["web", "admin", "back"]);
        assert_eq!(networks[0].address, "10.7.0.9".parse().ok());
        assert_eq!(networks[0].address6, "fd00:7::9".parse().ok());
        assert_eq!(networks[0].aliases, ["front"]);
        let links: Vec<_> =
            networks[0].links.iter().map(|link| (&*link.container, &*link.alias)).collect();
        assert_eq!(links, [("db", "store"), ("cache", "cache")]);
    }

    #[test]
    fn links_are_the_first_networks_and_no_modes_without_one() {
        let links = ["/db:store".to_owned(), "cache".to_owned()];
        let config = json!({ "EndpointsConfig": { "web": { "Links": ["db:store"] } } });
        let config = serde_json::from_value(config).unwrap();
        let (_, networks) = wishes(Some("web"), Some(config), &links).unwrap();
        let aliases: Vec<String> =
            networks.unwrap()[0].links.iter().map(|link| link.alias.clone()).collect();
        assert_eq!(aliases, ["store", "cache"]);
        for mode in ["host", "none", "container:x"] {
            let error = wishes(Some(mode), None, &links).unwrap_err();
            assert!(error.message.contains("HostConfig.Links"), "{}", error.message);
        }
    }

    #[test]
    fn the_default_network_has_several_names() {
        for mode in ["", "default", "bridge"] {
            let (_, networks) =
                parse(mode, json!({ "EndpointsConfig": { "default": {} } })).unwrap();
            assert_eq!(networks.unwrap().len(), 1, "{mode}");
        }
        assert_eq!(parse("none", json!({})).unwrap(), (NetworkMode::None, None));
        assert_eq!(parse("host", json!({})).unwrap(), (NetworkMode::Host, None));
        assert_eq!(parse("container:x", json!({})).unwrap(), (NetworkMode::Shared, None));
        assert_eq!(lender(Some("container:x")).as_deref(), Some("x"));
        assert_eq!((lender(Some("web")), lender(None)), (None, None));
    }

    #[test]
    fn ports_that_lead_nowhere_are_warned_of() {
        let port = PortWish { port: "80".parse().unwrap(), host_address: None, host_ports: None };
        let on = |network: NetworkMode, names: &[&str]| {
            let wish = |name: &&str| NetworkWish { network: (*name).into(), ..Default::default() };
            ContainerConfig {
                network,
                networks: Some(names.iter().map(wish).collect()),
                ports: vec![port.clone()],
                ..ContainerConfig::default()
            }
        };
        let said = |config: ContainerConfig| warnings(&config, |name| name == "vault").concat();
        assert!(said(on(NetworkMode::Host, &[])).contains("host network mode"));
        assert!(said(on(NetworkMode::None, &[])).contains("on no network"));
        assert!(said(on(NetworkMode::Bridge, &["vault"])).contains("are internal"));
        assert_eq!(said(on(NetworkMode::Bridge, &["vault", "web"])), "");
        let without = ContainerConfig { ports: vec![], ..on(NetworkMode::Host, &[]) };
        assert_eq!(said(without), "");
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (settings, field) in [
            (json!({ "MacAddress": "02:00:00:00:00:01" }), "MacAddress"),
            (json!({ "IPAMConfig": { "IPv6Address": "10.0.0.2" } }), "IPv6Address"),
            (json!({ "IPAMConfig": { "IPv4Address": "10.0.0" } }), "IPv4Address"),
        ] {
            let error =
                parse("web", json!({ "EndpointsConfig": { "web": settings } })).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
        }
    }
}

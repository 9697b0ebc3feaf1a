//! Published ports in Docker's words: what is asked for, and what is shown. Pure.

use std::net::{IpAddr, Ipv6Addr};

use bollard::models::{PortBinding, PortMap};
use serde_json::{Map, Value, json};
use tenantry_container::{ContainerConfig, Snapshot};
use tenantry_network::{Port, PortWish, Published};

use crate::api::error::{ApiError, ApiResult};

const PORT_ALLOWED: &str = "1 to 65535, then /tcp, /udp or nothing";

/// `HostConfig.PortBindings`, by the container's port.
pub fn wishes(bindings: Option<&PortMap>) -> ApiResult<Vec<PortWish>> {
    let mut wishes = Vec::new();
    for (port, list) in bindings.into_iter().flatten() {
        let port = parse_port("HostConfig.PortBindings", port)?;
        for binding in list.iter().flatten() {
            wishes.push(wish(port, binding)?);
        }
    }
    // A map has no order; who reads an inspection wants one.
    wishes.sort_by_key(|wish| (wish.port, wish.host_address, wish.host_ports));
    Ok(wishes)
}

fn wish(port: Port, binding: &PortBinding) -> ApiResult<PortWish> {
    let field = |name: &str| format!("HostConfig.PortBindings.{port}.{name}");
    let host_address = match binding.host_ip.as_deref() {
        None | Some("" | "0.0.0.0") => None,
        Some(text) => match text.parse::<IpAddr>() {
            // No kernel leads from there to another link.
            Ok(address) if address == IpAddr::V6(Ipv6Addr::LOCALHOST) => {
                let allowed = "an address of the host other than ::1; 127.0.0.1 is one";
                return Err(ApiError::invalid(field("HostIp"), text, allowed));
            }
            Ok(address) => Some(address),
            Err(_) => return Err(ApiError::invalid(field("HostIp"), text, "an IP address")),
        },
    };
    let host_ports = match binding.host_port.as_deref() {
        None | Some("" | "0") => None,
        Some(text) => Some(parse_range(text).ok_or_else(|| {
            let allowed = "a port from 1 to 65535, a range of them, or nothing";
            ApiError::invalid(field("HostPort"), text, allowed)
        })?),
    };
    Ok(PortWish { port, host_address, host_ports })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

/// `ExposedPorts`.
pub fn exposed(texts: &[String]) -> ApiResult<Vec<Port>> {
    texts.iter().map(|text| parse_port("ExposedPorts", text)).collect()
}

fn parse_port(field: &str, text: &str) -> ApiResult<Port> {
    text.parse().map_err(|_| ApiError::invalid(field, text, PORT_ALLOWED))
}

fn published(container: &Snapshot) -> impl Iterator<Item = &Published> {
    let live = container.live.iter().flat_map(|live| live.endpoints());
    live.flat_map(|endpoint| &endpoint.published)
}

/// `NetworkSettings.Ports`: null for what is exposed and leads nowhere.
pub fn settings(container: &Snapshot) -> Value {
    let mut ports = Map::new();
    if container.live.is_some() {
        for port in &container.record.config.exposed {
            ports.insert(port.to_string(), Value::Null);
        }
    }
    for one in published(container) {
        let binding = json!({ "HostIp": one.host_address.to_string(), "HostPort": one.host_port.to_string() });
        match ports.entry(one.port.to_string()).or_insert(Value::Null) {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(ports)
}

/// `Ports` of a list's entry.
pub fn summary(container: &Snapshot) -> Vec<Value> {
    let led = |one: &Published| {
        json!({
            "IP": one.host_address.to_string(),
            "PrivatePort": one.port.number,
            "PublicPort": one.host_port,
            "Type": one.port.protocol.as_str(),
        })
    };
    let mut ports: Vec<Value> = published(container).map(led).collect();
    for port in container.live.iter().flat_map(|_| &container.record.config.exposed) {
        if !published(container).any(|one| one.port == *port) {
            ports.push(json!({ "PrivatePort": port.number, "Type": port.protocol.as_str() }));
        }
    }
    ports
}

/// `HostConfig.PortBindings`, as it was asked for.
pub fn bindings(config: &ContainerConfig) -> Value {
    let mut ports = Map::new();
    for wish in &config.ports {
        let host_port = match wish.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let address = wish.host_address.map(|address| address.to_string());
        let binding = json!({ "HostIp": address.unwrap_or_default(), "HostPort": host_port });
        match ports.entry(wish.port.to_string()).or_insert(json!([])) {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(ports)
}

/// `Config.ExposedPorts`.
pub fn exposed_view(config: &ContainerConfig) -> Value {
    config.exposed.iter().map(|port| (port.to_string(), json!({}))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bindings: Value) -> ApiResult<Vec<PortWish>> {
        wishes(Some(&serde_json::from_value(bindings).unwrap()))
    }

    #[test]
    fn every_binding_that_a_client_sends_is_a_wish() {
        let made = parse(json!({
            "80/tcp": [{ "HostIp": "", "HostPort": "8080" }, { "HostIp": "127.0.0.1", "HostPort": "" }],
            "53/udp": [{ "HostPort": "5300-5310" }],
            "443/tcp": null,
            "81/tcp": [{ "HostIp": "::", "HostPort": "81" }],
        }))
        .unwrap();
        let shown: Vec<_> = made
            .iter()
            .map(|wish| (wish.port.to_string(), wish.host_address, wish.host_ports))
            .collect();
        let home = "127.0.0.1".parse().ok();
        let six = "::".parse().ok();
        let expected = [
            ("53/udp".to_owned(), None, Some((5300, 5310))),
            ("80/tcp".to_owned(), None, Some((8080, 8080))),
            ("80/tcp".to_owned(), home, None),
            ("81/tcp".to_owned(), six, Some((81, 81))),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_port_is_refused_by_name() {
        for (bindings, field) in [
            (json!({ "80/sctp": [] }), "PortBindings"),
            (json!({ "80/tcp": [{ "HostPort": "x" }] }), "HostPort"),
            (json!({ "80/tcp": [{ "HostPort": "90-80" }] }), "HostPort"),
            (json!({ "80/tcp": [{ "HostIp": "::1" }] }), "HostIp"),
            (json!({ "80/tcp": [{ "HostIp": "localhost" }] }), "HostIp"),
        ] {
            let error = parse(bindings).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
        }
        assert!(
            exposed(&["80/tcp".into(), "x".into()]).unwrap_err().message.contains("ExposedPorts")
        );
    }
}

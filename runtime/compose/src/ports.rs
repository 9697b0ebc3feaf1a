//! Published ports as Docker's clients read them: `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, each
//! port or a range. Pure.

use bollard_stubs::models::{PortBinding, PortMap};

/// A text that is no published port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not allowed: {reason}")]
pub struct Wrong {
    text: String,
    reason: &'static str,
}

const FORM: &str = "[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL], ports 1 to 65535 or ranges of them";

/// Adds what the Engine API wants of `text`: bindings, by the container's port.
pub fn bind(map: &mut PortMap, text: &str) -> Result<(), Wrong> {
    let (spec, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (address, ports) = address(spec).ok_or_else(|| wrong(text, FORM))?;
    let (host, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (first, last) = range(text, container)?;
    for number in first..=last {
        let host_port = match host {
            "" => None,
            host => Some(host_port(text, host, (first, last), number)?),
        };
        let binding = PortBinding { host_ip: Some(address.to_owned()), host_port };
        let of_port = map.entry(format!("{number}/{protocol}")).or_default();
        of_port.get_or_insert_default().push(binding);
    }
    Ok(())
}

/// The host's address, and what stands behind it. One of IPv6 stands in brackets.
fn address(spec: &str) -> Option<(&str, &str)> {
    if let Some(rest) = spec.strip_prefix('[') {
        return rest.split_once("]:");
    }
    match spec.matches(':').count() {
        0 | 1 => Some(("", spec)),
        2 => spec.split_once(':'),
        _ => None,
    }
}

/// Ranges of one length go together; several of the host's for one of the container's are a
/// choice for the agent.
fn host_port(text: &str, host: &str, inside: (u16, u16), number: u16) -> Result<String, Wrong> {
    let (first, last) = range(text, host)?;
    if last - first == inside.1 - inside.0 {
        return Ok((first + (number - inside.0)).to_string());
    }
    if inside.0 != inside.1 {
        return Err(wrong(text, "both ranges must be of one length"));
    }
    Ok(host.to_owned())
}

fn range(text: &str, ports: &str) -> Result<(u16, u16), Wrong> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(wrong(text, FORM)),
    }
}

fn wrong(text: &str, reason: &'static str) -> Wrong {
    Wrong { text: text.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Vec<String> {
        let mut map = PortMap::new();
        bind(&mut map, text).unwrap();
        let mut all = Vec::new();
        for (port, list) in map {
            for binding in list.unwrap() {
                let (address, host) = (binding.host_ip.unwrap(), binding.host_port);
                all.push(format!("{address}|{}|{port}", host.unwrap_or_default()));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn every_form_of_a_published_port_is_read() {
        assert_eq!(rendered("80"), ["||80/tcp"]);
        assert_eq!(rendered("8080:80"), ["|8080|80/tcp"]);
        assert_eq!(rendered("127.0.0.1:8080:80/udp"), ["127.0.0.1|8080|80/udp"]);
        assert_eq!(rendered("127.0.0.1::80"), ["127.0.0.1||80/tcp"]);
        assert_eq!(rendered("[::1]:8080:80"), ["::1|8080|80/tcp"]);
        assert_eq!(rendered("8000-8001:80-81"), ["|8000|80/tcp", "|8001|81/tcp"]);
        assert_eq!(rendered("8000-8010:80"), ["|8000-8010|80/tcp"]);
    }

    #[test]
    fn what_is_no_port_is_refused_by_its_text() {
        for text in ["", "x", "0", "80-70", "8000-8002:80-81", "70000:80", "a:b:c:d", "[::1:80:80"]
        {
            let error = bind(&mut PortMap::new(), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not allowed")), "{error}");
        }
    }
}

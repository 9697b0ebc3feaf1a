//! `-p` as Docker's client reads it: `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, each port or a
//! range. Pure.

use std::collections::HashMap;

use bollard::models::{PortBinding, PortMap};

/// What the Engine API wants of these: bindings, by the container's port.
pub fn bindings(texts: &[String]) -> anyhow::Result<PortMap> {
    let mut map: PortMap = HashMap::new();
    for text in texts {
        let (spec, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let mut parts: Vec<&str> = spec.rsplitn(3, ':').collect();
        parts.resize(3, "");
        let [container, host, address] = [parts[0], parts[1], parts[2]];
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
    }
    Ok(map)
}

/// Ranges of one length go together; several of the host's for one of the container's are a
/// choice for the agent.
fn host_port(text: &str, host: &str, inside: (u16, u16), number: u16) -> anyhow::Result<String> {
    let (first, last) = range(text, host)?;
    if last - first == inside.1 - inside.0 {
        return Ok((first + (number - inside.0)).to_string());
    }
    anyhow::ensure!(
        inside.0 == inside.1,
        "--publish {text:?} is not allowed: both ranges must be of one length"
    );
    Ok(host.to_owned())
}

fn range(text: &str, ports: &str) -> anyhow::Result<(u16, u16)> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => anyhow::bail!(
            "--publish {text:?} is not allowed: [[ADDRESS:]HOST:]CONTAINER[/PROTOCOL], ports 1 to \
             65535 or ranges of them"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> Vec<String> {
        let map = bindings(&[text.to_owned()]).unwrap();
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
        assert_eq!(rendered("8000-8001:80-81"), ["|8000|80/tcp", "|8001|81/tcp"]);
        assert_eq!(rendered("8000-8010:80"), ["|8000-8010|80/tcp"]);
    }

    #[test]
    fn what_is_no_port_is_refused_by_name() {
        for wrong in ["", "x", "0", "80-70", "8000-8002:80-81", "70000:80", "a:b:c:d"] {
            let error = bindings(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("--publish"), "{wrong}: {error}");
        }
    }
}

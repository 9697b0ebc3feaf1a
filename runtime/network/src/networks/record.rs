//! What is known of a network beyond the agent's life, and what may be asked for. Pure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::config::{NetworkConfig, Shape};
use crate::error::{Error, Result};
use crate::subnet::Ipv4Subnet;
use crate::subnet6::Ipv6Subnet;

const MOST_NAME_BYTES: usize = 128;
const MOST_LABELS: usize = 256;
/// Of all names and values of labels and options together.
const MOST_TEXT_BYTES: usize = 64 << 10;
/// Docker's, and what its clients mean by no network.
pub(crate) const RESERVED: [&str; 4] = ["bridge", "host", "none", "default"];

pub(crate) const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    Bridge,
    Host,
    Null,
}

impl Driver {
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Host => "host",
            Driver::Null => "null",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    pub created_unix_ns: u64,
    pub driver: Driver,
    /// `None`: of `host` and `none`.
    pub bridge: Option<String>,
    pub subnet: Option<Ipv4Subnet>,
    #[serde(default)]
    pub shape: Shape,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl NetworkRecord {
    /// One of the three that are always there.
    pub fn is_predefined(&self) -> bool {
        RESERVED.contains(&self.name.as_str())
    }

    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.subnet.map(|subnet| self.shape.gateway.unwrap_or_else(|| subnet.gateway()))
    }

    /// `None` for what has no bridge.
    pub(crate) fn config(&self) -> Option<NetworkConfig> {
        let bridge = self.bridge.clone()?;
        let table = bridge.replace(['-', '.'], "_");
        Some(NetworkConfig { bridge, subnet: self.subnet?, table, shape: self.shape.clone() })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SixWish {
    /// `None`: one is drawn of those that are nobody's (RFC 4193).
    pub subnet: Option<Ipv6Subnet>,
    pub gateway: Option<Ipv6Addr>,
}

/// What a user asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateNetwork {
    pub name: String,
    /// `None`: one that overlaps nothing of this host.
    pub subnet: Option<Ipv4Subnet>,
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Ipv4Subnet>,
    pub internal: bool,
    /// IPv6 besides.
    pub six: Option<SixWish>,
    pub mtu: Option<u32>,
    /// The bridge's name; `None`: one is made of the id.
    pub bridge: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

impl CreateNetwork {
    /// Everything that can be judged without the host.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |field, value: &dyn ToString, allowed: String| {
            Err(Error::Invalid { field, value: value.to_string(), allowed })
        };
        let name = &self.name;
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if !(first && rest && name.len() <= MOST_NAME_BYTES) {
            let allowed =
                format!("1 to {MOST_NAME_BYTES} of [a-zA-Z0-9_.-], the first a letter or digit");
            return invalid("name", name, allowed);
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Error::Predefined { name: name.clone(), verb: "created" });
        }
        if self.labels.len() + self.options.len() > MOST_LABELS {
            let allowed = format!("at most {MOST_LABELS} together");
            return invalid("labels and options", &self.labels.len(), allowed);
        }
        let texts = self.labels.iter().chain(&self.options);
        let bytes: usize = texts.map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MOST_TEXT_BYTES {
            let allowed = format!("at most {MOST_TEXT_BYTES} bytes together");
            return invalid("labels and options", &format!("{bytes} bytes"), allowed);
        }
        if self.six.is_some_and(|six| six.subnet.is_none() && six.gateway.is_some()) {
            return invalid("subnet", &"", "an IPv6 subnet, where its gateway is set".to_owned());
        }
        if self.subnet.is_none() && (self.gateway.is_some() || self.range.is_some()) {
            return invalid("subnet", &"", "a subnet, where gateway or ip_range is set".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_granted_is_refused_by_name() {
        let check = |change: fn(&mut CreateNetwork), words: &str| {
            let mut request = CreateNetwork { name: "web".into(), ..CreateNetwork::default() };
            request.check().expect("the plain request is right");
            change(&mut request);
            let message = request.check().unwrap_err().to_string();
            assert!(message.starts_with(words), "{message}");
        };
        check(|r| r.name.clear(), "name = ");
        check(|r| r.name = "a/b".into(), "name = a/b");
        check(|r| r.name = "-x".into(), "name = -x");
        check(|r| r.name = "host".into(), "host is a pre-defined network");
        check(|r| r.gateway = "10.0.0.1".parse().ok(), "subnet = ");
        check(|r| drop(r.labels.insert("x".repeat(70_000), String::new())), "labels and options");
    }
}

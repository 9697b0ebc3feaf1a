//! `linux.resources.devices`: which devices may be opened. Pure.
//!
//! The last rule that matches decides, and where none does nobody may. What each container has
//! (its terminals, `/dev/null`) and what `linux.devices` lists stand behind the rules.

use oci_spec::runtime::{Linux, LinuxDeviceType};
use rustix::fs::FileType;
use tenantry_cgroupfs::DeviceRule;
use tenantry_shim::plan::DEVICES;

/// A node of the host's `/dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNode {
    pub path: std::path::PathBuf,
    pub kind: FileType,
    pub major: u32,
    pub minor: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None`: of both kinds, with all numbers.
    kind: Option<FileType>,
    /// `None`: all.
    major: Option<u32>,
    minor: Option<u32>,
    access: String,
}

/// Terminals: the multiplexer, and the slaves of a container's own `devpts`.
const TERMINALS: [(u32, Option<u32>); 3] = [(5, Some(1)), (5, Some(2)), (136, None)];

impl Rules {
    pub fn of(linux: &Linux) -> Self {
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let resources = linux.resources().as_ref().and_then(|all| all.devices().as_ref());
        let mut rules = Vec::new();
        for rule in resources.into_iter().flatten() {
            let kind = match rule.typ() {
                None | Some(LinuxDeviceType::A) => None,
                Some(LinuxDeviceType::B) => Some(FileType::BlockDevice),
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(FileType::CharacterDevice),
                // FIFOs are files, which no rule is about.
                Some(LinuxDeviceType::P) => continue,
            };
            rules.push(Rule {
                allow: rule.allow(),
                kind,
                major: number(rule.major()),
                minor: number(rule.minor()),
                access: rule.access().clone().unwrap_or_else(|| "rwm".to_owned()),
            });
        }
        let allowed = |kind, major, minor, access: &str| {
            let access = access.to_owned();
            Rule { allow: true, kind: Some(kind), major, minor, access }
        };
        let character = FileType::CharacterDevice;
        // Who may make nodes may make any: they are opened by the rules again.
        rules.push(allowed(character, None, None, "m"));
        rules.push(allowed(FileType::BlockDevice, None, None, "m"));
        for (_, major, minor) in DEVICES {
            rules.push(allowed(character, Some(major), Some(minor), "rwm"));
        }
        for (major, minor) in TERMINALS {
            rules.push(allowed(character, Some(major), minor, "rwm"));
        }
        for device in linux.devices().iter().flatten() {
            let kind = match device.typ() {
                LinuxDeviceType::B => FileType::BlockDevice,
                LinuxDeviceType::C | LinuxDeviceType::U => character,
                _ => continue,
            };
            let (major, minor) = (number(Some(device.major())), number(Some(device.minor())));
            rules.push(allowed(kind, major, minor, "rwm"));
        }
        Self(rules)
    }

    /// To read, or to write.
    pub fn allow(&self, node: &HostNode) -> bool {
        let is = |wanted: Option<u32>, number: u32| wanted.is_none_or(|wanted| wanted == number);
        let about = |rule: &&Rule| {
            rule.access.contains(['r', 'w'])
                && rule.kind.is_none_or(|kind| kind == node.kind)
                && is(rule.major, node.major)
                && is(rule.minor, node.minor)
        };
        self.0.iter().rev().find(about).is_some_and(|rule| rule.allow)
    }

    /// As v1's controller takes them.
    pub fn lines(&self) -> Vec<DeviceRule> {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        let mut lines = vec![DeviceRule { allow: false, text: "a".to_owned() }];
        for rule in &self.0 {
            let numbers = format!("{}:{} {}", number(rule.major), number(rule.minor), rule.access);
            // `a` alone would be with all rights, and forget all other rules.
            let kinds = match rule.kind {
                None if rule.major.is_none() && rule.minor.is_none() && rule.access == "rwm" => {
                    lines.push(DeviceRule { allow: rule.allow, text: "a".to_owned() });
                    continue;
                }
                None => ["b", "c"].as_slice(),
                Some(FileType::BlockDevice) => &["b"],
                Some(_) => &["c"],
            };
            for kind in kinds {
                lines.push(DeviceRule { allow: rule.allow, text: format!("{kind} {numbers}") });
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(resources: serde_json::Value, devices: serde_json::Value) -> Rules {
        let linux = json!({"resources": {"devices": resources}, "devices": devices});
        Rules::of(&serde_json::from_value(linux).unwrap())
    }

    fn node(kind: FileType, major: u32, minor: u32) -> HostNode {
        HostNode { path: "/dev/x".into(), kind, major, minor }
    }

    #[test]
    fn the_last_rule_that_matches_decides_and_none_is_no() {
        let none = json!([]);
        let deny = json!({"allow": false, "access": "rwm"});
        let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"});
        let check = |list: serde_json::Value, major: u32, minor: u32, expected: bool| {
            let node = node(FileType::CharacterDevice, major, minor);
            assert_eq!(rules(list.clone(), none.clone()).allow(&node), expected, "{list}");
        };
        check(json!([]), 10, 229, false);
        check(json!([]), 1, 3, true);
        check(json!([]), 136, 7, true);
        check(json!([deny, fuse]), 10, 229, true);
        check(json!([deny, fuse]), 10, 230, false);
        check(json!([fuse, deny]), 10, 229, false);
        check(json!([deny]), 5, 2, true);
        // To make a node is not to open it.
        let make = json!({"allow": true, "type": "c", "access": "m"});
        check(json!([deny, make]), 10, 229, false);
        let block = node(FileType::BlockDevice, 10, 229);
        assert!(!rules(json!([deny, fuse]), none.clone()).allow(&block));
        let listed = json!([{"path": "/dev/x", "type": "b", "major": 8, "minor": 0}]);
        let disk = node(FileType::BlockDevice, 8, 0);
        assert!(rules(json!([deny]), listed).allow(&disk));
        assert!(!rules(json!([deny]), none).allow(&disk));
    }

    #[test]
    fn the_first_line_takes_everything_away() {
        let fuse = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        let five = json!({"allow": true, "major": 5, "access": "r"});
        let lines = rules(json!([fuse, five]), json!([])).lines();
        let lines: Vec<String> = lines
            .iter()
            .map(|line| format!("{} {}", if line.allow { "+" } else { "-" }, line.text))
            .collect();
        assert_eq!(lines[..4], ["- a", "+ c 10:229 rw", "+ b 5:* r", "+ c 5:* r"]);
        assert!(
            lines.contains(&"+ c *:* m".to_owned()) && lines.contains(&"+ c 136:* rwm".to_owned())
        );
    }
}

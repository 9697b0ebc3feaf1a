//! Seccomp profiles in Docker's format, and which of their rules apply here.
//!
//! Owns the serde types and the pure choice of rules by capabilities,
//! architecture and kernel version. [`super::compile`] turns the chosen rules
//! into a program.

use serde::{Deserialize, Deserializer};

use crate::{capabilities, error::Error};

/// moby `profiles/seccomp/seccomp.go`, type `Seccomp`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    pub default_action: Action,
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    #[serde(default)]
    pub architectures: Vec<String>,
    #[serde(default)]
    pub arch_map: Vec<ArchMapEntry>,
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchMapEntry {
    pub architecture: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sub_architectures: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// An older form of `names` with one entry.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    pub action: Action,
    #[serde(default)]
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub args: Vec<Arg>,
    #[serde(default)]
    pub comment: String,
    #[serde(default)]
    pub includes: Condition,
    #[serde(default)]
    pub excludes: Condition,
}

/// Empty lists say nothing; `minKernel` is `major.minor`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Condition {
    #[serde(deserialize_with = "null_is_empty")]
    pub caps: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub arches: Vec<String>,
    pub min_kernel: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arg {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Operator {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What rules are chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub capabilities: capabilities::Set,
    /// `(major, minor)` of the running kernel.
    pub kernel: (u32, u32),
    /// Go's name of the machine: `amd64`, `arm64`, `riscv64`.
    pub arch: &'static str,
}

/// The default profile's text. Format and content follow moby's
/// `profiles/seccomp/default.json` (v28: without `io_uring`, without `AF_VSOCK`),
/// grouped by purpose and cut to the architectures that this agent is built for.
pub const DEFAULT: &str = include_str!("default.json");

impl Profile {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let profile: Self = serde_json::from_str(text).map_err(|error| {
            Error::invalid("seccomp", error, "a profile in Docker's JSON format")
        })?;
        for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
            if arg.index > 5 {
                return Err(Error::invalid("seccomp args.index", arg.index, "0 to 5"));
            }
        }
        Ok(profile)
    }

    /// The rules that apply, in the profile's order.
    pub fn rules(&self, facts: Facts) -> impl Iterator<Item = &Rule> {
        self.syscalls.iter().filter(move |rule| rule.applies(facts))
    }

    /// The machine's further architectures (32-bit programs), by libseccomp's names.
    pub fn sub_architectures(&self, native: &str) -> Vec<&str> {
        let mapped = self.arch_map.iter().find(|entry| entry.architecture == native);
        let mapped = mapped.into_iter().flat_map(|entry| &entry.sub_architectures);
        let listed = self.architectures.iter().filter(|name| *name != native);
        mapped.chain(listed).map(String::as_str).collect()
    }
}

impl Rule {
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().chain(&self.name).map(String::as_str)
    }

    fn applies(&self, facts: Facts) -> bool {
        let has = |name: &String| capabilities::contains(facts.capabilities, name);
        let here = |name: &String| name == facts.arch;
        let new_enough = |version: &Option<String>| {
            version.as_deref().and_then(parse_version).is_none_or(|least| facts.kernel >= least)
        };
        let (includes, excludes) = (&self.includes, &self.excludes);
        includes.caps.iter().all(has)
            && (includes.arches.is_empty() || includes.arches.iter().any(here))
            && new_enough(&includes.min_kernel)
            && !excludes.caps.iter().any(has)
            && !excludes.arches.iter().any(here)
            && (excludes.min_kernel.is_none() || !new_enough(&excludes.min_kernel))
    }
}

/// `6.18` of `6.18`, `6.18.44-something`.
pub fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(capabilities: &[&str]) -> Facts {
        let all = capabilities::all();
        let set = capabilities::names(all).iter().enumerate().fold(0, |set, (n, name)| {
            if capabilities.contains(&name.as_str()) { set | 1 << n } else { set }
        });
        Facts { capabilities: set, kernel: (6, 1), arch: "amd64" }
    }

    fn allows(profile: &Profile, facts: Facts, name: &str) -> bool {
        profile.rules(facts).any(|rule| {
            rule.action == Action::Allow
                && rule.args.is_empty()
                && rule.all_names().any(|n| n == name)
        })
    }

    #[test]
    fn the_default_profile_follows_capabilities_arch_and_kernel() {
        let profile = Profile::parse(DEFAULT).unwrap();
        let plain = facts(&[]);
        let admin = facts(&["CAP_SYS_ADMIN"]);
        for (facts, name, expected) in [
            (plain, "read", true),
            (plain, "mount", false),
            (admin, "mount", true),
            (plain, "clone3", false),
            (admin, "clone3", true),
            (plain, "io_uring_setup", false),
            (plain, "arch_prctl", true),
            (Facts { arch: "arm64", ..plain }, "arch_prctl", false),
            (plain, "ptrace", true),
            (Facts { kernel: (4, 7), ..plain }, "ptrace", false),
            (plain, "reboot", false),
            (facts(&["CAP_SYS_BOOT"]), "reboot", true),
        ] {
            assert_eq!(allows(&profile, facts, name), expected, "{name} {facts:?}");
        }
    }

    #[test]
    fn a_wrong_profile_is_refused_with_the_place() {
        for text in ["", "{}", r#"{"defaultAction":"SCMP_ACT_FLY"}"#, r#"{"default":1}"#] {
            let error = Profile::parse(text).unwrap_err().to_string();
            assert!(error.contains("seccomp") && error.contains("line"), "{error}");
        }
        let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],
            "action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert!(Profile::parse(index).unwrap_err().to_string().contains("0 to 5"));
    }

    #[test]
    fn versions_are_two_numbers() {
        assert_eq!(parse_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse_version("4.8"), Some((4, 8)));
        assert_eq!(parse_version("six"), None);
    }
}

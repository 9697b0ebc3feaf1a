//! What a container is asked to be: the request, and its validation.
//!
//! Owns the typed request that API and CLI fill and that records keep. Pure: the
//! only judge of values, it touches neither image nor host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{error::Error, limits::LimitsPatch, restart::RestartPolicy, signals};

const MOST_NAME_BYTES: usize = 128;
const MOST_LABELS: usize = 256;
const MOST_TEXT_BYTES: usize = 1 << 20;
const MOST_BINDS: usize = 128;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateRequest {
    /// `None`: one is made up.
    pub name: Option<String>,
    /// An image's name, or its id or the beginning of that.
    pub image: String,
    pub config: ContainerConfig,
    pub limits: LimitsPatch,
}

/// Absent fields are the image's, or Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerConfig {
    /// `Some([])` switches the image's off.
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// `NAME=value` sets, `NAME` alone takes away what the image set.
    pub env: Vec<String>,
    /// `name`, `uid`, `name:group`, `uid:gid`.
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// Default: the first twelve digits of the id.
    pub hostname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// Default 10.
    pub stop_timeout_s: Option<u64>,
    pub restart: RestartPolicy,
    /// Removed as soon as it ended; nothing of it survives a power loss.
    pub auto_remove: bool,
    pub network: NetworkMode,
    pub binds: Vec<BindRequest>,
    /// Whether [`crate::Engine::stdin`] leads to the program; else `/dev/null`.
    pub open_stdin: bool,
    pub read_only_rootfs: bool,
    pub user_namespace: bool,
    pub no_new_privileges: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub seccomp: SeccompChoice,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// An address on the bridge.
    #[default]
    Bridge,
    /// The host's own interfaces. Bandwidth limits are refused.
    Host,
    /// Only `lo`.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindRequest {
    /// Absolute, on the host; must exist at each start.
    pub source: String,
    /// Absolute, in the container.
    pub target: String,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
    /// A profile's whole text in Docker's format.
    Profile(String),
}

/// A container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub fn check_name(name: &str) -> Result<(), Error> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && (2..=MOST_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    let allowed = format!("2 to {MOST_NAME_BYTES} of [a-zA-Z0-9_.-], the first a letter or digit");
    Err(Error::invalid("name", name, allowed))
}

/// Whether a text is a whole container id: 64 lower-case hexadecimal digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Everything that can be judged without image and host.
pub fn check(request: &CreateRequest) -> Result<(), Error> {
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    if request.image.is_empty() {
        return Err(Error::invalid("image", "", "an image's name or id"));
    }
    let config = &request.config;
    if let Some(hostname) = &config.hostname {
        check_hostname(hostname)?;
    }
    if let Some(signal) = &config.stop_signal {
        signals::parse_signal("stop_signal", signal)?;
    }
    if let Some(dir) = &config.working_dir {
        check_absolute("working_dir", dir)?;
    }
    if config.auto_remove && config.restart != RestartPolicy::No {
        let allowed = "no, when the container is to be removed at its end";
        return Err(Error::invalid("restart policy", config.restart, allowed));
    }
    if let Some(score) = config.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid("oom_score_adj", score, "-1000 to 1000"));
    }
    if config.labels.len() > MOST_LABELS {
        let allowed = format!("at most {MOST_LABELS}");
        return Err(Error::invalid("labels", config.labels.len(), allowed));
    }
    if config.network != NetworkMode::Bridge && request.limits.changes_bandwidth() {
        let value = "a bandwidth limit";
        return Err(Error::invalid("limits", value, "bandwidth limits on network bridge only"));
    }
    check_texts("env", &config.env)?;
    check_texts("command", config.command.as_deref().unwrap_or_default())?;
    check_texts("entrypoint", config.entrypoint.as_deref().unwrap_or_default())?;
    if let Some(entry) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(Error::invalid("env", entry, "NAME=value or NAME"));
    }
    check_binds(&config.binds)
}

fn check_binds(binds: &[BindRequest]) -> Result<(), Error> {
    if binds.len() > MOST_BINDS {
        return Err(Error::invalid("binds", binds.len(), format!("at most {MOST_BINDS}")));
    }
    for bind in binds {
        check_absolute("binds.source", &bind.source)?;
        check_absolute("binds.target", &bind.target)?;
        if bind.target.trim_matches('/').is_empty() {
            return Err(Error::invalid("binds.target", &bind.target, "a path below /"));
        }
    }
    Ok(())
}

pub(crate) fn check_absolute(field: &str, path: &str) -> Result<(), Error> {
    let plain = !path.contains('\0') && !path.split('/').any(|part| part == "..");
    if path.starts_with('/') && plain && path.len() < 4096 {
        return Ok(());
    }
    Err(Error::invalid(field, path, "an absolute path without .., shorter than 4096 bytes"))
}

/// Arguments and variables end at a zero byte in the kernel's eyes.
pub(crate) fn check_texts(field: &str, texts: &[String]) -> Result<(), Error> {
    if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
        return Err(Error::invalid(field, text, "text without zero bytes"));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > MOST_TEXT_BYTES {
        let allowed = format!("at most {MOST_TEXT_BYTES} bytes");
        return Err(Error::invalid(field, format!("{bytes} bytes"), allowed));
    }
    Ok(())
}

fn check_hostname(hostname: &str) -> Result<(), Error> {
    let label_is_right = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if hostname.len() <= 64 && hostname.split('.').all(label_is_right) {
        return Ok(());
    }
    let allowed = "at most 64 letters, digits, - and _ in parts divided by single dots";
    Err(Error::invalid("hostname", hostname, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        for right in ["web", "a1", "A.b_c-d", "0x"] {
            assert!(check_name(right).is_ok(), "{right}");
        }
        for wrong in ["", "a", "-web", ".web", "we b", "wéb", "../etc", "a/b", &"x".repeat(129)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_64_lower_hex_digits() {
        assert!(is_id(&"0af".repeat(22)[..64]));
        assert!(!is_id(&"0AF".repeat(22)[..64]));
        assert!(!is_id("0af"));
    }

    #[test]
    fn a_wrong_field_is_named_with_what_is_allowed() {
        let check = |change: fn(&mut CreateRequest), field: &str| {
            let mut request = CreateRequest { image: "demo".into(), ..CreateRequest::default() };
            check(&request).expect("the plain request is right");
            change(&mut request);
            match super::check(&request) {
                Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        };
        check(|r| r.name = Some("/x".into()), "name");
        check(|r| r.image.clear(), "image");
        check(|r| r.config.hostname = Some("a..b".into()), "hostname");
        check(|r| r.config.stop_signal = Some("SIGFLY".into()), "stop_signal");
        check(|r| r.config.working_dir = Some("srv".into()), "working_dir");
        check(|r| r.config.env = vec!["=x".into()], "env");
        check(|r| r.config.env = vec!["A=\0".into()], "env");
        check(|r| r.config.oom_score_adj = Some(1001), "oom_score_adj");
        check(
            |r| {
                r.config.auto_remove = true;
                r.config.restart = RestartPolicy::Always;
            },
            "restart policy",
        );
        check(
            |r| {
                let bind =
                    BindRequest { source: "/a/../b".into(), target: "/x".into(), read_only: false };
                r.config.binds.push(bind);
            },
            "binds.source",
        );
    }
}

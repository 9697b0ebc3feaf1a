//! `[registries]` of the configuration file, and what is made of it. Pure.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tenantry_registry::{Insecure, Settings};

use crate::config::{ConfigError, absolute, check};

const MAX_NAMES: usize = 100;

/// How registries are spoken to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRegistries {
    /// `HOST[:PORT]` or `ADDRESS/PREFIX`: plain HTTP will do where no TLS is spoken. 127.0.0.0/8,
    /// ::1 and localhost need not be named.
    pub insecure: Vec<String>,
    /// `HOST[:PORT]/*.crt` in it are trusted for that registry, beside what the host trusts;
    /// `*.cert` and `*.key` are what it knows us by. `/etc/docker/certs.d` without it.
    pub certs_dir: Option<PathBuf>,
    /// Token services that may be told a registry's password, beside those of its own domain.
    pub token_hosts: Vec<String>,
    /// Seconds for an answer to begin, and for a stream to bring anything; 30 without it.
    pub patience_s: Option<u64>,
    /// How often a request is tried at most; 5 without it.
    pub attempts: Option<u32>,
}

impl RawRegistries {
    pub fn validate(self) -> Result<Settings, ConfigError> {
        let default = Settings::default();
        let few = |field, names: &[String]| {
            let (count, allowed) = (names.len(), format!("at most {MAX_NAMES}"));
            check(count <= MAX_NAMES, field, || format!("{count} names"), || allowed)
        };
        few("registries.insecure", &self.insecure)?;
        few("registries.token_hosts", &self.token_hosts)?;
        let insecure = self.insecure.into_iter().map(|text| {
            text.parse::<Insecure>().map_err(|error| ConfigError::Invalid {
                field: "registries.insecure",
                value: text,
                allowed: error.to_string(),
            })
        });
        let patience_s = self.patience_s.unwrap_or(default.patience.as_secs());
        check(
            (1..=600).contains(&patience_s),
            "registries.patience_s",
            || patience_s.to_string(),
            || "1 to 600".into(),
        )?;
        let attempts = self.attempts.unwrap_or(default.attempts);
        check(
            (1..=20).contains(&attempts),
            "registries.attempts",
            || attempts.to_string(),
            || "1 to 20".into(),
        )?;
        Ok(Settings {
            insecure: insecure.collect::<Result<_, _>>()?,
            certs_dir: absolute("registries.certs_dir", self.certs_dir, default.certs_dir)?,
            token_hosts: self.token_hosts,
            patience: Duration::from_secs(patience_s),
            attempts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_section_gives_the_documented_defaults() {
        assert_eq!(RawRegistries::default().validate().unwrap(), Settings::default());
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        for (text, field) in [
            ("insecure = [\"http://registry\"]", "registries.insecure"),
            ("insecure = [\"10.0.0.0/33\"]", "registries.insecure"),
            ("certs_dir = \"certs\"", "registries.certs_dir"),
            ("patience_s = 0", "registries.patience_s"),
            ("attempts = 21", "registries.attempts"),
        ] {
            let raw: RawRegistries = toml::from_str(text).unwrap();
            let error = raw.validate().unwrap_err().to_string();
            assert!(error.contains(field) && error.contains("not allowed"), "{error}");
        }
    }
}

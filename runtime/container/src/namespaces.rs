//! `--pid`, `--ipc` and `--uts`: whose namespaces a container is in. Pure.
//!
//! Owns the modes and which of them go together. Whether the other container runs is known at
//! each start, and asked by the engine.

use serde::{Deserialize, Serialize};

use crate::{config::ContainerConfig, error::Error};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// Its own, and nobody else's.
    #[default]
    Private,
    /// Its own, which other containers may enter. IPC alone; a pid namespace always is.
    Shareable,
    Host,
    /// Another container's: in a request by any reference, in a record by its id.
    Container(String),
}

impl NamespaceMode {
    pub fn is_own(&self) -> bool {
        matches!(self, NamespaceMode::Private | NamespaceMode::Shareable)
    }

    /// Docker's word.
    pub fn render(&self) -> String {
        match self {
            NamespaceMode::Private => "private".to_owned(),
            NamespaceMode::Shareable => "shareable".to_owned(),
            NamespaceMode::Host => "host".to_owned(),
            NamespaceMode::Container(id) => format!("container:{id}"),
        }
    }
}

/// # Errors
/// [`Error::Invalid`] names the field.
pub fn check(config: &ContainerConfig) -> Result<(), Error> {
    for (field, mode) in [("pid", &config.pid), ("ipc", &config.ipc), ("uts", &config.uts)] {
        let refused = |allowed: &str| Err(Error::invalid(field, mode.render(), allowed));
        // Root of a user namespace owns neither the host's namespaces nor another container's,
        // and may mount neither proc nor mqueue for them.
        if config.user_namespace && !mode.is_own() {
            return refused("a namespace of its own, beside a user namespace of its own");
        }
        match (field, mode) {
            (_, NamespaceMode::Container(reference)) if reference.is_empty() => {
                return refused("container: and the name or id of a container");
            }
            ("pid" | "uts", NamespaceMode::Shareable) => {
                return refused("host or container:NAME");
            }
            _ => {}
        }
    }
    let Some(hostname) = config.hostname.as_deref().filter(|_| !config.uts.is_own()) else {
        return Ok(());
    };
    let mode = config.uts.render();
    let allowed = format!("none with --uts {mode}: the name there stays");
    Err(Error::invalid("hostname", hostname, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut ContainerConfig)) -> Option<String> {
        let mut config = ContainerConfig::default();
        change(&mut config);
        match check(&config) {
            Err(Error::Invalid { field, .. }) => Some(field),
            _ => None,
        }
    }

    #[test]
    fn each_namespace_has_its_own_modes() {
        let of = |name: &str| NamespaceMode::Container(name.into());
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|c| c.pid = of("web")), None);
        assert_eq!(refused(|c| c.ipc = of("web")), None);
        assert_eq!(refused(|c| c.ipc = NamespaceMode::Shareable), None);
        assert_eq!(refused(|c| c.uts = NamespaceMode::Host), None);
        assert_eq!(refused(|c| c.pid = of("")).as_deref(), Some("pid"));
        assert_eq!(refused(|c| c.pid = NamespaceMode::Shareable).as_deref(), Some("pid"));
        assert_eq!(refused(|c| c.uts = of("web")), None);
        assert_eq!(refused(|c| c.uts = of("")).as_deref(), Some("uts"));
        assert_eq!(refused(|c| c.uts = NamespaceMode::Shareable).as_deref(), Some("uts"));
    }

    #[test]
    fn a_user_namespace_goes_with_namespaces_of_its_own() {
        let mapped = |mode: NamespaceMode| {
            refused(|c| {
                c.user_namespace = true;
                c.ipc = mode;
            })
        };
        assert_eq!(mapped(NamespaceMode::Private), None);
        assert_eq!(mapped(NamespaceMode::Host).as_deref(), Some("ipc"));
    }

    #[test]
    fn nobody_elses_name_is_changed() {
        for mode in [NamespaceMode::Host, NamespaceMode::Container("web".into())] {
            let both = refused(|c| {
                c.uts = mode;
                c.hostname = Some("web".into());
            });
            assert_eq!(both.as_deref(), Some("hostname"));
        }
    }
}

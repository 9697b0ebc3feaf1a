//! `--sysctl`: which kernel settings a container may have for itself. Pure.
//!
//! Owns the list: settings that the kernel keeps in a namespace, so that nobody else has them
//! changed. A setting of a namespace that the container shares is refused, since it is others'.

use std::collections::BTreeMap;

use tenantry_shim::spec::Sysctl;

use crate::{
    config::{ContainerConfig, NetworkMode},
    error::Error,
    namespaces::NamespaceMode,
};

const MOST: usize = 128;
const MOST_VALUE_BYTES: usize = 4096;

/// Of the IPC namespace, `ipc_namespaces(7)`.
const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

const ALLOWED: &str = "net.*, fs.mqueue.*, kernel.msgmax, kernel.msgmnb, kernel.msgmni, \
                       kernel.sem, kernel.shmall, kernel.shmmax, kernel.shmmni, \
                       kernel.shm_rmid_forced and kernel.domainname: the others are the host's";

/// # Errors
/// [`Error::Invalid`] for a setting that is the host's or another container's, and for a name or
/// value that is none.
pub fn check(config: &ContainerConfig) -> Result<(), Error> {
    if config.sysctls.len() > MOST {
        let allowed = format!("at most {MOST}");
        return Err(Error::invalid("sysctls", config.sysctls.len(), allowed));
    }
    for (name, value) in &config.sysctls {
        check_name(name, config)?;
        if value.len() > MOST_VALUE_BYTES || value.contains(['\0', '\n']) {
            let allowed = format!("one line of at most {MOST_VALUE_BYTES} bytes");
            return Err(Error::invalid("sysctls", format!("{name}={value}"), allowed));
        }
    }
    Ok(())
}

fn check_name(name: &str, config: &ContainerConfig) -> Result<(), Error> {
    let refused = |allowed: &str| Err(Error::invalid("sysctls", name, allowed));
    let is_part = |part: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        !part.is_empty() && part.bytes().all(fits)
    };
    // A slash would be one more way to write a dot, and two dots a way out.
    if !name.split('.').all(is_part) {
        return refused("parts of letters, digits, - and _ between single dots");
    }
    if let ["net", _, "conf" | "neigh", interface, ..] = *name.split('.').collect::<Vec<_>>()
        && !["all", "default", "lo"].contains(&interface)
    {
        // An interface comes when its settings have been written, and has the default's then.
        return refused("all, default or lo in an interface's place");
    }
    if name.starts_with("net.") {
        return match config.network {
            NetworkMode::Host => refused("no net.* with the host's network"),
            NetworkMode::Shared => refused("no net.* with another container's network"),
            NetworkMode::Bridge | NetworkMode::None => Ok(()),
        };
    }
    if name.starts_with("fs.mqueue.") || OF_IPC.contains(&name) {
        return match config.ipc {
            NamespaceMode::Private | NamespaceMode::Shareable => Ok(()),
            _ => refused("no setting of IPC with somebody else's IPC namespace"),
        };
    }
    match (name, &config.uts) {
        ("kernel.domainname", NamespaceMode::Private) => Ok(()),
        ("kernel.domainname", _) => refused("no domain name with somebody else's UTS namespace"),
        _ => refused(ALLOWED),
    }
}

/// Where each of them is written.
pub fn paths(sysctls: &BTreeMap<String, String>) -> Vec<Sysctl> {
    let path = |(name, value): (&String, &String)| Sysctl {
        path: name.replace('.', "/"),
        value: value.clone(),
    };
    sysctls.iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> ContainerConfig {
        let sysctls = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        ContainerConfig { sysctls, ..ContainerConfig::default() }
    }

    #[test]
    fn what_a_namespace_keeps_may_be_set() {
        for name in [
            "net.ipv4.ip_forward",
            "net.core.somaxconn",
            "fs.mqueue.msg_max",
            "kernel.shm_rmid_forced",
            "kernel.domainname",
            "net.ipv4.conf.all.rp_filter",
            "net.ipv6.neigh.default.gc_thresh1",
        ] {
            assert!(check(&with(name, "1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_is_the_hosts_may_not() {
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "net",
            "net.",
            "net..x",
            "net/../kernel/panic",
            "net.ipv4.../x",
            "net.ipv4.conf.eth0.rp_filter",
            "",
        ] {
            assert!(check(&with(name, "1")).is_err(), "{name}");
        }
        assert!(check(&with("net.core.somaxconn", "1\n2")).is_err());
        assert!(check(&with("net.core.somaxconn", &"1".repeat(5000))).is_err());
    }

    #[test]
    fn a_shared_namespaces_settings_are_others() {
        let mut config = with("net.core.somaxconn", "1");
        config.network = NetworkMode::Host;
        assert!(check(&config).is_err());
        let mut config = with("kernel.shmmax", "1");
        config.ipc = NamespaceMode::Shareable;
        assert!(check(&config).is_ok());
        config.ipc = NamespaceMode::Host;
        assert!(check(&config).is_err());
        let mut config = with("kernel.domainname", "x");
        config.uts = NamespaceMode::Host;
        assert!(check(&config).is_err());
    }

    #[test]
    fn a_name_becomes_a_path() {
        let sysctls = with("net.ipv4.ip_local_port_range", "1024 2048").sysctls;
        let expected =
            Sysctl { path: "net/ipv4/ip_local_port_range".into(), value: "1024 2048".into() };
        assert_eq!(paths(&sysctls), [expected]);
    }
}

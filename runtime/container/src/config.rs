//! What a container is asked to be: the request, and its validation.
//!
//! Owns the typed request that API and CLI fill and that records keep. Pure: the
//! only judge of values, it touches neither image nor host.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use tenantry_network::{Link, Port, PortWish};
use tenantry_shim::spec::{Propagation, WindowSize};

use crate::{
    devices::{self, DeviceRequest},
    error::Error,
    etc::{self, Resolver},
    health::HealthWish,
    limits::LimitsPatch,
    log_config::LogConfig,
    namespaces::{self, NamespaceMode},
    restart::RestartPolicy,
    signals, sysctls,
    ulimits::{self, Ulimit},
    volumes,
};

const MOST_NAME_BYTES: usize = 128;
const MOST_LABELS: usize = 256;
const MOST_TEXT_BYTES: usize = 1 << 20;
const MOST_BINDS: usize = 128;
const MOST_NETWORKS: usize = 16;
const MOST_ALIASES: usize = 64;
/// Each holds a descriptor of the agent.
const MOST_PORTS: usize = 256;

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
    /// Which networks it is on if its mode is [`NetworkMode::Bridge`]; `None`: the default one.
    pub networks: Option<Vec<NetworkWish>>,
    /// Whose network it has if its mode is [`NetworkMode::Shared`]; an id in a record.
    pub network_of: Option<String>,
    /// Published where it has a way out of its own: see [`ContainerConfig::published`].
    pub ports: Vec<PortWish>,
    /// What its program is known to listen on; the image's come to them.
    pub exposed: Vec<Port>,
    /// All that is exposed is published, too.
    pub publish_all: bool,
    pub binds: Vec<BindRequest>,
    /// In a record each has a name.
    pub volumes: Vec<VolumeRequest>,
    /// Containers whose binds and volumes this one has as well: `NAME[:ro]`.
    pub volumes_from: Vec<String>,
    /// File systems in memory, empty at each start.
    pub tmpfs: Vec<TmpfsRequest>,
    /// Whether [`crate::Engine::stdin`], or a terminal, leads to the program; else `/dev/null`.
    pub open_stdin: bool,
    /// A terminal of this size at first is the program's standard input, output and error;
    /// [`crate::Engine::terminal`] leads to it.
    pub terminal: Option<WindowSize>,
    pub read_only_rootfs: bool,
    pub user_namespace: bool,
    /// With ids of the host that no other container has; else those of all that have a user
    /// namespace.
    #[serde(default)]
    pub own_user_ids: bool,
    pub no_new_privileges: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub seccomp: SeccompChoice,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// All capabilities that this host can give, its devices, and nothing masked or read-only;
    /// also no seccomp program, unless there is a profile.
    pub privileged: bool,
    /// A first process that reaps and passes signals on, before the program.
    pub init: bool,
    pub ulimits: Vec<Ulimit>,
    /// `net.core.somaxconn` and the like.
    pub sysctls: BTreeMap<String, String>,
    /// Of `/dev/shm`; default 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// `NAME:ADDRESS` for `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    pub resolver: Resolver,
    pub devices: Vec<DeviceRequest>,
    /// Further groups of the program, by name or number.
    pub group_add: Vec<String>,
    /// In the place of those that are usual.
    pub masked_paths: Option<Vec<String>>,
    pub read_only_paths: Option<Vec<String>>,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    /// Over what the image says.
    pub health: Option<HealthWish>,
    /// In a record with what the agent's own settings say.
    pub log: LogConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// An address on each of its networks.
    #[default]
    Bridge,
    /// The host's own interfaces. Bandwidth limits are refused.
    Host,
    /// Only `lo`.
    None,
    /// Another container's, while that one runs. Bandwidth limits are refused.
    Shared,
}

/// One of the networks that a container is, or is to be, on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkWish {
    /// By name; an id is kept where there is no such network yet.
    pub network: String,
    /// This one and no other; `None`: any.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// As `address`, on a network with IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// What others on this network may call it besides its name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What it calls others there, for itself alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// The default network's name.
pub const DEFAULT_NETWORK: &str = "bridge";
const NAME_SERVER_PORT: u16 = 53;

impl ContainerConfig {
    /// Whether it gets a name server of ours: it is on a network where containers have names.
    pub fn has_names(&self) -> bool {
        let is_named = |wish: &NetworkWish| wish.network != DEFAULT_NETWORK;
        self.wishes().iter().any(is_named) && !self.is_name_server()
    }

    /// It says beforehand (`EXPOSE 53`, `-p 53:53`) that port 53 is its own: beside a name
    /// server of ours its program would find the port in use.
    pub fn is_name_server(&self) -> bool {
        let mut ports = self.exposed.iter().chain(self.ports.iter().map(|wish| &wish.port));
        ports.any(|port| port.number == NAME_SERVER_PORT)
    }

    /// What is to be published, exposed ports that were not named last.
    pub fn published(&self) -> Vec<PortWish> {
        let named = |port: &Port| self.ports.iter().any(|wish| wish.port == *port);
        let unnamed = self.exposed.iter().filter(|port| self.publish_all && !named(port));
        let any = |port: &Port| PortWish { port: *port, host_address: None, host_ports: None };
        self.ports.iter().cloned().chain(unnamed.map(any)).collect()
    }

    /// The networks that it gets an interface on, in their order.
    pub fn wishes(&self) -> Vec<NetworkWish> {
        let default =
            || vec![NetworkWish { network: DEFAULT_NETWORK.to_owned(), ..NetworkWish::default() }];
        match self.network {
            NetworkMode::Bridge => self.networks.clone().unwrap_or_else(default),
            NetworkMode::Host | NetworkMode::None | NetworkMode::Shared => Vec::new(),
        }
    }
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
    /// Whether mounts that are made later on the host, or in the container, appear here.
    #[serde(default)]
    pub propagation: Propagation,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeRequest {
    /// Empty in a request: a new one, which goes with the container.
    pub name: String,
    /// Absolute, in the container.
    pub target: String,
    pub read_only: bool,
    /// A new volume stays empty, whatever the image has there.
    pub no_copy: bool,
    /// Of a volume that is made for this.
    pub labels: BTreeMap<String, String>,
    /// In a record: nobody named it.
    pub anonymous: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TmpfsRequest {
    /// Absolute, in the container.
    pub target: String,
    pub size_bytes: Option<u64>,
    /// Permissions of its root; 1777 if nothing is said.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub read_only: bool,
    /// Programs in it may be executed.
    pub exec: bool,
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
    for (index, wish) in config.wishes().iter().enumerate() {
        check_wish(wish)?;
        if config.wishes()[..index].iter().any(|other| other.network == wish.network) {
            return Err(Error::invalid("network", &wish.network, "each network once"));
        }
    }
    check_network_count(config.wishes().len())?;
    check_shared_network(config)?;
    let ports = config.ports.len().max(config.exposed.len());
    if ports > MOST_PORTS {
        return Err(Error::invalid("ports", ports, format!("at most {MOST_PORTS}")));
    }
    check_texts("env", &config.env)?;
    check_texts("command", config.command.as_deref().unwrap_or_default())?;
    check_texts("entrypoint", config.entrypoint.as_deref().unwrap_or_default())?;
    if let Some(entry) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(Error::invalid("env", entry, "NAME=value or NAME"));
    }
    check_binds(&config.binds)?;
    check_mounts(config)?;
    check_surroundings(config)
}

/// Shared memory that nobody could use, and a bound against nonsense.
const SHM_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 50;
const MOST_PATHS: usize = 256;

/// What a program finds around it.
fn check_surroundings(config: &ContainerConfig) -> Result<(), Error> {
    ulimits::parse(&config.ulimits)?;
    sysctls::check(config)?;
    devices::check(&config.devices)?;
    namespaces::check(config)?;
    etc::check_extra_hosts(&config.extra_hosts)?;
    config.resolver.check()?;
    config.log.check()?;
    if let Some(bytes) = config.shm_size_bytes
        && !SHM_BYTES.contains(&bytes)
    {
        return Err(Error::invalid("shm_size", bytes, "4096 bytes to 1 PiB"));
    }
    if config.privileged && config.user_namespace {
        let allowed = "host: a privileged container has no user namespace of its own";
        return Err(Error::invalid("user namespace", "private", allowed));
    }
    for (field, paths) in
        [("masked_paths", &config.masked_paths), ("read_only_paths", &config.read_only_paths)]
    {
        let paths = paths.as_deref().unwrap_or_default();
        if paths.len() > MOST_PATHS {
            return Err(Error::invalid(field, paths.len(), format!("at most {MOST_PATHS}")));
        }
        for path in paths {
            check_absolute(field, path)?;
        }
    }
    Ok(())
}

/// Every target is a place of its own, and below the root.
pub(crate) fn check_mounts(config: &ContainerConfig) -> Result<(), Error> {
    let volumes = config.volumes.iter().map(|volume| &volume.target);
    let tmpfs = config.tmpfs.iter().map(|tmpfs| &tmpfs.target);
    let mut targets: Vec<&str> = Vec::new();
    for target in config.binds.iter().map(|bind| &bind.target).chain(volumes).chain(tmpfs) {
        check_absolute("mount target", target)?;
        let target = target.trim_end_matches('/');
        if target.is_empty() {
            return Err(Error::invalid("mount target", "/", "a path below /"));
        }
        if targets.contains(&target) {
            return Err(Error::invalid("mount target", target, "one mount for each path"));
        }
        targets.push(target);
    }
    if targets.len() > MOST_BINDS {
        return Err(Error::invalid("mounts", targets.len(), format!("at most {MOST_BINDS}")));
    }
    for volume in config.volumes.iter().filter(|volume| !volume.name.is_empty()) {
        volumes::check_name(&volume.name)?;
    }
    let mode = config.tmpfs.iter().filter_map(|tmpfs| tmpfs.mode).find(|mode| *mode > 0o7777);
    mode.map_or(Ok(()), |mode| Err(Error::invalid("tmpfs mode", mode, "0 to 07777 (octal)")))
}

/// Who has another's network has what that one has: Docker's rule.
fn check_shared_network(config: &ContainerConfig) -> Result<(), Error> {
    if config.network != NetworkMode::Shared {
        let allowed = "nothing, but for network mode shared";
        let of = config.network_of.as_ref();
        return of.map_or(Ok(()), |of| Err(Error::invalid("network_of", of, allowed)));
    }
    if config.network_of.as_ref().is_none_or(String::is_empty) {
        return Err(Error::invalid("network", "container:", "container: and a name or an id"));
    }
    let asked = [
        ("hostname", config.hostname.is_some()),
        ("ports", !config.ports.is_empty() || config.publish_all),
        ("exposed ports", !config.exposed.is_empty()),
        ("user namespace", config.user_namespace),
        ("dns", config.resolver != Resolver::default()),
        ("extra hosts", !config.extra_hosts.is_empty()),
    ];
    let allowed = "none of its own, with the network of another container (container:NAME)";
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::invalid(field, "one of its own", allowed)),
        None => Ok(()),
    }
}

pub(crate) fn check_network_count(count: usize) -> Result<(), Error> {
    if count > MOST_NETWORKS {
        return Err(Error::invalid("networks", count, format!("at most {MOST_NETWORKS}")));
    }
    Ok(())
}

/// Addresses and aliases are for networks that a user made: Docker's rule, in its words.
pub(crate) fn check_wish(wish: &NetworkWish) -> Result<(), Error> {
    if wish.network.is_empty() || matches!(wish.network.as_str(), "host" | "none") {
        let allowed = "bridge, or a network that was made with `network create`";
        return Err(Error::invalid("network", &wish.network, allowed));
    }
    if wish.network == DEFAULT_NETWORK && (wish.address.is_some() || wish.address6.is_some()) {
        let why = "user specified IP address is supported on user defined networks only";
        return Err(Error::Forbidden(why.to_owned()));
    }
    if wish.network == DEFAULT_NETWORK && !wish.aliases.is_empty() {
        let why = "network-scoped alias is supported only for containers in user defined networks";
        return Err(Error::Forbidden(why.to_owned()));
    }
    if wish.network == DEFAULT_NETWORK && !wish.links.is_empty() {
        let why = "links are supported for containers in user defined networks only";
        return Err(Error::Forbidden(why.to_owned()));
    }
    for (field, count) in [("aliases", wish.aliases.len()), ("links", wish.links.len())] {
        if count > MOST_ALIASES {
            return Err(Error::invalid(field, count, format!("at most {MOST_ALIASES}")));
        }
    }
    let is_alias = |alias: &&String| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        !alias.is_empty() && alias.len() <= 253 && alias.bytes().all(fits)
    };
    let linked = wish.links.iter().flat_map(|link| [&link.container, &link.alias]);
    if let Some(odd) = linked.into_iter().find(|name| !is_alias(name)) {
        return Err(Error::invalid("links", odd, "CONTAINER:ALIAS, 1 to 253 of [a-zA-Z0-9_.-]"));
    }
    match wish.aliases.iter().find(|alias| !is_alias(alias)) {
        Some(alias) => Err(Error::invalid("aliases", alias, "1 to 253 of [a-zA-Z0-9_.-]")),
        None => Ok(()),
    }
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
        check(|r| r.config.shm_size_bytes = Some(1), "shm_size");
        check(|r| r.config.extra_hosts = vec!["db".into()], "extra_hosts");
        check(|r| r.config.masked_paths = Some(vec!["proc".into()]), "masked_paths");
        check(|r| (r.config.privileged, r.config.user_namespace) = (true, true), "user namespace");
        fn on(networks: &[&str]) -> Option<Vec<NetworkWish>> {
            let wish = |name: &&str| NetworkWish { network: (*name).into(), ..Default::default() };
            Some(networks.iter().map(wish).collect())
        }
        check(|r| r.config.networks = on(&["host"]), "network");
        check(|r| r.config.networks = on(&["a", "a"]), "network");
        check(
            |r| {
                let wish = NetworkWish { aliases: vec!["a b".into()], ..Default::default() };
                r.config.networks = Some(vec![NetworkWish { network: "web".into(), ..wish }]);
            },
            "aliases",
        );
        check(
            |r| {
                r.config.auto_remove = true;
                r.config.restart = RestartPolicy::Always;
            },
            "restart policy",
        );
        check(
            |r| {
                let bind = BindRequest {
                    source: "/a/../b".into(),
                    target: "/x".into(),
                    read_only: false,
                    propagation: Propagation::default(),
                };
                r.config.binds.push(bind);
            },
            "binds.source",
        );
        check(|r| r.config.network_of = Some("web".into()), "network_of");
        check(|r| r.config.network = NetworkMode::Shared, "network");
        fn sharing(r: &mut CreateRequest) -> &mut ContainerConfig {
            r.config.network = NetworkMode::Shared;
            r.config.network_of = Some("web".into());
            &mut r.config
        }
        let mut request = CreateRequest { image: "demo".into(), ..CreateRequest::default() };
        sharing(&mut request);
        super::check(&request).expect("it may have another's network");
        check(|r| sharing(r).hostname = Some("a".into()), "hostname");
        check(|r| sharing(r).publish_all = true, "ports");
        check(|r| sharing(r).exposed = vec!["80".parse().unwrap()], "exposed ports");
        check(|r| sharing(r).user_namespace = true, "user namespace");
        fn volume(target: &str) -> VolumeRequest {
            VolumeRequest { target: target.into(), ..VolumeRequest::default() }
        }
        check(|r| r.config.volumes = vec![volume("/")], "mount target");
        check(|r| r.config.volumes = vec![volume("/a"), volume("/a/")], "mount target");
    }

    #[test]
    fn a_name_server_is_for_who_is_on_a_network_that_a_user_made_and_is_none_itself() {
        let on = |network: &str| {
            let wish = NetworkWish { network: network.into(), ..NetworkWish::default() };
            ContainerConfig { networks: Some(vec![wish]), ..ContainerConfig::default() }
        };
        assert!(on("web").has_names() && !on(DEFAULT_NETWORK).has_names());
        assert!(!ContainerConfig::default().has_names());
        let none = ContainerConfig { network: NetworkMode::None, ..on("web") };
        assert!(!none.has_names());
        let exposed = vec!["80/tcp".parse().unwrap(), "53/udp".parse().unwrap()];
        assert!(!ContainerConfig { exposed, ..on("web") }.has_names());
        let port = "53".parse().unwrap();
        let ports = vec![PortWish { port, host_address: None, host_ports: None }];
        assert!(!ContainerConfig { ports, ..on("web") }.has_names());
    }

    #[test]
    fn addresses_and_aliases_are_for_networks_that_users_made() {
        let plain = NetworkWish { network: DEFAULT_NETWORK.into(), ..NetworkWish::default() };
        assert!(check_wish(&plain).is_ok());
        let address = NetworkWish { address: "10.0.0.9".parse().ok(), ..plain.clone() };
        let six = NetworkWish { address6: "fd00:5::9".parse().ok(), ..plain.clone() };
        let alias = NetworkWish { aliases: vec!["db".into()], ..plain.clone() };
        let links = vec![Link { container: "db".into(), alias: "store".into() }];
        let link = NetworkWish { links, ..plain };
        for wish in [address, six, alias, link] {
            assert!(matches!(check_wish(&wish), Err(Error::Forbidden(_))), "{wish:?}");
            assert!(check_wish(&NetworkWish { network: "web".into(), ..wish }).is_ok());
        }
    }
}

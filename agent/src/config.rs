//! The agent's settings: a TOML file, then flags, then a validated [`Config`].
//!
//! Owns defaults and their checks. Opens no socket and creates nothing: the
//! daemon does that with a `Config` that is known to be right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tenantry_container::{Limit, LogConfig, units};
use tenantry_ebpf::AuditFilter;
use tenantry_network::Ipv4Subnet;

use crate::audit_filter::{BadFilter, RawAuditFilter};
use crate::controller::Settings;
use crate::foreign::classify::is_taken_parent;
use crate::governor::Rules;
use crate::otlp::endpoint::{ALLOWED, Endpoint};
use crate::registries::settings::RawRegistries;
use crate::rules::RuleSettings;

/// `sun_path` holds 108 bytes; the longest name below a run directory takes 40.
const MAX_RUN_DIR_BYTES: usize = 64;
const MAX_SLOTS: u32 = 4096;
const MIN_SERIES: u64 = 1000;
const MAX_LINGER_S: u64 = 86_400;
/// Each has four series for each container.
const MAX_DESTINATIONS: usize = 100;
/// Each is nineteen files to read and some forty series.
const MAX_SLICES: usize = 4096;
const MAX_DOMAINS: usize = 100;
const MAX_RULE_FILES: usize = 16;
/// Beyond, series would be a table of everybody by everybody.
const MAX_BLAME_PAIRS: usize = 1000;
/// With slot 0, which is nobody's, the kernel's tables have 256.
const DEFAULT_CONTAINERS: u32 = 127;
const DEFAULT_FOREIGN: u32 = 128;

/// The file as written. A key that is not listed here is an error that names the
/// key and its line.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub data_dir: Option<PathBuf>,
    pub run_dir: Option<PathBuf>,
    /// Who may use the sockets besides root: a group, by name or number. Whoever is in it is
    /// root here: it takes one `run --privileged`.
    pub socket_group: Option<String>,
    /// Where `/metrics`, `/live` and `/ready` are served.
    pub listen: Option<SocketAddr>,
    pub cgroup_parent: Option<String>,
    pub max_containers: Option<u32>,
    pub network: RawNetwork,
    pub meters: RawMeters,
    pub network_meters: RawNetworkMeters,
    pub audit: RawAudit,
    pub metrics: RawMetrics,
    pub governor: RawGovernor,
    pub foreign: RawForeign,
    pub control: RawControl,
    pub rules: RawRules,
    pub registries: RawRegistries,
    pub logs: RawLogs,
}

/// What of a container's output is kept that does not say it itself (`--log-opt`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogs {
    /// Of one file, such as 20m; -1 is no bound.
    pub max_size: Option<String>,
    pub max_file: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNetwork {
    pub bridge: Option<String>,
    pub subnet: Option<String>,
    /// Name servers for what no container is called; without it those of `/etc/resolv.conf`.
    pub dns: Option<Vec<IpAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMeters {
    /// Sample the latency of one syscall in sixteen. Costs about 25 ns a syscall.
    pub syscall_latency: Option<bool>,
    /// Bytes of the event ring buffer; a power of two. 4 MiB without it: some 40 ms of 200,000
    /// events a second, for which the agent may have no CPU.
    pub ring_bytes: Option<u32>,
    /// Seconds that the count of a container's files rests at least; 0 counts none.
    pub fs_usage_interval_s: Option<u64>,
}

/// Containers of other runtimes, which are metered and never changed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawForeign {
    pub enabled: Option<bool>,
    /// How many at a time, beside `max_containers` of ours.
    pub max: Option<u32>,
    /// Whether systemd's services are metered too.
    pub systemd: Option<bool>,
    /// Slices and pods that are shown as a whole, with the sums in their cgroup's files; 0
    /// shows none.
    pub max_slices: Option<usize>,
    /// Where Docker tells names and images.
    pub docker_socket: Option<PathBuf>,
    /// Where containerd keeps its tasks' bundles: `<namespace>/<id>/config.json`.
    pub containerd_state: Option<PathBuf>,
    /// Roots of containers/storage, in which Podman and CRI-O keep their notes.
    pub storages: Option<Vec<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNetworkMeters {
    /// Destinations of a container that have series of their own; the rest is `other`.
    pub destinations: Option<usize>,
    /// The same for the domains that it asks name servers for.
    pub domains: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// Default: `audit.jsonl` in the data directory.
    pub path: Option<PathBuf>,
    pub max_bytes: Option<u64>,
    pub keep_files: Option<u32>,
    /// Where each line goes as an OpenTelemetry log: `http://HOST[:PORT]/PATH`.
    pub otlp_endpoint: Option<String>,
    /// Whether an exec's line has the SHA-256 of what was executed.
    pub exec_hash: bool,
    /// Which events there are at all.
    pub filter: RawAuditFilter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    /// More series than this are not written into one scrape.
    pub max_series: Option<u64>,
    /// How long the counters of a stopped or removed container stay in the scrape.
    pub linger_seconds: Option<u64>,
    /// Pairs of victim and culprit that have series of their own.
    pub blame_pairs: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawGovernor {
    /// What meters and agent may take of all CPUs together before detail is shed; 0
    /// switches the governor off.
    pub budget_percent: Option<f64>,
    /// Between two measurements, of which each takes at most a sixtieth.
    pub interval_seconds: Option<u64>,
    /// How long what was shed stays away at least.
    pub hold_seconds: Option<u64>,
}

/// The controller, which limits noisy neighbours where a policy lets it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawControl {
    /// Without it nobody is limited, and advice is given.
    pub policy: Option<PathBuf>,
    /// Between two looks; 0 switches the controller off.
    pub interval_ms: Option<u64>,
}

/// Rules over audit events.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRules {
    /// Whether the agent's own set holds, before the files; true without it.
    pub default: Option<bool>,
    /// In this order: a later file replaces rules, lists and macros of those before.
    pub files: Option<Vec<PathBuf>>,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// `None`: the sockets are root's alone.
    pub socket_group: Option<u32>,
    pub listen: SocketAddr,
    pub cgroup_parent: String,
    pub max_containers: u32,
    /// At most 15 characters, as the kernel allows an interface.
    pub bridge: String,
    /// `None`: the first private network that this host does not use yet.
    pub subnet: Option<Ipv4Subnet>,
    /// Asked for names that no container has; empty: the host's own.
    pub name_servers: Vec<SocketAddr>,
    pub syscall_latency: bool,
    pub ring_bytes: u32,
    pub destinations: usize,
    pub domains: usize,
    pub blame_pairs: usize,
    /// `None`: file systems are not walked.
    pub fs_usage_interval: Option<Duration>,
    pub audit_path: PathBuf,
    pub audit_max_bytes: u64,
    pub audit_keep_files: u32,
    pub audit_filter: AuditFilter,
    /// `None`: no logs are sent.
    pub otlp_endpoint: Option<Endpoint>,
    pub exec_hash: bool,
    pub max_series: u64,
    pub linger: Duration,
    pub governor: Rules,
    pub control: Settings,
    pub rules: RuleSettings,
    pub registries: tenantry_registry::Settings,
    pub log: LogConfig,
    /// `None`: only our own containers are metered.
    pub foreign: Option<ForeignConfig>,
}

#[derive(Clone, Debug)]
pub struct ForeignConfig {
    pub max: u32,
    pub systemd: bool,
    pub max_slices: usize,
    pub docker_socket: PathBuf,
    pub containerd_state: PathBuf,
    pub storages: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The parser's message holds key, line and column.
    #[error("{path}: {message}", path = path.display())]
    Parse { path: PathBuf, message: String },
    #[error(transparent)]
    AuditFilter(BadFilter),
    #[error(transparent)]
    Log(tenantry_container::Error),
    #[error("{field} = {value:?} is not allowed: {allowed}")]
    Invalid { field: &'static str, value: String, allowed: String },
}

pub fn read_file(path: &Path) -> Result<RawConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    toml::from_str(&text)
        .map_err(|e| ConfigError::Parse { path: path.into(), message: e.to_string() })
}

impl RawConfig {
    pub fn validate(self) -> Result<Config, ConfigError> {
        let data_dir = absolute("data_dir", self.data_dir, "/var/lib/tenantry")?;
        let run_dir = absolute("run_dir", self.run_dir, "/run/tenantry")?;
        check(
            run_dir.as_os_str().len() <= MAX_RUN_DIR_BYTES,
            "run_dir",
            || run_dir.display().to_string(),
            || format!("at most {MAX_RUN_DIR_BYTES} bytes, so that socket paths fit"),
        )?;
        let cgroup_parent = self.cgroup_parent.unwrap_or_else(|| "tenantry".into());
        check(
            is_plain_name(&cgroup_parent),
            "cgroup_parent",
            || cgroup_parent.clone(),
            || "1 to 32 of a-z, 0-9, '-' and '_'".into(),
        )?;
        check(
            !is_taken_parent(&cgroup_parent),
            "cgroup_parent",
            || cgroup_parent.clone(),
            || "no name under which other runtimes keep their containers".into(),
        )?;
        let max_containers = self.max_containers.unwrap_or(DEFAULT_CONTAINERS);
        check(
            (1..MAX_SLOTS).contains(&max_containers),
            "max_containers",
            || max_containers.to_string(),
            || format!("1 to {}", MAX_SLOTS - 1),
        )?;
        let ring_bytes = self.meters.ring_bytes.unwrap_or(4 << 20);
        check(
            ring_bytes.is_power_of_two() && (64 << 10..=256 << 20).contains(&ring_bytes),
            "meters.ring_bytes",
            || ring_bytes.to_string(),
            || "a power of two from 65536 to 268435456".into(),
        )?;
        let destinations = self.network_meters.destinations.unwrap_or(10);
        check(
            destinations <= MAX_DESTINATIONS,
            "network_meters.destinations",
            || destinations.to_string(),
            || format!("0 to {MAX_DESTINATIONS}"),
        )?;
        let domains = self.network_meters.domains.unwrap_or(10);
        check(
            domains <= MAX_DOMAINS,
            "network_meters.domains",
            || domains.to_string(),
            || format!("0 to {MAX_DOMAINS}"),
        )?;
        let fs_usage_interval_s = self.meters.fs_usage_interval_s.unwrap_or(60);
        check(
            fs_usage_interval_s <= 86_400,
            "meters.fs_usage_interval_s",
            || fs_usage_interval_s.to_string(),
            || "0 (never) to 86400".into(),
        )?;
        let bridge = self.network.bridge.unwrap_or_else(|| bridge_name(&cgroup_parent));
        check(
            bridge.len() <= 15 && is_plain_name(&bridge),
            "network.bridge",
            || bridge.clone(),
            || "1 to 15 of a-z, 0-9, '-' and '_'".into(),
        )?;
        let subnet = self
            .network
            .subnet
            .map(|text| {
                text.parse::<Ipv4Subnet>().map_err(|e| ConfigError::Invalid {
                    field: "network.subnet",
                    value: text,
                    allowed: e.to_string(),
                })
            })
            .transpose()?;
        let name_servers = self.network.dns.unwrap_or_default();
        check(
            name_servers.len() <= 3,
            "network.dns",
            || format!("{} addresses", name_servers.len()),
            || "at most 3".into(),
        )?;
        let name_servers = name_servers.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect();
        let foreign = self.foreign.validate(max_containers)?;
        let audit_max_bytes = self.audit.max_bytes.unwrap_or(64 << 20);
        check(
            audit_max_bytes >= 64 << 10,
            "audit.max_bytes",
            || audit_max_bytes.to_string(),
            || "65536 or more".into(),
        )?;
        let otlp_endpoint = match &self.audit.otlp_endpoint {
            Some(text) => Some(Endpoint::parse(text).ok_or_else(|| ConfigError::Invalid {
                field: "audit.otlp_endpoint",
                value: text.clone(),
                allowed: ALLOWED.into(),
            })?),
            None => None,
        };
        let audit_filter = self.audit.filter.validate().map_err(ConfigError::AuditFilter)?;
        let max_series = self.metrics.max_series.unwrap_or(250_000);
        check(
            max_series >= MIN_SERIES,
            "metrics.max_series",
            || max_series.to_string(),
            || format!("{MIN_SERIES} or more, so that the agent's own fit"),
        )?;
        let linger_seconds = self.metrics.linger_seconds.unwrap_or(300);
        check(
            linger_seconds <= MAX_LINGER_S,
            "metrics.linger_seconds",
            || linger_seconds.to_string(),
            || format!("0 to {MAX_LINGER_S}"),
        )?;
        let blame_pairs = self.metrics.blame_pairs.unwrap_or(50);
        check(
            blame_pairs <= MAX_BLAME_PAIRS,
            "metrics.blame_pairs",
            || blame_pairs.to_string(),
            || format!("0 to {MAX_BLAME_PAIRS}"),
        )?;
        let governor = governor(&self.governor)?;
        let control = control(self.control, data_dir.join("decisions.jsonl"))?;
        Ok(Config {
            socket_group: self.socket_group.map(|group| group_id(&group)).transpose()?,
            governor,
            control,
            rules: rules(self.rules)?,
            registries: self.registries.validate()?,
            log: logs(self.logs)?,
            max_series,
            blame_pairs,
            linger: Duration::from_secs(linger_seconds),
            audit_path: absolute("audit.path", self.audit.path, data_dir.join("audit.jsonl"))?,
            data_dir,
            run_dir,
            listen: self.listen.unwrap_or((IpAddr::V4(Ipv4Addr::LOCALHOST), 9778).into()),
            cgroup_parent,
            max_containers,
            bridge,
            subnet,
            name_servers,
            syscall_latency: self.meters.syscall_latency.unwrap_or(true),
            ring_bytes,
            destinations,
            domains,
            fs_usage_interval: (fs_usage_interval_s > 0)
                .then(|| Duration::from_secs(fs_usage_interval_s)),
            foreign,
            audit_max_bytes,
            audit_filter,
            otlp_endpoint,
            exec_hash: self.audit.exec_hash,
            audit_keep_files: self.audit.keep_files.unwrap_or(4),
        })
    }
}

fn control(raw: RawControl, journal: PathBuf) -> Result<Settings, ConfigError> {
    let interval_ms = raw.interval_ms.unwrap_or(1000);
    check(
        interval_ms == 0 || (100..=60_000).contains(&interval_ms),
        "control.interval_ms",
        || interval_ms.to_string(),
        || "100 to 60000, or 0 (never)".into(),
    )?;
    let policy = raw.policy.map(|path| absolute("control.policy", Some(path), "")).transpose()?;
    Ok(Settings { interval: Duration::from_millis(interval_ms), policy, journal })
}

fn logs(raw: RawLogs) -> Result<LogConfig, ConfigError> {
    let max_size = match raw.max_size.as_deref() {
        None => None,
        Some("-1") => Some(Limit::Unlimited),
        Some(text) => {
            let bytes = units::parse_file_size("logs.max_size", text).map_err(ConfigError::Log)?;
            Some(Limit::Value(bytes))
        }
    };
    let wanted = LogConfig { discards: false, max_size, max_file: raw.max_file };
    wanted.check().map_err(ConfigError::Log)?;
    Ok(wanted.or(&LogConfig::DEFAULT))
}

fn rules(raw: RawRules) -> Result<RuleSettings, ConfigError> {
    let files = raw.files.unwrap_or_default();
    check(
        files.len() <= MAX_RULE_FILES,
        "rules.files",
        || format!("{} files", files.len()),
        || format!("at most {MAX_RULE_FILES}"),
    )?;
    for file in &files {
        absolute("rules.files", Some(file.clone()), "")?;
    }
    Ok(RuleSettings { default: raw.default.unwrap_or(true), files })
}

fn governor(raw: &RawGovernor) -> Result<Rules, ConfigError> {
    let budget_percent = raw.budget_percent.unwrap_or(2.0);
    check(
        (0.0..=100.0).contains(&budget_percent),
        "governor.budget_percent",
        || budget_percent.to_string(),
        || "0 to 100".into(),
    )?;
    let seconds = |field, given: Option<u64>, default: u64, least: u64| {
        let seconds = given.unwrap_or(default);
        check(
            (least..=86_400).contains(&seconds),
            field,
            || seconds.to_string(),
            || format!("{least} to 86400"),
        )?;
        Ok(Duration::from_secs(seconds))
    };
    Ok(Rules {
        budget_ratio: budget_percent / 100.0,
        interval: seconds("governor.interval_seconds", raw.interval_seconds, 60, 1)?,
        hold: seconds("governor.hold_seconds", raw.hold_seconds, 600, 0)?,
    })
}

impl RawForeign {
    fn validate(self, max_containers: u32) -> Result<Option<ForeignConfig>, ConfigError> {
        let max = self.max.unwrap_or(DEFAULT_FOREIGN.min(MAX_SLOTS - 1 - max_containers).max(1));
        check(
            max > 0 && max + max_containers < MAX_SLOTS,
            "foreign.max",
            || max.to_string(),
            || format!("1 or more, and with max_containers at most {}", MAX_SLOTS - 1),
        )?;
        let max_slices = self.max_slices.unwrap_or(256);
        check(
            max_slices <= MAX_SLICES,
            "foreign.max_slices",
            || max_slices.to_string(),
            || format!("0 (none) to {MAX_SLICES}"),
        )?;
        let docker = "/var/run/docker.sock";
        let containerd = "/run/containerd/io.containerd.runtime.v2.task";
        let storages = self.storages.unwrap_or_else(|| {
            ["/var/lib/containers/storage", "/run/containers/storage"].map(PathBuf::from).into()
        });
        for storage in &storages {
            absolute("foreign.storages", Some(storage.clone()), "")?;
        }
        let config = ForeignConfig {
            max,
            systemd: self.systemd.unwrap_or(true),
            max_slices,
            docker_socket: absolute("foreign.docker_socket", self.docker_socket, docker)?,
            containerd_state: absolute(
                "foreign.containerd_state",
                self.containerd_state,
                containerd,
            )?,
            storages,
        };
        Ok(self.enabled.unwrap_or(true).then_some(config))
    }
}

pub(crate) fn absolute(
    field: &'static str,
    given: Option<PathBuf>,
    default: impl Into<PathBuf>,
) -> Result<PathBuf, ConfigError> {
    let path = given.unwrap_or_else(|| default.into());
    check(path.is_absolute(), field, || path.display().to_string(), || "an absolute path".into())?;
    Ok(path)
}

pub(crate) fn check(
    holds: bool,
    field: &'static str,
    value: impl FnOnce() -> String,
    allowed: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Invalid { field, value: value(), allowed: allowed() })
}

/// A group's number, or that of its name in `/etc/group`. Not the C library's look-up: that loads
/// modules of the host into a static program, which breaks.
fn group_id(text: &str) -> Result<u32, ConfigError> {
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let number = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        rest.split(':').nth(1).filter(|_| name == text)?.parse().ok()
    };
    let id = text.parse().ok().or_else(|| groups.lines().find_map(number));
    let wrong = || ConfigError::Invalid {
        field: "socket_group",
        value: text.to_owned(),
        allowed: "a group's number, or its name in /etc/group".into(),
    };
    id.ok_or_else(wrong)
}

fn is_plain_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= 32 && name.bytes().all(allowed)
}

/// Two agents side by side have two cgroup parents, and so two bridges.
fn bridge_name(cgroup_parent: &str) -> String {
    if cgroup_parent == "tenantry" {
        return "tenantry0".into();
    }
    // FNV-1a: any spread that stays the same from start to start will do.
    let hash = cgroup_parent
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("tn-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        match toml::from_str::<RawConfig>(text) {
            Err(error) => error.to_string(),
            Ok(raw) => raw.validate().expect_err(text).to_string(),
        }
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = RawConfig::default().validate().unwrap();
        assert_eq!(config.data_dir, Path::new("/var/lib/tenantry"));
        assert_eq!(config.run_dir, Path::new("/run/tenantry"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:9778");
        assert_eq!(config.cgroup_parent, "tenantry");
        assert_eq!(config.bridge, "tenantry0");
    }

    #[test]
    fn a_group_has_a_number_or_a_name() {
        assert_eq!(group_id("1234").unwrap(), 1234);
        assert_eq!(group_id("root").unwrap(), 0);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = error_of("data_dir = \"/x\"\n\n[network]\nbrigde = \"br0\"\n");
        assert!(error.contains("line 4") && error.contains("brigde"), "{error}");
    }

    #[test]
    fn what_is_not_allowed_is_named_with_what_is() {
        for (text, field) in [
            ("data_dir = \"relative\"", "data_dir"),
            ("cgroup_parent = \"a/b\"", "cgroup_parent"),
            ("cgroup_parent = \"docker\"", "cgroup_parent"),
            ("socket_group = \"no such group\"", "socket_group"),
            ("max_containers = 0", "max_containers"),
            ("[foreign]\nmax = 0", "foreign.max"),
            ("max_containers = 4000\n[foreign]\nmax = 96", "foreign.max"),
            ("[foreign]\ndocker_socket = \"docker.sock\"", "foreign.docker_socket"),
            ("[foreign]\nstorages = [\"/a\", \"b\"]", "foreign.storages"),
            ("[meters]\nring_bytes = 100000", "meters.ring_bytes"),
            ("[meters]\nfs_usage_interval_s = 100000", "meters.fs_usage_interval_s"),
            ("[network]\nbridge = \"much-too-long-a-name\"", "network.bridge"),
            ("[network]\nsubnet = \"10.0.0.0\"", "network.subnet"),
            ("[network_meters]\ndestinations = 1000", "network_meters.destinations"),
            ("[foreign]\nmax_slices = 5000", "foreign.max_slices"),
            ("[network_meters]\ndomains = 101", "network_meters.domains"),
            ("[metrics]\nblame_pairs = 1001", "metrics.blame_pairs"),
            ("[audit]\nmax_bytes = 1", "audit.max_bytes"),
            ("[audit]\notlp_endpoint = \"https://collector/v1/logs\"", "audit.otlp_endpoint"),
            ("[audit.filter]\nkinds = [\"dance\"]", "audit.filter.kinds"),
            ("[metrics]\nmax_series = 10", "metrics.max_series"),
            ("[metrics]\nlinger_seconds = 1000000", "metrics.linger_seconds"),
            ("[governor]\nbudget_percent = 101", "governor.budget_percent"),
            ("[control]\ninterval_ms = 50", "control.interval_ms"),
            ("[control]\npolicy = \"policy.toml\"", "control.policy"),
            ("[governor]\nbudget_percent = nan", "governor.budget_percent"),
            ("[rules]\nfiles = [\"own.toml\"]", "rules.files"),
            ("[logs]\nmax_size = \"lots\"", "logs.max_size"),
            ("[logs]\nmax_size = \"1k\"\nmax_file = 0", "max-file"),
            ("[governor]\ninterval_seconds = 0", "governor.interval_seconds"),
        ] {
            let error = error_of(text);
            assert!(error.contains(field) && error.contains("not allowed"), "{error}");
        }
    }

    #[test]
    fn another_cgroup_parent_has_another_bridge() {
        let names = ["tenantry", "tenantry-b", "t2"].map(bridge_name);
        assert!(names.iter().all(|name| name.len() <= 15));
        assert!(names[0] != names[1] && names[1] != names[2]);
    }
}

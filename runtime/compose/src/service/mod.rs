//! A service: what its containers are, in the Engine API's words, and what one needs to know
//! to make, order and find them.

mod dependencies;
mod health;
mod isolation;
mod mounts;
mod networks;
mod process;
mod resources;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bollard_stubs::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};

pub use dependencies::{Condition, Dependency};
pub use mounts::{Content, Upload, content};
pub use networks::Attachment;

use crate::error::Result;
use crate::load::Files;
use crate::node::{At, Fields};
use crate::plan::Change;
use crate::project::{Network, Volume};

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// As the file names it.
    pub image: Option<String>,
    pub build: Option<Build>,
    pub pull_policy: PullPolicy,
    pub profiles: Vec<String>,
    /// How many containers.
    pub scale: u32,
    pub container_name: Option<String>,
    pub depends_on: BTreeMap<String, Dependency>,
    /// By the network's name in the file.
    pub attachments: BTreeMap<String, Attachment>,
    /// `service:NAME`, whose container's namespace it shares.
    pub network_of: Option<String>,
    pub pid_of: Option<String>,
    pub ipc_of: Option<String>,
    /// A service and what it is called here.
    pub links: Vec<(String, String)>,
    /// Services whose volumes it has as well, with `:ro` or without.
    pub volumes_of: Vec<(String, String)>,
    /// Files that are put into a container before its start.
    pub uploads: Vec<Upload>,
    /// All that a container's own fields say; without its image, networks and Compose's labels.
    pub container: ContainerCreateBody,
}

/// How an image is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Absolute, or an address.
    pub context: String,
    pub dockerfile: Option<String>,
    pub args: Vec<(String, Option<String>)>,
    pub labels: Vec<(String, Option<String>)>,
    pub target: Option<String>,
    pub network: Option<String>,
    pub no_cache: bool,
    pub tags: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    Never,
    #[default]
    Missing,
    Build,
}

/// What a service's fields are read with.
pub struct Context<'a> {
    pub directory: &'a Path,
    pub environment: &'a BTreeMap<String, String>,
    pub files: &'a dyn Files,
    pub networks: &'a BTreeMap<String, Network>,
    pub volumes: &'a BTreeMap<String, Volume>,
    pub secrets: &'a BTreeMap<String, Content>,
    pub configs: &'a BTreeMap<String, Content>,
}

/// What a service's fields are read into.
#[derive(Debug, Default)]
struct Parts {
    body: ContainerCreateBody,
    host: HostConfig,
}

impl Service {
    /// All services that must be there for this one.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        let depends = self.depends_on.iter().filter(|(_, dependency)| dependency.required);
        let depends = depends.map(|(name, _)| name.as_str());
        let shared = [&self.network_of, &self.pid_of, &self.ipc_of].into_iter();
        let shared = shared.filter_map(|of| of.as_deref());
        let links = self.links.iter().map(|(of, _)| of.as_str());
        let volumes = self.volumes_of.iter().map(|(of, _)| of.as_str());
        depends.chain(shared).chain(links).chain(volumes)
    }

    /// Services of whose containers it has namespaces, each with what the Engine API says of
    /// that namespace.
    fn lenders<'a>(&'a self, host: &'a HostConfig) -> [(Option<&'a str>, Option<&'a str>); 3] {
        [
            (self.network_of.as_deref(), host.network_mode.as_deref()),
            (self.pid_of.as_deref(), host.pid_mode.as_deref()),
            (self.ipc_of.as_deref(), host.ipc_mode.as_deref()),
        ]
    }

    pub fn shares_namespaces(&self) -> bool {
        self.lenders(&HostConfig::default()).iter().any(|(of, _)| of.is_some())
    }

    /// Whether one of its containers has namespaces of another container than the one that lends
    /// them now. `host` is the container's own, `lent` each service's container by its id; who is
    /// not in it lends nothing and cuts nobody off.
    pub fn is_cut_off(&self, host: &HostConfig, lent: impl Fn(&str) -> Option<String>) -> bool {
        self.lenders(host).into_iter().any(|(of, mode)| {
            let id = of.and_then(&lent);
            id.is_some_and(|id| mode.unwrap_or_default() != format!("container:{id}"))
        })
    }

    /// Whether a change of `other` makes it begin again: since the file says so, or since it has
    /// namespaces that end with the other's processes.
    pub fn restarts_with(&self, other: &str, change: Change) -> bool {
        let lenders = [&self.network_of, &self.pid_of, &self.ipc_of];
        let shares = lenders.into_iter().any(|of| of.as_deref() == Some(other));
        let is_told = self.depends_on.get(other).is_some_and(|dependency| dependency.restart);
        (shares && change >= Change::Started) || (is_told && change == Change::Made)
    }

    /// The first is the one that a container begins on.
    pub fn attachments_by_priority(&self) -> Vec<(&String, &Attachment)> {
        let mut all: Vec<_> = self.attachments.iter().collect();
        all.sort_by_key(|(_, attachment)| -attachment.priority);
        all
    }
}

pub fn read(name: &str, at: &At<'_>, context: &Context<'_>) -> Result<Service> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(at.invalid("a service's name is made of letters, digits, '.', '_' and '-'"));
    }
    let mut fields = at.fields()?;
    let mut parts = Parts::default();
    let image = fields.string("image")?;
    let build = fields.read("build", |at| build(at, context))?;
    if image.is_none() && build.is_none() {
        return Err(at.invalid("neither image nor build says what to run"));
    }
    process::read(&mut fields, context, &mut parts)?;
    isolation::read(&mut fields, &mut parts)?;
    let resources = resources::read(&mut fields, &mut parts)?;
    let (uploads, volumes_of) = mounts::read(&mut fields, context, &mut parts)?;
    let (attachments, links) = networks::read(&mut fields, context, &mut parts)?;
    parts.host.log_config = fields.read("logging", logging)?;
    parts.body.healthcheck = fields.read("healthcheck", health::read)?;
    let shared = |mode: &mut Option<String>| {
        let of = mode.as_deref()?.strip_prefix("service:")?.to_owned();
        *mode = None;
        Some(of)
    };
    let network_of = shared(&mut parts.host.network_mode);
    let pid_of = shared(&mut parts.host.pid_mode);
    let ipc_of = shared(&mut parts.host.ipc_mode);
    let mut depends_on = fields.read("depends_on", dependencies::read)?.unwrap_or_default();
    let linked = links.iter().map(|(of, _)| of);
    for other in linked.chain(&network_of).chain(&pid_of).chain(&ipc_of) {
        let implied = Dependency { restart: true, ..Dependency::default() };
        depends_on.entry(other.clone()).or_insert(implied);
    }
    for (other, _) in &volumes_of {
        depends_on.entry(other.clone()).or_default();
    }
    if let Some(at) = fields.get("depends_on").filter(|_| depends_on.contains_key(name)) {
        return Err(at.invalid("a service cannot depend on itself"));
    }
    let restart = fields.read("restart", restart)?.or(resources.restart);
    parts.host.restart_policy = restart;
    let pull_policy = fields.read("pull_policy", pull_policy)?.unwrap_or_default();
    let profiles = fields.strings("profiles")?.unwrap_or_default();
    let own_scale = fields.read("scale", |at| at.number("a number of containers"))?;
    let scale = own_scale.or(resources.replicas).unwrap_or(1);
    let container_name = fields.string("container_name")?;
    if let Some(at) = fields.get("container_name").filter(|_| scale > 1) {
        return Err(
            at.invalid(format!("one name cannot be {scale} containers': scale is 1 at most"))
        );
    }
    // The agent has one of each, and refuses others by name.
    parts.host.runtime = fields.string("runtime")?;
    parts.host.storage_opt = map(&mut fields, "storage_opt")?;
    fields.ignore(&["extends", "attach", "develop", "platform"]);
    fields.refuse(
        &["external_links", "credential_spec", "provider", "models", "gpus", "use_api_socket"],
        "not supported",
    )?;
    fields.refuse(&["post_start", "pre_stop", "cgroup"], "not supported yet")?;
    fields.finish()?;
    let Parts { mut body, host } = parts;
    body.host_config = Some(host);
    Ok(Service {
        name: name.to_owned(),
        image,
        build,
        pull_policy,
        profiles,
        scale,
        container_name,
        depends_on,
        attachments,
        network_of,
        pid_of,
        ipc_of,
        links,
        volumes_of,
        uploads,
        container: body,
    })
}

fn build(at: &At<'_>, context: &Context<'_>) -> Result<Build> {
    let directory = |text: &str| match text.contains("://") {
        true => text.to_owned(),
        false => absolute(context.directory, text),
    };
    if at.is_text() {
        return Ok(Build { context: directory(at.text()?), ..Build::default() });
    }
    let mut fields = at.fields()?;
    let from = fields.string("context")?.unwrap_or_else(|| ".".into());
    let own = |(name, value): (String, Option<String>)| {
        let value = value.or_else(|| context.environment.get(&name).cloned());
        (name, value)
    };
    let args = fields.read("args", At::pairs)?.unwrap_or_default();
    let build = Build {
        context: directory(&from),
        dockerfile: fields.string("dockerfile")?,
        args: args.into_iter().map(own).collect(),
        labels: fields.read("labels", At::pairs)?.unwrap_or_default(),
        target: fields.string("target")?,
        network: fields.string("network")?,
        no_cache: fields.bool("no_cache")?.unwrap_or(false),
        tags: fields.strings("tags")?.unwrap_or_default(),
    };
    // They change how fast or where it is built, not what.
    fields.ignore(&["cache_from", "cache_to", "pull", "platforms", "provenance", "sbom"]);
    fields.refuse(
        &[
            "dockerfile_inline",
            "ssh",
            "secrets",
            "additional_contexts",
            "entitlements",
            "privileged",
            "extra_hosts",
            "shm_size",
            "ulimits",
            "isolation",
        ],
        "not supported",
    )?;
    fields.finish()?;
    Ok(build)
}

/// A path of the host, without the dots that mean nothing.
fn absolute(directory: &Path, text: &str) -> String {
    let plain: PathBuf = directory.join(text).components().collect();
    plain.display().to_string()
}

fn pull_policy(at: &At<'_>) -> Result<PullPolicy> {
    at.parsed("always, never, missing or build", |text| match text {
        "always" => Some(PullPolicy::Always),
        "never" => Some(PullPolicy::Never),
        "missing" | "if_not_present" => Some(PullPolicy::Missing),
        "build" => Some(PullPolicy::Build),
        _ => None,
    })
}

fn restart(at: &At<'_>) -> Result<RestartPolicy> {
    at.parsed("no, always, on-failure[:N] or unless-stopped", |text| {
        let (name, retries) = match text.split_once(':') {
            Some((name, retries)) => (name, Some(retries.parse().ok()?)),
            None => (text, None),
        };
        let name = match name {
            // Without quotes, YAML's "no" is false to many who write these files.
            "no" | "false" => RestartPolicyNameEnum::NO,
            "always" => RestartPolicyNameEnum::ALWAYS,
            "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
            "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
            _ => return None,
        };
        let is_known = retries.is_none() || name == RestartPolicyNameEnum::ON_FAILURE;
        is_known.then_some(RestartPolicy { name: Some(name), maximum_retry_count: retries })
    })
}

fn logging(at: &At<'_>) -> Result<HostConfigLogConfig> {
    let mut fields = at.fields()?;
    let wanted =
        HostConfigLogConfig { typ: fields.string("driver")?, config: map(&mut fields, "options")? };
    fields.finish()?;
    Ok(wanted)
}

/// A field's list, where it is said and not empty.
fn list(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<Vec<String>>> {
    Ok(fields.strings(name)?.filter(|list| !list.is_empty()))
}

fn map(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<HashMap<String, String>>> {
    let pairs = fields.read(name, At::pairs)?;
    let pair = |(name, value): (String, Option<String>)| (name, value.unwrap_or_default());
    Ok(pairs.map(|pairs| pairs.into_iter().map(pair).collect()))
}

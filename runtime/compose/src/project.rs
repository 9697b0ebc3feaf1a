//! A project: its services, networks and volumes, under the names that they have on the host.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use bollard_stubs::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig,
    NetworkCreateRequest, NetworkingConfig, VolumeCreateRequest,
};
use sha2::{Digest as _, Sha256};

use crate::error::{Invalid, Result};
use crate::load::{Files, Sources};
use crate::names::{Labels, project_name};
use crate::node::{At, Fields, Node};
use crate::service::{self, Content, Context, Service};

#[derive(Clone, Debug)]
pub struct Project {
    pub name: String,
    pub services: BTreeMap<String, Service>,
    /// Those that a service is on, by their names in the file.
    pub networks: BTreeMap<String, Network>,
    /// All that the file names.
    pub volumes: BTreeMap<String, Volume>,
    /// Services that no profile asked for (`with_profiles`).
    left_out: BTreeSet<String>,
    origin: [(String, String); 2],
}

#[derive(Clone, Debug)]
pub struct Network {
    /// Somebody else's: it must be there already.
    pub external: bool,
    /// `name` is the one on the host.
    pub request: NetworkCreateRequest,
}

#[derive(Clone, Debug)]
pub struct Volume {
    pub external: bool,
    /// On the host.
    pub name: String,
    pub request: VolumeCreateRequest,
}

pub fn read(
    root: &Node,
    sources: &Sources<'_>,
    environment: &BTreeMap<String, String>,
    files: &dyn Files,
) -> Result<Project> {
    let at = At::root(root);
    let mut fields = at.fields()?;
    let name = name(&mut fields, sources, environment)?;
    fields.ignore(&["version", "include"]);
    let directory = sources.directory;
    let mut networks = section(&mut fields, "networks", |key, at| network(&name, key, at))?;
    let volumes = section(&mut fields, "volumes", |key, at| volume(&name, key, at))?;
    let content = |_: &str, at: &At<'_>| service::content(at, directory, environment);
    let secrets: BTreeMap<String, Content> = section(&mut fields, "secrets", content)?;
    let configs: BTreeMap<String, Content> = section(&mut fields, "configs", content)?;
    networks.entry("default".into()).or_insert_with(|| default_network(&name));
    let context = Context {
        directory,
        environment,
        files,
        networks: &networks,
        volumes: &volumes,
        secrets: &secrets,
        configs: &configs,
    };
    let services = section(&mut fields, "services", |key, at| service::read(key, at, &context))?;
    fields.finish()?;
    if services.is_empty() {
        return Err(at.invalid("services is missing: there is nothing to run"));
    }
    for (key, service) in &services {
        let node = root.get("services").and_then(|services| services.get(key));
        let at = node.map_or_else(|| at.clone(), |node| At::new(node, &format!("services.{key}")));
        let unknown = service.needed().find(|other| !services.contains_key(*other));
        if let Some(other) = unknown {
            let known: Vec<&str> = services.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(at.invalid(format!("there is no service {other:?}: {known}")));
        }
    }
    let used: BTreeSet<&String> =
        services.values().flat_map(|service| service.attachments.keys()).collect();
    networks.retain(|key, _| used.contains(key));
    let files: Vec<String> =
        sources.files.iter().map(|file| directory.join(file).display().to_string()).collect();
    let origin = Labels::origin(&directory.display().to_string(), &files.join(","));
    Ok(Project { name, services, networks, volumes, left_out: BTreeSet::new(), origin })
}

fn name(
    fields: &mut Fields<'_>,
    sources: &Sources<'_>,
    environment: &BTreeMap<String, String>,
) -> Result<String> {
    let of_file = fields.get("name");
    let given = sources.name.or(environment.get("COMPOSE_PROJECT_NAME").map(String::as_str));
    if let Some(given) = given {
        return match project_name(given) {
            Some(name) if name == given => Ok(name),
            _ => Err(Invalid::file("the project's name", wrong_name(given))),
        };
    }
    if let Some(at) = of_file {
        let text = at.text()?;
        return match project_name(text) {
            Some(name) if name == text => Ok(name),
            _ => Err(at.invalid(wrong_name(text))),
        };
    }
    let directory = sources.directory.file_name().unwrap_or_default().to_string_lossy();
    project_name(&directory).ok_or_else(|| {
        let reason = format!("{directory:?} gives none: say one with --project-name");
        Invalid::file("the project's name", reason)
    })
}

fn wrong_name(text: &str) -> String {
    format!("{text:?} is not allowed: a-z, 0-9, _ and -, a letter or digit first")
}

fn section<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    read: impl Fn(&str, &At<'_>) -> Result<T>,
) -> Result<BTreeMap<String, T>> {
    let Some(at) = fields.get(name) else { return Ok(BTreeMap::new()) };
    let ours = at.entries()?.into_iter().filter(|(key, _)| !key.starts_with("x-"));
    ours.map(|(key, at)| Ok((key.to_owned(), read(key, &at)?))).collect()
}

fn default_network(project: &str) -> Network {
    let request = NetworkCreateRequest {
        name: format!("{project}_default"),
        driver: Some("bridge".into()),
        labels: Some(labels(project, Labels::NETWORK, "default", vec![])),
        ..NetworkCreateRequest::default()
    };
    Network { external: false, request }
}

fn labels(
    project: &str,
    kind: &str,
    key: &str,
    own: Vec<(String, Option<String>)>,
) -> HashMap<String, String> {
    let own = own.into_iter().map(|(name, value)| (name, value.unwrap_or_default()));
    let mut labels: HashMap<String, String> = own.collect();
    labels.extend(Labels::of_project(project));
    labels.insert(kind.to_owned(), key.to_owned());
    labels
}

/// Whose it is, and what it is called on the host.
fn owner(fields: &mut Fields<'_>, project: &str, key: &str) -> Result<(bool, String)> {
    let external = match fields.get("external") {
        // The old form: a mapping with a name.
        Some(at) if at.is_map() => {
            let mut old = at.fields()?;
            let name = old.string("name")?;
            old.finish()?;
            return Ok((true, name.unwrap_or_else(|| key.to_owned())));
        }
        Some(at) => at.bool()?,
        None => false,
    };
    let default = if external { key.to_owned() } else { format!("{project}_{key}") };
    Ok((external, fields.string("name")?.unwrap_or(default)))
}

fn network(project: &str, key: &str, at: &At<'_>) -> Result<Network> {
    let mut request = default_network(project).request;
    if at.node.is_null() {
        request.name = format!("{project}_{key}");
        request.labels = Some(labels(project, Labels::NETWORK, key, vec![]));
        return Ok(Network { external: false, request });
    }
    let mut fields = at.fields()?;
    let (external, name) = owner(&mut fields, project, key)?;
    request.name = name;
    request.driver = fields.string("driver")?.or(request.driver);
    request.options = fields.read("driver_opts", options)?;
    request.internal = fields.bool("internal")?;
    request.attachable = fields.bool("attachable")?;
    request.enable_ipv6 = fields.bool("enable_ipv6")?;
    request.enable_ipv4 = fields.bool("enable_ipv4")?;
    request.ipam = fields.read("ipam", ipam)?;
    let own = fields.read("labels", At::pairs)?.unwrap_or_default();
    request.labels = Some(labels(project, Labels::NETWORK, key, own));
    fields.finish()?;
    Ok(Network { external, request })
}

fn ipam(at: &At<'_>) -> Result<Ipam> {
    let mut fields = at.fields()?;
    let driver = fields.string("driver")?;
    let config = fields.read("config", |at| at.list()?.iter().map(pool).collect())?;
    let options = fields.read("options", options)?;
    fields.finish()?;
    Ok(Ipam { driver, config, options })
}

fn pool(at: &At<'_>) -> Result<IpamConfig> {
    let mut fields = at.fields()?;
    let config = IpamConfig {
        subnet: fields.string("subnet")?,
        ip_range: fields.string("ip_range")?,
        gateway: fields.string("gateway")?,
        auxiliary_addresses: fields.read("aux_addresses", options)?,
    };
    fields.finish()?;
    Ok(config)
}

fn options(at: &At<'_>) -> Result<HashMap<String, String>> {
    let pair = |(name, value): (String, Option<String>)| (name, value.unwrap_or_default());
    Ok(at.pairs()?.into_iter().map(pair).collect())
}

fn volume(project: &str, key: &str, at: &At<'_>) -> Result<Volume> {
    let mut request = VolumeCreateRequest::default();
    let (mut external, mut name) = (false, format!("{project}_{key}"));
    let mut own = Vec::new();
    if !at.node.is_null() {
        let mut fields = at.fields()?;
        (external, name) = owner(&mut fields, project, key)?;
        request.driver = fields.string("driver")?;
        request.driver_opts = fields.read("driver_opts", options)?;
        own = fields.read("labels", At::pairs)?.unwrap_or_default();
        fields.finish()?;
    }
    request.name = Some(name.clone());
    request.labels = Some(labels(project, Labels::VOLUME, key, own));
    Ok(Volume { external, name, request })
}

impl Project {
    /// What a service's image is called: the one it names, or the one that is built for it.
    pub fn image(&self, service: &Service) -> String {
        let own = || format!("{}-{}", self.name, service.name);
        service.image.clone().unwrap_or_else(own)
    }

    pub fn container_name(&self, service: &Service, number: u32) -> String {
        let own = || format!("{}-{}-{number}", self.name, service.name);
        service.container_name.clone().unwrap_or_else(own)
    }

    /// All that is asked of the agent for a service's container, but for what another container
    /// decides (`network_mode: service:…`). `image_id` is the image's as it is now.
    pub fn container(
        &self,
        service: &Service,
        image_id: &str,
        number: u32,
        one_off: bool,
    ) -> ContainerCreateBody {
        let mut body = service.container.clone();
        body.image = Some(self.image(service));
        let mut labels = body.labels.take().unwrap_or_default();
        labels.extend(Labels::of_project(&self.name));
        labels.extend(self.origin.clone());
        let own = [
            (Labels::SERVICE, service.name.clone()),
            (Labels::NUMBER, number.to_string()),
            (Labels::ONE_OFF, if one_off { "True" } else { "False" }.to_owned()),
            (Labels::HASH, self.hash(service)),
            (Labels::IMAGE, image_id.to_owned()),
        ];
        labels.extend(own.map(|(name, value)| (name.to_owned(), value)));
        body.labels = Some(labels);
        if let Some((first, attachment)) = service.attachments_by_priority().first() {
            let name = self.networks[*first].request.name.clone();
            let endpoint = self.endpoint(service, attachment, one_off);
            body.host_config.get_or_insert_default().network_mode = Some(name.clone());
            let endpoints_config = Some(HashMap::from([(name, endpoint)]));
            body.networking_config = Some(NetworkingConfig { endpoints_config });
        }
        body
    }

    /// The networks that a container is put on between its creation and its start: the API
    /// takes one at creation.
    pub fn further_networks(
        &self,
        service: &Service,
        one_off: bool,
    ) -> Vec<(String, EndpointSettings)> {
        let further = service.attachments_by_priority().into_iter().skip(1);
        let endpoint = |(key, attachment): (&String, &service::Attachment)| {
            let name = self.networks[key].request.name.clone();
            (name, self.endpoint(service, attachment, one_off))
        };
        further.map(endpoint).collect()
    }

    fn endpoint(
        &self,
        service: &Service,
        attachment: &service::Attachment,
        one_off: bool,
    ) -> EndpointSettings {
        // A service's names lead to what serves it, not to a passer-by.
        let names = std::iter::once(&service.name).chain(&attachment.aliases).cloned();
        let has_address = attachment.ipv4.is_some() || attachment.ipv6.is_some();
        EndpointSettings {
            aliases: (!one_off).then(|| names.collect()),
            ipam_config: has_address.then(|| EndpointIpamConfig {
                ipv4_address: attachment.ipv4.clone(),
                ipv6_address: attachment.ipv6.clone(),
                ..EndpointIpamConfig::default()
            }),
            links: (!service.links.is_empty()).then(|| self.links(service)),
            mac_address: attachment.mac.clone(),
            ..EndpointSettings::default()
        }
    }

    fn links(&self, service: &Service) -> Vec<String> {
        let link = |(of, alias): &(String, String)| {
            let name = self.services.get(of).map(|of| self.container_name(of, 1));
            format!("{}:{alias}", name.unwrap_or_else(|| of.clone()))
        };
        service.links.iter().map(link).collect()
    }

    /// Tells whether a container is still what the file says; not how many there are of it.
    pub fn hash(&self, service: &Service) -> String {
        let networks: Vec<_> = service
            .attachments
            .keys()
            .map(|key| (&self.networks[key].request.name, &service.attachments[key]))
            .map(|(name, attachment)| format!("{name} {attachment:?}"))
            .collect();
        // A JSON value has its keys in order, which a hash map has not.
        let whole = serde_json::json!({
            "body": serde_json::to_value(&service.container).unwrap_or_default(),
            "image": self.image(service),
            "networks": networks,
            "links": service.links,
            "modes": [&service.network_of, &service.pid_of, &service.ipc_of],
            "uploads": service.uploads.iter().map(|upload| format!("{upload:?}")).collect::<Vec<_>>(),
        });
        let digest = Sha256::digest(whole.to_string());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Leaves services that no profile asks for out. A service that was named is asked for, and
    /// so is what it needs.
    pub fn with_profiles(mut self, active: &[String], named: &[String]) -> Project {
        let is_active = |service: &Service| {
            service.profiles.is_empty()
                || service.profiles.iter().any(|profile| active.contains(profile))
                || active.iter().any(|profile| profile == "*")
        };
        let mut wanted: BTreeSet<String> = self
            .services
            .iter()
            .filter(|(name, service)| is_active(service) || named.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        let mut open: Vec<String> = named.to_vec();
        while let Some(name) = open.pop() {
            let Some(service) = self.services.get(&name) else { continue };
            wanted.insert(name);
            let further = service.needed().filter(|needed| !wanted.contains(*needed));
            open.extend(further.map(str::to_owned));
        }
        let (kept, left_out) =
            self.services.into_iter().partition(|(name, _)| wanted.contains(name));
        self.services = kept;
        let left_out: BTreeMap<String, Service> = left_out;
        self.left_out.extend(left_out.into_keys());
        for service in self.services.values_mut() {
            let is_there = |name: &String, required: bool| required || wanted.contains(name);
            service.depends_on.retain(|name, dependency| is_there(name, dependency.required));
        }
        self
    }

    /// Whether the file has a service, also where no profile asks for it.
    pub fn has_service(&self, name: &str) -> bool {
        self.services.contains_key(name) || self.left_out.contains(name)
    }

    /// Volumes that these services mount.
    pub fn volumes_of(&self, services: &[String]) -> Vec<&Volume> {
        let bodies = services.iter().filter_map(|name| self.services.get(name));
        let hosts = bodies.filter_map(|service| service.container.host_config.as_ref());
        let mut mounted = BTreeSet::new();
        for host in hosts {
            let binds = host.binds.iter().flatten();
            mounted.extend(binds.filter_map(|bind| bind.split(':').next()));
            let mounts = host.mounts.iter().flatten();
            mounted.extend(mounts.filter_map(|mount| mount.source.as_deref()));
        }
        self.volumes.values().filter(|volume| mounted.contains(volume.name.as_str())).collect()
    }

    /// The Compose files, as they were given.
    pub fn files(&self) -> Vec<PathBuf> {
        self.origin[1].1.split(',').map(PathBuf::from).collect()
    }
}

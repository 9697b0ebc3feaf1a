//! `create`: a request becomes a record and a directory.
//!
//! Owns the order of checks (cheap and pure first, the image last) and the
//! directory's layout. Whatever can be worked out now is not worked out at start:
//! the process with its numbers, limits, and the seccomp program.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use tenantry_image::{Held, remove_tree};
use tenantry_network::Port;
use tenantry_shim::spec::{IdMapping, LimitedResource, Process, Rlimit};

use super::{
    Engine, EngineConfig, Shared, blocking, cell::Cell, detached, lending, unix_ns, volumes,
};
use crate::{
    capabilities,
    config::{self, ContainerConfig, CreateRequest, SeccompChoice},
    error::Error,
    events::Action,
    health::{self, HealthCheck, HealthWish},
    limits::Limits,
    names,
    namespaces::NamespaceMode,
    process::{resolve_process, with_home, with_term},
    record::{ImageReference, Record, VERSION},
    state::State,
    ulimits, user,
};

impl Engine {
    /// Checks everything that can be checked, and keeps it; returns the id.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field; [`Error::Conflict`] a name in use or
    /// too many containers; [`Error::Image`] an image that cannot be had.
    pub async fn create(&self, request: CreateRequest) -> Result<String, Error> {
        config::check(&request)?;
        let shared = self.shared.clone();
        detached(async move { blocking("create", move || create(&shared, request)).await }).await
    }
}

fn create(shared: &Arc<Shared>, request: CreateRequest) -> Result<String, Error> {
    let id = names::random_id()?;
    let name = {
        let mut registry = shared.registry();
        let made_up = || names::name_for(&id, |name| registry.has_name(name));
        let name = request.name.clone().unwrap_or_else(made_up);
        registry.reserve(&name, &id, shared.config.max_containers)?;
        name
    };
    let dir = shared.containers_dir().join(&id);
    let made = resolve(shared, request, &id, &name).and_then(|(record, held)| {
        let owner = id_mapping(&shared.config, &record).map(|mapping| mapping.host_base);
        make_directories(&dir, owner)?;
        volumes::claim(shared, &record)?;
        volumes::populate(shared, &record, &dir)?;
        let cell = Arc::new(Cell::new(record, dir.clone()));
        cell.persist()?;
        Ok((held, cell))
    });
    match made {
        Ok((held, cell)) => {
            shared.registry().insert(&name, cell.clone());
            // From here on this container is listed as the image's user.
            drop(held);
            shared.tell(&cell, Action::Create, &[]);
            Ok(id)
        }
        Err(error) => {
            shared.registry().remove(&name, &id);
            shared.volumes.release(&id, true);
            // It may not have come to that.
            let _ = remove_tree(&dir);
            Err(error)
        }
    }
}

fn resolve<'a>(
    shared: &'a Shared,
    request: CreateRequest,
    id: &str,
    name: &str,
) -> Result<(Record, Held<'a>), Error> {
    let CreateRequest { image: reference, mut config, limits: patch, .. } = request;
    for wish in config.networks.iter_mut().flatten() {
        // One that does not exist yet is found, or not, at each start.
        if let Ok(found) = shared.networks.find(&wish.network) {
            wish.network = found.name;
        }
    }
    config.log = config.log.or(&shared.config.log);
    for mode in [&mut config.pid, &mut config.ipc, &mut config.uts] {
        if let NamespaceMode::Container(reference) = mode {
            let found = shared.find(reference).map_err(|_| {
                let value = format!("container:{reference}");
                Error::invalid("namespace", value, "a container of this host, by name or id")
            })?;
            *reference = found.id.clone();
        }
    }
    let lender = config.network_of.as_deref().map(|of| lending::find(shared, of)).transpose()?;
    if let Some(lender) = &lender {
        config.network_of = Some(lender.id.clone());
    }
    let change = patch.validate(shared.host_cpus)?;
    let limits = Limits::default().with(&patch, &change);
    let capabilities = granted(&config, shared.bounding)?;
    let rlimits = rlimits(&config, shared.bounding)?;
    if config.privileged && config.seccomp == SeccompChoice::Default {
        config.seccomp = SeccompChoice::Unconfined;
    }
    shared.seccomp.program(&config.seccomp, capabilities)?;
    let failed = |source: tenantry_image::Error| {
        let reference = reference.clone();
        Error::Image { reference, source: source.into() }
    };
    let held = shared.images.hold(&reference).map_err(failed)?;
    let image = held.image().map_err(failed)?;
    let of_image = image.config.config().as_ref().and_then(|known| known.exposed_ports().clone());
    // What is no port of a known protocol cannot be published, and is nobody's matter here.
    config.exposed.extend(of_image.iter().flatten().filter_map(|text| text.parse::<Port>().ok()));
    config.exposed.extend(config.ports.iter().map(|wish| wish.port));
    config.exposed.sort();
    config.exposed.dedup();
    if lender.is_some() {
        // What can be published there is the lender's to say.
        config.exposed.clear();
    }
    let of_image = image.config.config().as_ref().and_then(|config| config.volumes().clone());
    volumes::resolve(shared, &mut config, &of_image.unwrap_or_default())?;
    let of_lender = lender.as_ref().map(|lender| lender.lock().record.hostname.clone());
    let hostname = match (of_lender, &config.hostname, &config.uts) {
        (_, _, NamespaceMode::Container(id)) => shared.find(id)?.lock().record.hostname.clone(),
        (Some(of_lender), ..) => of_lender,
        (None, _, NamespaceMode::Host) => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        (None, Some(hostname), _) => hostname.clone(),
        (None, None, _) => id[..12].to_owned(),
    };
    let resolved = resolve_process(&image.config, &config, &hostname)?;
    let passwd = user::read_from_layers(&image.layers, "etc/passwd")?;
    let group = user::read_from_layers(&image.layers, "etc/group")?;
    let user = user::parse_user(&resolved.user, &passwd, &group)?;
    let mut additional_gids = user.additional_gids;
    additional_gids.extend(user::parse_groups(&config.group_add, &group)?);
    additional_gids.sort_unstable();
    additional_gids.dedup();
    let health = health_check(&config, &image.document)?;
    let process = Process {
        args: resolved.args,
        env: with_term(with_home(resolved.env, &user.home), config.terminal.is_some()),
        cwd: resolved.cwd,
        uid: user.uid,
        gid: user.gid,
        additional_gids,
        capabilities,
        no_new_privileges: config.no_new_privileges,
        oom_score_adj: config.oom_score_adj,
        rlimits,
        terminal: config.terminal,
    };
    let user_range = if config.own_user_ids { shared.registry().reserve_user_range(id) } else { 0 };
    let record = Record {
        version: VERSION,
        id: id.to_owned(),
        name: name.to_owned(),
        created_unix_ns: unix_ns(),
        image: ImageReference { name: reference, id: image.id.to_string() },
        layers: image.layers,
        config,
        process,
        hostname,
        stop_signal: resolved.stop_signal,
        health,
        limits,
        state: State::Created,
        user_range,
        paused: false,
        stopped_by_user: false,
        restarts: 0,
        oom_kills: 0,
        last_back_off_ms: 0,
        started_unix_ns: None,
        ended: None,
        address: None,
    };
    Ok((record, held))
}

fn granted(config: &ContainerConfig, bounding: capabilities::Set) -> Result<u64, Error> {
    let mut added = config.cap_add.clone();
    if config.privileged {
        added.push("ALL".to_owned());
    }
    capabilities::resolve(&added, &config.cap_drop, bounding)
}

/// The agent's own limits are the most where it lacks the privilege to raise them.
fn rlimits(config: &ContainerConfig, bounding: capabilities::Set) -> Result<Vec<Rlimit>, Error> {
    let wanted = ulimits::parse(&config.ulimits)?;
    if capabilities::contains(bounding, "CAP_SYS_RESOURCE") {
        return Ok(wanted);
    }
    let most = |resource: LimitedResource| rustix::process::getrlimit(resource.into()).maximum;
    Ok(ulimits::within(&wanted, most))
}

fn health_check(
    config: &ContainerConfig,
    document: &serde_json::Value,
) -> Result<Option<HealthCheck>, Error> {
    // OCI has no field for it. What another tool wrote there that is no check is none.
    let of_image = document.pointer("/config/Healthcheck").cloned();
    let of_image: Option<HealthWish> =
        of_image.and_then(|value| serde_json::from_value(value).ok());
    health::resolve(config.health.as_ref(), of_image.as_ref())
}

/// `upper` is the container's own writing layer; `work` and `rootfs` belong to
/// the mount. The way to them is passable (0711) for a mapped root.
fn make_directories(dir: &Path, owner: Option<u32>) -> Result<(), Error> {
    let make = |path: &Path, mode: u32| {
        let made = fs::DirBuilder::new().mode(mode).create(path);
        made.map_err(|e| Error::failed(format!("make directory {}", path.display()), e))
    };
    make(dir, 0o711)?;
    for (name, mode) in [("upper", 0o755), ("work", 0o711), ("rootfs", 0o755)] {
        let path = dir.join(name);
        make(&path, mode)?;
        std::os::unix::fs::chown(&path, owner, owner)
            .map_err(|e| Error::failed(format!("chown {}", path.display()), e))?;
    }
    Ok(())
}

/// Which ids of the host a container with a user namespace of its own has.
pub(super) fn id_mapping(config: &EngineConfig, record: &Record) -> Option<IdMapping> {
    let size = EngineConfig::USER_NAMESPACE_SIZE;
    let host_base = config.user_namespace_base + record.user_range * size;
    record.config.user_namespace.then_some(IdMapping { host_base, size })
}

//! What a shim is told, and the files it is told of.
//!
//! Owns the step from a record to a [`LaunchSpec`] (pure) and the files that each
//! start writes anew. Called by [`super::world`].

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use tenantry_cgroupfs::Group;
use tenantry_shim::spec::{
    Bind, CgroupPlacement, DeviceNode, LaunchSpec, Member, Namespace, Namespaces, NetworkNamespace,
    Propagation, Rootfs, Tmpfs, V1Directory,
};

use super::{EngineConfig, Shared, create};
use crate::{
    config::{ContainerConfig, NetworkMode, SeccompChoice, TmpfsRequest},
    devices,
    error::Error,
    etc::{self, Resolver},
    namespaces::NamespaceMode,
    propagation,
    record::Record,
    security,
    snapshot::LOG_FILE,
    sysctls,
};

pub(super) const EXIT_FILE: &str = "exit.json";

/// `hosts`, `hostname` and `resolv.conf` in a container's directory.
pub(super) fn files(dir: &Path) -> [PathBuf; 3] {
    ["hosts", "hostname", "resolv.conf"].map(|name| dir.join(name))
}

/// What of the host, and of other containers, a start finds anew each time.
#[derive(Default)]
pub(super) struct FromHost {
    pub namespaces: Namespaces,
    pub devices: Vec<DeviceNode>,
}

/// Docker's.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// # Errors
/// Those of [`namespaces`]; [`Error::Invalid`] for a device that is not there.
pub(super) fn from_host(shared: &Shared, record: &Record) -> Result<FromHost, Error> {
    let config = &record.config;
    let namespaces = namespaces(shared, config)?;
    let mut devices = devices::read(&config.devices)?;
    if config.privileged {
        let all = devices::read_all()?;
        let is_new = |node: &DeviceNode| devices.iter().all(|known| known.path != node.path);
        let further: Vec<DeviceNode> = all.into_iter().filter(is_new).collect();
        devices.extend(further);
    }
    Ok(FromHost { namespaces, devices })
}

/// # Errors
/// [`Error::Conflict`] if a container whose namespace is to be shared does not run, or does not
/// share it.
pub(super) fn namespaces(shared: &Shared, config: &ContainerConfig) -> Result<Namespaces, Error> {
    let namespace = |kind: &str, mode: &NamespaceMode| match mode {
        NamespaceMode::Private | NamespaceMode::Shareable => Ok(Namespace::New),
        NamespaceMode::Host => Ok(Namespace::Host),
        NamespaceMode::Container(id) => member(shared, kind, id).map(Namespace::Of),
    };
    Ok(Namespaces {
        pid: namespace("pid", &config.pid)?,
        ipc: namespace("ipc", &config.ipc)?,
        uts: namespace("uts", &config.uts)?,
    })
}

fn member(shared: &Shared, kind: &str, id: &str) -> Result<Member, Error> {
    let other = shared.find(id)?.snapshot();
    let name = &other.record.name;
    let upper = kind.to_uppercase();
    if kind == "ipc" && other.record.config.ipc == NamespaceMode::Private {
        let hint = "it was not made with --ipc shareable";
        return Err(Error::Conflict(format!("cannot join IPC of container {name}: {hint}")));
    }
    let member = other.live.as_ref().and_then(|live| {
        let inode = *live.namespaces.get(kind)?;
        Some(Member { pid: live.pid, inode })
    });
    let refused =
        || Error::Conflict(format!("cannot join {upper} of a non running container: {name}"));
    member.ok_or_else(refused)
}

/// Everything the shim is told, complete and literal. `lender`: the directory of who lends it
/// the network, and what is said of that in `/etc`.
pub(super) fn spec(
    config: &EngineConfig,
    record: &Record,
    dir: &Path,
    lender: Option<&Path>,
    group: &Group,
    volumes: Vec<PathBuf>,
    host: FromHost,
) -> LaunchSpec {
    let paths = |own: &Option<Vec<String>>, usual: &[&str]| match own {
        Some(own) => own.clone(),
        None if record.config.privileged => Vec::new(),
        None => usual.iter().map(ToString::to_string).collect(),
    };
    let [hosts, hostname, resolv] = files(lender.unwrap_or(dir));
    let etc = [(hosts, "/etc/hosts"), (hostname, "/etc/hostname"), (resolv, "/etc/resolv.conf")];
    let own = etc.map(|(source, target)| Bind {
        source,
        target: PathBuf::from(target),
        read_only: false,
        propagation: Propagation::Private,
    });
    let wanted = record.config.binds.iter().map(|bind| Bind {
        source: PathBuf::from(&bind.source),
        target: PathBuf::from(&bind.target),
        read_only: bind.read_only,
        propagation: match bind.propagation {
            // What root of a user namespace mounts is not for the host to see.
            Propagation::Shared if record.config.user_namespace => Propagation::Slave,
            wanted => wanted,
        },
    });
    let volumes = record.config.volumes.iter().zip(volumes).map(|(used, source)| Bind {
        source,
        target: PathBuf::from(&used.target),
        read_only: used.read_only,
        propagation: Propagation::Private,
    });
    let mut binds: Vec<Bind> = own.into_iter().chain(wanted).chain(volumes).collect();
    // What lies in another comes after it.
    binds.sort_by_key(|bind| bind.target.components().count());
    LaunchSpec {
        id: record.id.clone(),
        hostname: record.hostname.clone(),
        rootfs: Rootfs {
            lower: record.layers.clone(),
            upper: dir.join("upper"),
            work: dir.join("work"),
            mountpoint: dir.join("rootfs"),
            read_only: record.config.read_only_rootfs,
        },
        binds,
        tmpfs: record.config.tmpfs.iter().map(tmpfs).collect(),
        cgroup: CgroupPlacement {
            unified: group.unified_dir().to_owned(),
            v1: group
                .v1_dirs()
                .into_iter()
                .map(|(controller, path)| V1Directory { controller, path })
                .collect(),
        },
        network: match record.config.network {
            NetworkMode::Host => NetworkNamespace::Host,
            NetworkMode::Shared => NetworkNamespace::Given,
            NetworkMode::Bridge | NetworkMode::None => NetworkNamespace::New,
        },
        namespaces: host.namespaces,
        user_namespace: create::id_mapping(config, record),
        process: record.process.clone(),
        init: record.config.init,
        devices: host.devices,
        shm_size_bytes: record.config.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES),
        sysctls: sysctls::paths(&record.config.sysctls),
        privileged: record.config.privileged,
        masked_paths: paths(&record.config.masked_paths, &security::MASKED_PATHS),
        read_only_paths: paths(&record.config.read_only_paths, &security::READ_ONLY_PATHS),
        seccomp: record.config.seccomp != SeccompChoice::Unconfined,
        stdin: record.config.open_stdin && record.config.terminal.is_none(),
        log_path: dir.join(LOG_FILE),
        log_bound: record.config.log.bound(),
        exit_path: dir.join(EXIT_FILE),
    }
}

/// tmpfs' own options.
fn tmpfs(wanted: &TmpfsRequest) -> Tmpfs {
    let option = |name: &str, value: String| (name.to_owned(), value);
    let mut options = vec![option("mode", format!("{:o}", wanted.mode.unwrap_or(0o1777)))];
    options.extend(wanted.size_bytes.map(|bytes| option("size", bytes.to_string())));
    options.extend(wanted.uid.map(|uid| option("uid", uid.to_string())));
    options.extend(wanted.gid.map(|gid| option("gid", gid.to_string())));
    let target = PathBuf::from(&wanted.target);
    Tmpfs { target, options, read_only: wanted.read_only, exec: wanted.exec }
}

/// The files of this start; directories exist since `create`.
/// `gateway` is where a container reaches its host, if it has a network of its own.
pub(super) fn prepare(record: &Record, dir: &Path, gateway: Option<Ipv4Addr>) -> Result<(), Error> {
    for bind in &record.config.binds {
        let source = &bind.source;
        fs::metadata(source).map_err(|error| {
            Error::invalid("binds.source", source, format!("an existing path ({error})"))
        })?;
    }
    propagation::check(&record.config.binds)?;
    let exit_file = dir.join(EXIT_FILE);
    match fs::remove_file(&exit_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::failed(format!("remove {}", exit_file.display()), error));
        }
        _ => {}
    }
    if record.config.network == NetworkMode::Shared {
        return Ok(());
    }
    let further = etc::render_extra_hosts(&record.config.extra_hosts, gateway)?;
    let contents =
        [format!("{}{further}", etc::HOSTS), format!("{}\n", record.hostname), resolv_conf(record)];
    for (path, content) in files(dir).iter().zip(contents) {
        let written = fs::write(path, content);
        written.map_err(|e| Error::failed(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

/// By the networks that it is on now.
pub(super) fn resolv_conf(record: &Record) -> String {
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let wishes = &record.config.resolver;
    if record.config.has_names() {
        // Its own servers are asked by ours.
        let wishes = Resolver { servers: Vec::new(), ..wishes.clone() };
        return wishes.render_over(&etc::render_own_resolv_conf(&host, tenantry_network::RESOLVER));
    }
    let shares = record.config.network == NetworkMode::Host;
    wishes.render_over(&etc::render_resolv_conf(&host, shares))
}

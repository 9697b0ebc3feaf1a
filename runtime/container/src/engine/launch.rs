//! What a shim is told, and the files it is told of.
//!
//! Owns the step from a record to a [`LaunchSpec`] (pure) and the files that each
//! start writes anew. Called by [`super::world`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tenantry_cgroupfs::Group;
use tenantry_shim::spec::{
    Bind, CgroupPlacement, LaunchSpec, NetworkNamespace, Rootfs, V1Directory,
};

use super::{EngineConfig, create};
use crate::{
    config::{NetworkMode, SeccompChoice},
    error::Error,
    etc,
    record::Record,
    security,
    snapshot::LOG_FILE,
};

pub(super) const EXIT_FILE: &str = "exit.json";

/// `hosts`, `hostname` and `resolv.conf` in a container's directory.
pub(super) fn files(dir: &Path) -> [PathBuf; 3] {
    ["hosts", "hostname", "resolv.conf"].map(|name| dir.join(name))
}

/// Everything the shim is told, complete and literal.
pub(super) fn spec(
    config: &EngineConfig,
    record: &Record,
    dir: &Path,
    group: &Group,
) -> LaunchSpec {
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let [hosts, hostname, resolv] = files(dir);
    let etc = [(hosts, "/etc/hosts"), (hostname, "/etc/hostname"), (resolv, "/etc/resolv.conf")];
    let own = etc.map(|(source, target)| Bind {
        source,
        target: PathBuf::from(target),
        read_only: false,
    });
    let wanted = record.config.binds.iter().map(|bind| Bind {
        source: PathBuf::from(&bind.source),
        target: PathBuf::from(&bind.target),
        read_only: bind.read_only,
    });
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
        binds: own.into_iter().chain(wanted).collect(),
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
            NetworkMode::Bridge | NetworkMode::None => NetworkNamespace::New,
        },
        user_namespace: record.config.user_namespace.then(|| create::id_mapping(config)),
        process: record.process.clone(),
        masked_paths: strings(&security::MASKED_PATHS),
        read_only_paths: strings(&security::READ_ONLY_PATHS),
        seccomp: record.config.seccomp != SeccompChoice::Unconfined,
        stdin: record.config.open_stdin,
        log_path: dir.join(LOG_FILE),
        exit_path: dir.join(EXIT_FILE),
    }
}

/// The files of this start; directories exist since `create`.
pub(super) fn prepare(record: &Record, dir: &Path) -> Result<(), Error> {
    for bind in &record.config.binds {
        let source = &bind.source;
        fs::metadata(source).map_err(|error| {
            Error::invalid("binds.source", source, format!("an existing path ({error})"))
        })?;
    }
    let exit_file = dir.join(EXIT_FILE);
    match fs::remove_file(&exit_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::failed(format!("remove {}", exit_file.display()), error));
        }
        _ => {}
    }
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let shares = record.config.network == NetworkMode::Host;
    let contents = [
        etc::HOSTS.to_owned(),
        format!("{}\n", record.hostname),
        etc::render_resolv_conf(&host, shares),
    ];
    for (path, content) in files(dir).iter().zip(contents) {
        let written = fs::write(path, content);
        written.map_err(|e| Error::failed(format!("write {}", path.display()), e))?;
    }
    Ok(())
}

//! What a container looks like at one moment, for everyone who asks.
//!
//! Owns the public view: the record and what only a running container has.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tenantry_cgroupfs::CgroupIds;
use tenantry_network::Endpoint;

use crate::{health::Health, plan::Timings, record::Record};

#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    #[serde(flatten)]
    pub record: Record,
    /// `Some` while the program runs.
    pub live: Option<Live>,
    /// The container's directory: `log`, `upper`, `container.json`.
    pub dir: PathBuf,
    /// Microseconds of each step of the last start, in the order of their ends.
    pub start_timings: Timings,
    /// Of the present or last run; `None` without a check.
    pub health: Option<Health>,
    /// How often the program ended since this agent knows the container.
    pub endings: u64,
    /// It exists no more; this is its last snapshot.
    pub removed: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Live {
    /// As the host sees it.
    pub pid: i32,
    pub shim_pid: i32,
    pub cgroup: CgroupIds,
    /// Where cgroup v2 files of it are.
    pub cgroup_dir: PathBuf,
    /// Inode by type: mnt, pid, net, user, uts, ipc, cgroup.
    pub namespaces: BTreeMap<String, u64>,
    /// On its first network: bandwidth is limited here.
    pub endpoint: Option<Endpoint>,
    /// On its other networks.
    pub further: Vec<Endpoint>,
}

impl Live {
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoint.iter().chain(&self.further)
    }
}

impl Snapshot {
    /// What the container wrote over its image: the overlay's upper directory.
    pub fn upper_path(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// Frames as in `tenantry_shim::log`.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(LOG_FILE)
    }
}

pub(crate) const LOG_FILE: &str = "log";

const NAMESPACES: [&str; 7] = ["mnt", "pid", "net", "user", "uts", "ipc", "cgroup"];

/// Which namespaces a process is in. A type that this kernel lacks is left out.
pub(crate) fn read_namespaces(pid: i32) -> BTreeMap<String, u64> {
    let dir = Path::new("/proc").join(pid.to_string()).join("ns");
    let inode = |name: &str| rustix::fs::stat(dir.join(name)).ok().map(|stat| stat.st_ino);
    NAMESPACES.iter().filter_map(|name| Some(((*name).to_owned(), inode(name)?))).collect()
}

//! Where the measured process stands, in each of the examples that measure.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

/// Two v2 cgroups: the containers' parent and the one this process lives in meanwhile.
pub struct Groups {
    pub parent: PathBuf,
    pub own: PathBuf,
    before: PathBuf,
}

impl Groups {
    pub fn create() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|words| words[2] == "cgroup2")
            .map(|words| PathBuf::from(words[1]))
            .ok_or("no cgroup2 mount")?;
        let memberships = fs::read_to_string("/proc/self/cgroup")?;
        let path = memberships.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = root.join(path.ok_or("in no v2 cgroup")?);
        let parent = root.join(format!("tenantry-overhead-{}", std::process::id()));
        let own = parent.join("c1");
        fs::create_dir_all(&own)?;
        join(&own)?;
        Ok(Self { parent, own, before })
    }

    pub fn remove(&self) -> std::io::Result<()> {
        join(&self.before)?;
        fs::remove_dir(&self.own)?;
        fs::remove_dir(&self.parent)
    }
}

fn join(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
}

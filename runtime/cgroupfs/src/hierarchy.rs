//! The host's hierarchies, and the parent that all of one agent's groups share.
//!
//! Owns detection and the parent's set-up (v2: `cgroup.subtree_control` down from the
//! root; v1: cpuset copied, hierarchical accounting). The agent opens one at start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, mkdir};
use rustix::io::Errno;

use crate::error::Error;
use crate::file::{Buffer, write_value};
use crate::group::{Group, V1Dir, path_problem};
use crate::layout::{Layout, Mounts, parse_mounts};
use crate::parse;
use crate::remove::remove_empty;

/// Controllers that a v2 parent passes on to its groups, where the kernel has them.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
pub(crate) const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Where this host's cgroups are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mounts: Arc<Mounts>,
    sys_dev_block: Arc<Path>,
}

impl Hierarchy {
    /// This host's, from `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`Error::Layout`] if no cgroup2 file system is mounted.
    pub fn detect() -> Result<Hierarchy, Error> {
        Hierarchy::detect_at(Path::new("/"))
    }

    /// The same below another root: a captured tree with its `proc/self/mountinfo`.
    pub fn detect_at(root: &Path) -> Result<Hierarchy, Error> {
        let mut buffer = Buffer::new();
        let mut mounts = parse_mounts(buffer.read(&root.join("proc/self/mountinfo"))?)?;
        let below = |dir: &Path| match dir.strip_prefix("/") {
            Ok(relative) => root.join(relative),
            Err(_) => dir.to_owned(),
        };
        mounts.unified = below(&mounts.unified);
        for mount in &mut mounts.v1 {
            mount.dir = below(&mount.dir);
        }
        let sys_dev_block = root.join("sys/dev/block").into();
        Ok(Hierarchy { mounts: Arc::new(mounts), sys_dev_block })
    }

    pub fn layout(&self) -> Layout {
        self.mounts.layout
    }

    /// The root of the v2 tree.
    pub fn unified_mount(&self) -> &Path {
        &self.mounts.unified
    }

    /// Names the group at `path` below every hierarchy's root (`tenantry/<id>`), whether
    /// it is there or not. A path that is no plain relative path is refused by the
    /// operations that change something.
    pub fn group(&self, path: &str) -> Group {
        let v1 = self.mounts.v1.iter().map(|mount| V1Dir {
            controllers: mount.controllers.clone(),
            dir: mount.dir.join(path.trim_start_matches('/')),
        });
        Group::new(
            self.mounts.layout,
            path,
            self.mounts.unified.join(path.trim_start_matches('/')),
            v1.collect(),
            self.sys_dev_block.clone(),
        )
    }

    /// Makes the directory under which groups can be created, and any above it, in every
    /// hierarchy; does nothing to what is there already. Groups hold processes, so the
    /// parent itself must hold none on v2.
    ///
    /// # Errors
    /// [`Error::GroupPath`], or [`Error::Io`] with the file: `EBUSY` on
    /// `cgroup.subtree_control` means that a cgroup above holds processes.
    pub fn prepare_parent(&self, parent: &str) -> Result<(), Error> {
        if let Some(allowed) = path_problem(parent) {
            return Err(Error::GroupPath { operation: "prepare", path: parent.into(), allowed });
        }
        let mut buffer = Buffer::new();
        for mount in &self.mounts.v1 {
            let mut dir = mount.dir.clone();
            for part in parent.split('/') {
                dir.push(part);
                make_dir(&dir)?;
                prepare_v1(&mount.controllers, &dir, &mut buffer)?;
            }
        }
        let mut dir = self.mounts.unified.clone();
        for part in parent.split('/') {
            if self.mounts.layout == Layout::Unified {
                pass_controllers_on(&dir, &mut buffer)?;
            }
            dir.push(part);
            make_dir(&dir)?;
        }
        if self.mounts.layout == Layout::Unified {
            pass_controllers_on(&dir, &mut buffer)?;
        }
        Ok(())
    }

    /// Removes the parent from every hierarchy, once its groups are gone. Directories
    /// above it and the root's `cgroup.subtree_control` stay: others may use them.
    ///
    /// # Errors
    /// [`Error::Busy`] if a group is still there; then nothing more is removed.
    pub fn remove_parent(&self, parent: &str) -> Result<(), Error> {
        if let Some(allowed) = path_problem(parent) {
            return Err(Error::GroupPath { operation: "remove", path: parent.into(), allowed });
        }
        let v1 = self.mounts.v1.iter().map(|mount| mount.dir.join(parent));
        for dir in v1.chain([self.mounts.unified.join(parent)]) {
            remove_empty(&dir)?;
        }
        Ok(())
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    match mkdir(dir, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::io("create", dir, errno)),
    }
}

fn prepare_v1(controllers: &[String], dir: &Path, buffer: &mut Buffer) -> Result<(), Error> {
    for controller in controllers {
        match controller.as_str() {
            "cpuset" => {
                inherit_cpuset(dir, buffer)?;
                // From now on the kernel copies the set into each new child, so that
                // creating a group need not.
                write(&dir.join("cgroup.clone_children"), "1")?;
            }
            "memory" => {
                // Always 1 since 5.11, where writing it is a deprecated no-op.
                let path = dir.join("memory.use_hierarchy");
                let off = buffer.read_if_there(&path)?.and_then(parse::number) == Some(0);
                if off {
                    write(&path, "1")?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A v1 cpuset starts empty and takes no process until it has CPUs and memory nodes.
pub(crate) fn inherit_cpuset(dir: &Path, buffer: &mut Buffer) -> Result<(), Error> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in CPUSET_FILES {
        let own = dir.join(name);
        if buffer.read(&own)?.trim_end().is_empty() {
            let inherited = buffer.read(&parent.join(name))?.trim_end().to_owned();
            write(&own, &inherited)?;
        }
    }
    Ok(())
}

/// Enables what is available and not yet enabled, by one write.
fn pass_controllers_on(dir: &Path, buffer: &mut Buffer) -> Result<(), Error> {
    let path: PathBuf = dir.join("cgroup.subtree_control");
    let enabled = buffer.read(&path)?.to_owned();
    let available = buffer.read(&dir.join("cgroup.controllers"))?;
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|c| c == name);
    let missing: Vec<String> = V2_CONTROLLERS
        .iter()
        .filter(|name| has(available, name) && !has(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    write(&path, &missing.join(" "))
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    write_value(path, value).map_err(|errno| Error::write(path, value, errno))
}

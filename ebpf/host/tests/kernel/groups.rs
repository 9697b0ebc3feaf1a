//! Cgroups of the tests' own, in each hierarchy that matters.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tenantry_ebpf::{CgroupIds, Slot};

use crate::fixture::{mount_of, poll};

/// A directory in each hierarchy that matters.
#[derive(Clone)]
pub struct Groups {
    pub unified: PathBuf,
    pub blkio: Option<PathBuf>,
}

/// A registered cgroup, by hierarchy.
pub struct Container {
    pub slot: Slot,
    pub unified: PathBuf,
    pub blkio: Option<PathBuf>,
}

impl Groups {
    /// The hierarchies' roots, on a machine that has a v2 one.
    pub fn top() -> Self {
        let unified = mount_of("cgroup2", "").expect("checked before");
        Self { unified, blkio: mount_of("cgroup", "blkio") }
    }

    /// New directories below these, whose children have the controllers that matter.
    pub fn below(&self, name: &str) -> Self {
        let unified = new_group(&self.unified, name);
        let blkio = self.blkio.as_ref().map(|blkio| new_group(blkio, name));
        if blkio.is_none() {
            // v2 charges disk I/O to the nearest cgroup that has the controller, and
            // writeback to the one that has both.
            for controller in ["+io", "+memory"] {
                let _ = fs::write(unified.join("cgroup.subtree_control"), controller);
            }
        }
        Self { unified, blkio }
    }

    pub fn container(&self, slot: Slot) -> Container {
        let name = format!("c{slot}");
        let blkio = self.blkio.as_ref().map(|blkio| new_group(blkio, &name));
        Container { slot, unified: new_group(&self.unified, &name), blkio }
    }

    pub fn remove(&self) {
        remove_tree(&self.unified);
        self.blkio.as_ref().inspect(|blkio| remove_tree(blkio));
    }
}

impl Container {
    pub fn ids(&self) -> CgroupIds {
        CgroupIds { unified: id(&self.unified), blkio: self.blkio.as_deref().map(id) }
    }

    pub fn add(&self, pid: i32) {
        for dir in [Some(&self.unified), self.blkio.as_ref()].into_iter().flatten() {
            fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
        }
    }

    /// A cgroup below this one, in each hierarchy.
    pub fn nested(&self, name: &str) -> Container {
        let blkio = self.blkio.as_ref().map(|blkio| new_group(blkio, name));
        Container { slot: self.slot, unified: new_group(&self.unified, name), blkio }
    }

    pub fn remove(&self) {
        remove_tree(&self.unified);
        self.blkio.as_ref().inspect(|blkio| remove_tree(blkio));
    }
}

fn new_group(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

fn id(dir: &Path) -> u64 {
    fs::metadata(dir).expect("cgroup").ino()
}

/// Dead processes leave their cgroups a little after they were waited for.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let gone = poll(|| !dir.exists() || fs::remove_dir(dir).is_ok());
    // No panic: a test that fails drops its fixture too.
    if !gone {
        println!("cgroup {} was left behind", dir.display());
    }
}

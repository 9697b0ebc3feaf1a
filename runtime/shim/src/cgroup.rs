//! Where a container's processes are placed.
//!
//! The cgroups themselves are the agent's: they are never created, changed or
//! removed here.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::CgroupPlacement;

use crate::failure::at;

/// What outlives the spec, for `exec`.
#[derive(Debug)]
pub struct Placement {
    unified: PathBuf,
    v1: Vec<PathBuf>,
}

/// The way into one process's cgroups, opened by the shim: the child's user may
/// not be able to, and the kernel asks who opened the file.
#[derive(Debug)]
pub struct Doors {
    /// For `CLONE_INTO_CGROUP`: a process is born there, and `pids.max` is checked.
    pub unified: OwnedFd,
    v1_tasks: Vec<OwnedFd>,
}

impl Placement {
    pub fn of(spec: &CgroupPlacement) -> Self {
        Self {
            unified: spec.unified.clone(),
            v1: spec.v1.iter().map(|v1| v1.path.join("tasks")).collect(),
        }
    }

    pub fn open(&self) -> Result<Doors, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unified = rustix::fs::open(&self.unified, flags, Mode::empty())
            .map_err(at("open", self.unified.display()))?;
        let open_tasks = |path: &PathBuf| {
            rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(at("open", path.display()))
        };
        let v1_tasks = self.v1.iter().map(open_tasks).collect::<Result<_, _>>()?;
        Ok(Doors { unified, v1_tasks })
    }

    /// In the child: moves itself.
    ///
    /// A thread that moves itself alone, by `0` into `tasks`, needs no lock over
    /// all thread groups (since 5.5). By `cgroup.procs` the first of these writes
    /// waits for an RCU grace period: 10 ms, which was three quarters of the time
    /// to start a container. A child has one thread, so both mean the same.
    pub fn join_v1(&self, doors: &Doors) -> Result<(), Failure> {
        for (tasks, path) in doors.v1_tasks.iter().zip(&self.v1) {
            rustix::io::write(tasks, b"0").map_err(at("write", path.display()))?;
        }
        Ok(())
    }
}

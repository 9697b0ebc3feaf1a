//! One container's cgroup: a directory in every hierarchy, handled as one thing.
//!
//! Owns creation, identity, killing, freezing and the list of processes. Limits are in
//! `apply`, numbers in `read`, removal in `remove`. Everything here is a handful of
//! system calls and blocks at most as long as its documentation says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, mkdir, rmdir, stat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::file::{Buffer, read_list, write_value};
use crate::hierarchy::inherit_cpuset;
use crate::layout::Layout;
use crate::parse;
use crate::remove::{child_dirs, remove_tree};
use crate::types::CgroupIds;

/// How long a freeze may take; a task in uninterruptible sleep cannot be frozen.
const FREEZE_WITHIN: Duration = Duration::from_secs(2);
/// How long the last process of a killed group may take to vanish before a removal
/// gives up.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);
const KILL_ROUNDS: u32 = 100;

/// One cgroup in all hierarchies, existing or not. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Group(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    path: String,
    unified: PathBuf,
    v1: Vec<V1Dir>,
    sys_dev_block: Arc<Path>,
}

#[derive(Clone, Debug)]
pub(crate) struct V1Dir {
    pub(crate) controllers: Vec<String>,
    pub(crate) dir: PathBuf,
}

/// What is wrong with a group's path, as "a group's path is …".
pub(crate) fn path_problem(path: &str) -> Option<&'static str> {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    let good = path.split('/').all(plain);
    (!good).then_some("relative to the hierarchy's root, without empty, '.' or '..' parts")
}

impl Group {
    pub(crate) fn new(
        layout: Layout,
        path: &str,
        unified: PathBuf,
        v1: Vec<V1Dir>,
        sys_dev_block: Arc<Path>,
    ) -> Group {
        let path = path.to_owned();
        Group(Arc::new(Inner { layout, path, unified, v1, sys_dev_block }))
    }

    /// Makes the directory in every hierarchy; on failure those that were made are
    /// removed again. The parent must have been prepared.
    ///
    /// # Errors
    /// [`Error::GroupPath`]; [`Error::Io`] with `EEXIST` if the group is there already
    /// (in any hierarchy: remove it first) or `ENOENT` if its parent is not.
    pub fn create(&self) -> Result<(), Error> {
        self.check_path("create")?;
        let mut made: Vec<&Path> = Vec::with_capacity(self.0.v1.len() + 1);
        let outcome = self.dirs().try_for_each(|dir| {
            mkdir(dir, Mode::from_raw_mode(0o755))
                .map_err(|errno| Error::io("create", dir, errno))?;
            made.push(dir);
            Ok(())
        });
        let outcome = outcome.and_then(|()| match self.dir("cpuset") {
            Some(dir) if self.0.layout == Layout::Hybrid => inherit_cpuset(dir, &mut Buffer::new()),
            _ => Ok(()),
        });
        if outcome.is_err() {
            for dir in made.into_iter().rev() {
                // Made a moment ago and empty: nothing better can be done than try.
                let _ = rmdir(dir);
            }
        }
        outcome
    }

    /// Inode numbers of the directories, which are the kernel's cgroup ids.
    pub fn ids(&self) -> Result<CgroupIds, Error> {
        let v1 = |controller: &str| match self.0.layout {
            Layout::Hybrid => self.dir(controller).map(inode).transpose(),
            Layout::Unified => Ok(None),
        };
        Ok(CgroupIds {
            unified: inode(&self.0.unified)?,
            blkio_v1: v1("blkio")?,
            memory_v1: v1("memory")?,
        })
    }

    /// Below every hierarchy's root, as given to [`crate::Hierarchy::group`].
    pub fn path(&self) -> &str {
        &self.0.path
    }

    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// The v2 directory: for `CLONE_INTO_CGROUP`, `cgroup.kill`, `*.pressure`.
    pub fn unified_dir(&self) -> &Path {
        &self.0.unified
    }

    /// Each v1 directory with its controllers as mounted (`cpu,cpuacct`, `name=systemd`).
    /// Empty on pure v2.
    pub fn v1_dirs(&self) -> Vec<(String, PathBuf)> {
        self.0.v1.iter().map(|v1| (v1.controllers.join(","), v1.dir.clone())).collect()
    }

    /// Files to which a process id is written to join the v1 hierarchies.
    pub fn procs_files_v1(&self) -> Vec<PathBuf> {
        self.0.v1.iter().map(|v1| v1.dir.join("cgroup.procs")).collect()
    }

    /// Whether the v2 directory is there.
    pub fn exists(&self) -> bool {
        stat(&self.0.unified).is_ok()
    }

    /// Processes in the group and in those nested in it, as this process's pid namespace
    /// numbers them.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        collect_pids(&self.0.unified, &mut pids)?;
        Ok(pids)
    }

    /// Kills every process in the group and in those nested in it; returns before they
    /// are gone. By `cgroup.kill` (5.14) at once, before that frozen and one by one.
    pub fn kill(&self) -> Result<(), Error> {
        self.check_path("kill")?;
        let path = self.0.unified.join("cgroup.kill");
        match write_value(&path, "1") {
            Err(Errno::NOENT) if self.exists() => self.kill_each(),
            other => other.map_err(|errno| Error::write(&path, "1", errno)),
        }
    }

    /// Frozen tasks cannot fork or end, so that no id in the list is another process's
    /// by the time it is killed; a fatal signal ends a frozen task too.
    fn kill_each(&self) -> Result<(), Error> {
        let freezer = self.0.unified.join("cgroup.freeze");
        let frozen = write_value(&freezer, "1").is_ok();
        for _ in 0..KILL_ROUNDS {
            let pids = self.pids()?;
            if pids.is_empty() {
                break;
            }
            for pid in pids.into_iter().filter_map(Pid::from_raw) {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(Error::io("kill processes of", &freezer, errno)),
                }
            }
            sleep(Duration::from_millis(1));
        }
        if frozen {
            write_value(&freezer, "0").map_err(|errno| Error::write(&freezer, "0", errno))?;
        }
        Ok(())
    }

    /// Stops every task in the group and waits until they have stopped, at most 2 s.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if a task could not be stopped; the freeze is taken back.
    pub fn freeze(&self) -> Result<(), Error> {
        self.set_frozen("1", 1, "frozen").inspect_err(|_| {
            let _ = write_value(&self.0.unified.join("cgroup.freeze"), "0");
        })
    }

    /// Lets the group's tasks run again.
    pub fn thaw(&self) -> Result<(), Error> {
        self.set_frozen("0", 0, "thawed")
    }

    /// Whether all of the group's tasks have stopped.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let (events, mut buffer) = (self.0.unified.join("cgroup.events"), Buffer::new());
        Ok(parse::keyed(buffer.read(&events)?, "frozen") == Some(1))
    }

    fn set_frozen(&self, value: &str, wanted: u64, state: &'static str) -> Result<(), Error> {
        self.check_path("freeze or thaw")?;
        let path = self.0.unified.join("cgroup.freeze");
        write_value(&path, value).map_err(|errno| Error::write(&path, value, errno))?;
        let events = self.0.unified.join("cgroup.events");
        let (started, mut buffer) = (Instant::now(), Buffer::new());
        while parse::keyed(buffer.read(&events)?, "frozen") != Some(wanted) {
            if started.elapsed() > FREEZE_WITHIN {
                let waited_ms = FREEZE_WITHIN.as_millis() as u64;
                return Err(Error::TimedOut { path: self.0.unified.clone(), state, waited_ms });
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes the group and those nested in it from every hierarchy; one that is not
    /// there is no error. Kills nothing, and waits at most 2 s for processes that are on
    /// their way out.
    ///
    /// # Errors
    /// [`Error::Busy`] with the processes that are still there. Hierarchies without them
    /// have been cleared; call again when they are gone.
    pub fn remove(&self) -> Result<(), Error> {
        self.check_path("remove")?;
        let deadline = Instant::now() + REMOVE_WITHIN;
        // The unified directory last: while it is there the rest can be found again.
        let outcomes = self.0.v1.iter().map(|v1| v1.dir.as_path()).chain([&*self.0.unified]);
        outcomes.map(|dir| remove_tree(dir, deadline)).fold(Ok(()), Result::and)
    }

    pub(crate) fn check_path(&self, operation: &'static str) -> Result<(), Error> {
        match path_problem(&self.0.path) {
            Some(allowed) => {
                Err(Error::GroupPath { operation, path: self.0.path.clone(), allowed })
            }
            None => Ok(()),
        }
    }

    /// The directory with a controller's files. On pure v2 the one directory, whether
    /// the controller is enabled there or not.
    pub(crate) fn dir(&self, controller: &str) -> Option<&Path> {
        match self.0.layout {
            Layout::Unified => Some(&self.0.unified),
            Layout::Hybrid => {
                let mut all = self.0.v1.iter();
                let found = all.find(|v1| v1.controllers.iter().any(|c| c == controller));
                found.map(|v1| v1.dir.as_path())
            }
        }
    }

    /// The directory with a v1 controller's files. `None` on pure v2.
    pub(crate) fn v1_dir(&self, controller: &str) -> Option<&Path> {
        self.dir(controller).filter(|_| self.0.layout == Layout::Hybrid)
    }

    /// `/sys/dev/block`, where every block device has an entry by its number.
    pub(crate) fn sys_dev_block(&self) -> &Path {
        &self.0.sys_dev_block
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        [self.0.unified.as_path()].into_iter().chain(self.0.v1.iter().map(|v1| v1.dir.as_path()))
    }
}

fn inode(dir: &Path) -> Result<u64, Error> {
    stat(dir).map(|stat| stat.st_ino).map_err(|errno| Error::io("stat", dir, errno))
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    let path = dir.join("cgroup.procs");
    match read_list(&path) {
        Ok(text) => pids.extend(parse::pids(&text)),
        // A threaded group's processes are listed in its domain, further up.
        Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(Error::io("read", &path, errno)),
    }
    for child in child_dirs(dir).map_err(|errno| Error::io("list", dir, errno))? {
        match collect_pids(&child, pids) {
            Err(error) if error.is_gone() => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::Hierarchy;

    /// Kernels before 5.14 have no `cgroup.kill`; here it is passed by.
    #[test]
    fn killing_one_by_one_ends_everything_and_leaves_the_group_usable() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: creating cgroups needs root");
            return;
        }
        let hierarchy = Hierarchy::detect().unwrap();
        let parent = format!("tenantry-cgtest-{}-kill", std::process::id());
        hierarchy.prepare_parent(&parent).unwrap();
        let group = hierarchy.group(&format!("{parent}/one"));
        group.create().unwrap();
        let mut children: Vec<_> =
            (0..3).map(|_| Command::new("sleep").arg("30").spawn().unwrap()).collect();
        for child in &children {
            let procs = group.unified_dir().join("cgroup.procs");
            std::fs::write(procs, child.id().to_string()).unwrap();
        }
        let killed = group.kill_each();
        for child in &mut children {
            let _ = child.kill();
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
                Some(9)
            );
        }
        killed.unwrap();
        let mut buffer = Buffer::new();
        let events = buffer.read(&group.unified_dir().join("cgroup.events")).unwrap();
        assert_eq!(
            (parse::keyed(events, "populated"), parse::keyed(events, "frozen")),
            (Some(0), Some(0))
        );
        group.remove().unwrap();
        hierarchy.remove_parent(&parent).unwrap();
    }
}

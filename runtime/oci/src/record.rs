//! What is remembered of a container: `ROOT/ID/`, made by `create`, gone with `delete`.
//!
//! ```text
//! state.json     the record, written aside and renamed
//! gate           a listening socket while the container has been created and not started
//! seccomp        the compiled program, for further processes
//! ```
//!
//! Commands about one container take turns by a lock on its directory.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, failed};
use crate::hooks::{self, Hooks};

const LONGEST_ID: usize = 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// 0 while it is being created.
    pub pid: i32,
    /// When its first process began, by the kernel's clock: tells it from a later one
    /// with the same number.
    pub start_ticks: u64,
    pub created: String,
    /// Below every hierarchy's root.
    pub cgroup: String,
    pub user_namespace: bool,
    pub annotations: HashMap<String, String>,
    pub hooks: Hooks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What a look at a container has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub has_pid: bool,
    pub alive: bool,
    pub gate: bool,
    pub frozen: bool,
}

pub fn status(look: Look) -> Status {
    match look {
        Look { has_pid: false, .. } => Status::Creating,
        Look { alive: false, .. } => Status::Stopped,
        Look { frozen: true, .. } => Status::Paused,
        Look { gate: true, .. } => Status::Created,
        _ => Status::Running,
    }
}

/// State and start time of `/proc/PID/stat`. The name before them may hold anything.
pub fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields 4 to 21 stand between.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The start time of a process that is no zombie.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (state, ticks) = parse_stat(&text)?;
    (!matches!(state, 'Z' | 'X')).then_some(ticks)
}

/// Where the records are.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// One container's directory; locked, unless it is only looked at, as long as this lives.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    directory: OwnedFd,
}

impl Store {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// # Errors
    /// [`Error::Exists`], or [`Error::Invalid`] for what is no id.
    pub fn create(&self, id: &str) -> Result<Place, Error> {
        let path = self.path(id)?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o711).recursive(true);
        builder.create(&self.root).map_err(failed("mkdir", self.root.display()))?;
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists(id.to_owned()));
            }
            other => other.map_err(failed("mkdir", path.display()))?,
        }
        Place::lock(path)
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub fn open(&self, id: &str) -> Result<Place, Error> {
        let path = self.path(id)?;
        if !path.is_dir() {
            return Err(Error::NotFound(id.to_owned()));
        }
        let place = Place::lock(path)?;
        // It may have been deleted while its lock was waited for.
        if place.path.is_dir() { Ok(place) } else { Err(Error::NotFound(id.to_owned())) }
    }

    /// Without the lock, so that a hook may ask for the state of its container. The record
    /// is whole at every moment.
    pub fn look_at(&self, id: &str) -> Result<Place, Error> {
        let path = self.path(id)?;
        if !path.is_dir() {
            return Err(Error::NotFound(id.to_owned()));
        }
        Place::open(path)
    }

    pub fn ids(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", self.root.display()))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        Ok(names)
    }

    fn path(&self, id: &str) -> Result<PathBuf, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        let good = !id.is_empty()
            && id.len() <= LONGEST_ID
            && !matches!(id, "." | "..")
            && id.chars().all(plain);
        if !good {
            return Err(Error::invalid("container id", id, "letters, digits, _ + - ."));
        }
        Ok(self.root.join(id))
    }
}

impl Place {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty());
        let directory = directory.map_err(failed("open", path.display()))?;
        Ok(Self { path, directory })
    }

    fn lock(path: PathBuf) -> Result<Self, Error> {
        let place = Self::open(path)?;
        let lock = || rustix::fs::flock(&place.directory, FlockOperation::LockExclusive);
        rustix::io::retry_on_intr(lock).map_err(failed("lock", place.path.display()))?;
        Ok(place)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    pub fn has_gate(&self) -> bool {
        self.path.join(crate::gate::NAME).exists()
    }

    pub fn read(&self) -> Result<Record, Error> {
        let path = self.path.join("state.json");
        let text = fs::read(&path).map_err(failed("read", path.display()))?;
        serde_json::from_slice(&text).map_err(|source| Error::Document { path, source })
    }

    pub fn write(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record);
        let path = self.path.join("state.json");
        let text = text.map_err(|source| Error::Document { path: path.clone(), source })?;
        let aside = self.path.join("state.json.new");
        fs::write(&aside, text).map_err(failed("write", aside.display()))?;
        fs::rename(&aside, &path).map_err(failed("rename", path.display()))
    }

    /// The directory with all that is in it.
    pub fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(failed("remove", self.path.display()))
    }
}

impl Record {
    pub fn is_alive(&self) -> bool {
        self.pid > 0 && start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// A descriptor of the first process, if it still is that one.
    pub fn pidfd(&self) -> Option<OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after it was opened: the number cannot have changed hands since.
        self.is_alive().then_some(pidfd)
    }

    /// As the specification's `state` has it.
    pub fn state(&self, status: Status) -> Value {
        let pid = if status == Status::Stopped { 0 } else { self.pid };
        let annotations = serde_json::json!(self.annotations);
        let status = status.to_string();
        let version = &self.oci_version;
        let mut state = hooks::state(version, &self.id, &status, pid, &self.bundle, &annotations);
        state["rootfs"] = serde_json::json!(self.rootfs);
        state["created"] = serde_json::json!(self.created);
        state["owner"] = "".into();
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_a_look_finds() {
        let look = Look { has_pid: true, alive: true, gate: true, frozen: false };
        assert_eq!(status(look), Status::Created);
        assert_eq!(status(Look { gate: false, ..look }), Status::Running);
        assert_eq!(status(Look { gate: false, frozen: true, ..look }), Status::Paused);
        assert_eq!(status(Look { alive: false, ..look }), Status::Stopped);
        assert_eq!(status(Look { has_pid: false, alive: false, ..look }), Status::Creating);
    }

    #[test]
    fn a_process_name_with_brackets_is_passed_over() {
        let text = "7 (a) S (b) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 8 9";
        assert_eq!(parse_stat(text), Some(('R', 4711)));
        assert_eq!(parse_stat("7 (short) R 1"), None);
        assert!(start_ticks(std::process::id() as i32).is_some());
    }

    #[test]
    fn an_id_is_taken_once_and_is_no_path() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("root"));
        drop(store.create("one").unwrap());
        assert!(matches!(store.create("one"), Err(Error::Exists(_))));
        assert!(matches!(store.open("two"), Err(Error::NotFound(_))));
        for id in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(matches!(store.create(id), Err(Error::Invalid { .. })), "{id:?}");
        }
        assert_eq!(store.ids().unwrap(), ["one"]);
        store.open("one").unwrap().remove().unwrap();
        assert!(store.ids().unwrap().is_empty());
    }
}

//! What can go wrong: [`Error`] for groups as a whole, [`ApplyError`] for limits.
//!
//! Each names operation, path, value and (as `source`) the errno. Nothing here
//! logs; whoever handles an error does.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed. [`Error::is_gone`] tells whether the group has vanished.
    #[error("cannot {operation} {path}{value}", path = path.display(), value = shown(value))]
    Io {
        operation: &'static str,
        path: PathBuf,
        /// What was being written.
        value: Option<String>,
        #[source]
        source: io::Error,
    },
    /// The kernel's text is not in a format this crate knows: a bug here.
    #[error("cannot parse {path}: {what} in {text:?}", path = path.display())]
    Parse { path: PathBuf, what: &'static str, text: String },
    #[error("no usable cgroup hierarchy: {why}")]
    Layout { why: String },
    /// The caller's mistake: nothing was touched.
    #[error("cannot {operation} cgroup {path:?}: a group's path is {allowed}")]
    GroupPath { operation: &'static str, path: String, allowed: &'static str },
    /// Processes are still in the group (their ids, if they could be read); nothing is
    /// killed by removing. Kill, reap and try again.
    #[error("cannot remove {path}: in use by processes {pids:?}", path = path.display())]
    Busy { path: PathBuf, pids: Vec<i32> },
    /// The group did not come to rest in time; a freeze is taken back.
    #[error("{path} did not become {state} within {waited_ms} ms", path = path.display())]
    TimedOut { path: PathBuf, state: &'static str, waited_ms: u64 },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, errno: Errno) -> Error {
        Error::Io { operation, path: path.to_owned(), value: None, source: errno.into() }
    }

    pub(crate) fn write(path: &Path, value: &str, errno: Errno) -> Error {
        let value = Some(value.to_owned());
        Error::Io { operation: "write", path: path.to_owned(), value, source: errno.into() }
    }

    /// The raw errno, where a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The group was removed, maybe while it was being read: no failure for a sampler.
    pub fn is_gone(&self) -> bool {
        [Errno::NOENT, Errno::NODEV].iter().any(|gone| self.errno() == Some(gone.raw_os_error()))
    }
}

fn shown(value: &Option<String>) -> String {
    value.as_ref().map(|value| format!(" (value {value:?})")).unwrap_or_default()
}

/// Limits were not applied: all that had been written is as it was, save what
/// `not_restored` lists.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The caller's mistake: nothing was written.
    #[error("{field}: {value} is not allowed, allowed is {allowed}")]
    Invalid { field: &'static str, value: String, allowed: String },
    /// Nothing was written, or it was restored: this kernel has no such limit.
    #[error("{resource} cannot be limited here: {why}")]
    Unsupported { resource: String, why: String },
    /// Nothing was written: the kernel would refuse (v1) or kill (v2).
    #[error(
        "memory_max_bytes: {wanted_bytes} is below the {used_bytes} bytes in use \
         (working set: usage without inactive file pages)"
    )]
    MemoryBelowUse { wanted_bytes: u64, used_bytes: u64 },
    #[error(
        "{resource}: cannot write {value:?} to {path}{rest}",
        path = path.display(), rest = listed(not_restored)
    )]
    Write {
        resource: String,
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
        not_restored: Vec<NotRestored>,
    },
    /// The kernel took the value but says something else: another writer, or a rounding
    /// that this crate does not know.
    #[error(
        "{resource}: wrote {value:?} to {path}, which now says {read_back:?}{rest}",
        path = path.display(), rest = listed(not_restored)
    )]
    ReadBack {
        resource: String,
        path: PathBuf,
        value: String,
        read_back: String,
        not_restored: Vec<NotRestored>,
    },
    /// The present state could not be read.
    #[error("cannot read the present limits")]
    Read(#[from] Error),
}

/// An earlier value that could not be put back: the file still has the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRestored {
    pub path: PathBuf,
    pub value: String,
    pub errno: i32,
}

fn listed(not_restored: &[NotRestored]) -> String {
    let shown = not_restored
        .iter()
        .map(|n| format!("{} (to {:?}, errno {})", n.path.display(), n.value, n.errno))
        .collect::<Vec<_>>();
    if shown.is_empty() {
        String::new()
    } else {
        format!("; could not be restored: {}", shown.join(", "))
    }
}

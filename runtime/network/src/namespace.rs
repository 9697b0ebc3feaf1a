//! Network namespaces: which one a process is in, and entering it.
//!
//! Entering moves only the calling thread. Threads that enter are made for one
//! job and end after it: a thread that stayed inside would keep the container's
//! namespace, and with it its links, alive.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result};

/// What tells two namespaces apart: device and inode on nsfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamespaceId {
    device: u64,
    inode: u64,
}

/// An open handle: the namespace cannot go away, nor the pid come to mean
/// another process, while it is held.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
    path: String,
}

impl Namespace {
    pub fn of_process(pid: u32) -> Result<Namespace> {
        Namespace::at(format!("/proc/{pid}/ns/net"))
    }

    pub fn of_this_thread() -> Result<Namespace> {
        Namespace::at("/proc/thread-self/ns/net".to_owned())
    }

    fn at(path: String) -> Result<Namespace> {
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        Ok(Namespace { file, path })
    }

    pub fn id(&self) -> Result<NamespaceId> {
        let meta = self.file.metadata().map_err(|e| Error::io("stat", &self.path, e))?;
        Ok(NamespaceId { device: meta.dev(), inode: meta.ino() })
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The calling thread is in this namespace afterwards.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::io("enter", &self.path, e))
    }
}

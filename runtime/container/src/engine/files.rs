//! A container's files, for who copies into it and out of it.
//!
//! Owns where they are: a running container's root is asked of the kernel, by its first
//! process, with everything that is mounted in it; a stopped one's is mounted for as long as
//! the look takes, and its volumes lie beside it. No start, end or removal of a stopped
//! container is handled meanwhile; a running one may end, which a look survives.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tenantry_shim::spec::IdMapping;

use super::{Engine, blocking, create, detached};
use crate::{
    error::Error,
    overlay::{Overlay, with_root},
    record::Record,
    snapshot::Live,
};

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// See the shim's `in_root`: a race with a rename anywhere on the host.
const ATTEMPTS: usize = 64;

/// What a look is given. Paths are the container's, absolute and without `.` and `..`.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// Of a stopped container, the deepest first: target, source, whether it may be written.
    beside: Vec<(PathBuf, PathBuf, bool)>,
    read_only: bool,
    /// The host's ids of the container's owners, if it has a user namespace.
    pub owners: Option<IdMapping>,
}

impl Files {
    /// Opens what is at `path`; no symlink in the container leads outside of it.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let (root, rest, _) = self.place(path)?;
        let root = root.as_ref().unwrap_or(&self.root);
        let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            let flags = flags | OFlags::CLOEXEC;
            match rustix::fs::openat2(root, rest, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Whether the container itself might write at `path`; the kernel says so of one that runs.
    pub fn may_write(&self, path: &Path) -> io::Result<bool> {
        Ok(!self.place(path)?.2)
    }

    /// The volume that `path` is in, the rest of the path, and whether it may not be written.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(Option<OwnedFd>, &'p Path, bool)> {
        for (target, source, read_only) in &self.beside {
            if let Ok(rest) = path.strip_prefix(target) {
                // A bound file is not looked into: its directory is the container's.
                match rustix::fs::openat(CWD, source, DIRECTORY, Mode::empty()) {
                    Ok(directory) => return Ok((Some(directory), rest, *read_only)),
                    Err(Errno::NOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok((None, path.strip_prefix("/").unwrap_or(path), self.read_only))
    }
}

impl Engine {
    /// Gives `look` the container's files, on a thread that may block.
    ///
    /// # Errors
    /// [`Error::Failed`] if they cannot be had.
    pub async fn files<T: Send + 'static>(
        &self,
        reference: &str,
        look: impl FnOnce(&Files) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let op = cell.op.lock().await;
            let snapshot = cell.snapshot();
            let record = snapshot.record.clone();
            let owners = create::id_mapping(&shared.config, &record);
            if let Some(live) = snapshot.live.clone() {
                // Its end must not wait for a slow reader.
                drop(op);
                return blocking("look into a container", move || {
                    let root = root_of(&live)?;
                    let files = Files { root, beside: vec![], read_only: false, owners };
                    Ok(look(&files))
                })
                .await;
            }
            let beside = beside(&record, |name| shared.volumes.data(name));
            let overlay = overlay_of(&record, &cell.dir);
            let looked = blocking("look into a container", move || {
                let read_only = record.config.read_only_rootfs;
                with_root(&overlay, |root| {
                    let root = root.try_clone()?;
                    Ok(look(&Files { root, beside, read_only, owners }))
                })
                .and_then(|looked: io::Result<T>| looked)
                .map_err(|e| Error::failed("mount the container's root", e))
            });
            let looked = looked.await;
            drop(op);
            looked
        })
        .await
    }
}

/// By a process that is known to be the container's when the descriptor is there.
fn root_of(live: &Live) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{}/root", live.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|e| Error::failed(format!("open {path}"), e))?;
    let namespace = rustix::fs::stat(format!("/proc/{}/ns/mnt", live.pid)).ok();
    if namespace.map(|stat| stat.st_ino) != live.namespaces.get("mnt").copied() {
        return Err(Error::Conflict("the container has just ended".to_owned()));
    }
    Ok(root)
}

/// The overlay that a start would mount.
pub(super) fn overlay_of(record: &Record, dir: &Path) -> Overlay {
    let place = dir.join("rootfs");
    let mut lower = record.layers.clone();
    if lower.is_empty() {
        lower.push(place.clone());
    }
    Overlay { lower, upper: dir.join("upper"), work: dir.join("work"), place }
}

fn beside(record: &Record, data: impl Fn(&str) -> PathBuf) -> Vec<(PathBuf, PathBuf, bool)> {
    let config = &record.config;
    let binds = config.binds.iter();
    let binds =
        binds.map(|bind| ((&bind.target).into(), PathBuf::from(&bind.source), bind.read_only));
    let volumes = config.volumes.iter();
    let volumes = volumes.map(|used| ((&used.target).into(), data(&used.name), used.read_only));
    let mut all: Vec<(PathBuf, PathBuf, bool)> = binds.chain(volumes).collect();
    all.sort_by_key(|(target, ..)| std::cmp::Reverse(target.components().count()));
    all
}

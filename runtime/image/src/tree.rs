//! One directory tree, written only through directory descriptors, never left.
//!
//! Owns the containment: each parent directory is opened by `openat2` with
//! `RESOLVE_BENEATH`, so the kernel refuses `..`, absolute symlinks and symlinks
//! that climb out, also against races; the last component is created or opened
//! without following anything. It decides nothing about what to write: that is
//! [`crate::unpack`], its only caller.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, StatxFlags, Timespec,
    Timestamps, Uid,
};
use rustix::io::Errno;

use crate::remove_tree::remove_at;

/// Below a tree's root: no `.`, no `..`, no empty component. Empty is the root.
pub(crate) type Components = Vec<OsString>;

const WITHIN: ResolveFlags = WITHIN_MOUNTS.union(ResolveFlags::NO_XDEV);
/// Of a container's root, which may have volumes in it.
const WITHIN_MOUNTS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Why a parent directory could not be had.
#[derive(Debug)]
pub(crate) enum ParentError {
    /// A symlink on the way leads outside: its target.
    Outside(String),
    Io(io::Error),
}

impl From<Errno> for ParentError {
    fn from(errno: Errno) -> ParentError {
        ParentError::Io(errno.into())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Metadata {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

pub(crate) struct Tree {
    root: OwnedFd,
    within: ResolveFlags,
    /// Entries come in runs of siblings: the last parent stays open.
    parent: Option<OwnedFd>,
    /// Its path; forgotten whenever something is removed, since that may have been
    /// a symlink on the path.
    parent_path: Option<Components>,
}

impl Tree {
    /// Creates the root, which must not exist.
    pub fn create(path: &Path) -> io::Result<Tree> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?;
        let root = rustix::fs::openat(CWD, path, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
        Ok(Tree { root, within: WITHIN, parent: None, parent_path: None })
    }

    /// What is there already.
    pub fn over(root: OwnedFd) -> Tree {
        Tree { root, within: WITHIN_MOUNTS, parent: None, parent_path: None }
    }

    /// Whether something is mounted on `name` in the parent, in whatever mount namespace.
    pub fn is_mounted(&self, name: &OsStr) -> io::Result<bool> {
        let mount = |name: &OsStr| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
            rustix::fs::statx(self.parent(), name, flags, StatxFlags::MNT_ID)
        };
        Ok(mount(name)?.stx_mnt_id != mount(OsStr::new(""))?.stx_mnt_id)
    }

    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory of these components; missing ones are created 0755 and root's.
    /// Returns how many were.
    pub fn open_parent(&mut self, parent: &[OsString]) -> Result<u64, ParentError> {
        if self.parent_path.as_deref() == Some(parent) {
            return Ok(0);
        }
        let mut created = 0;
        let fd = match self.open_directory(parent) {
            Err(ParentError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                for depth in 0..parent.len() {
                    let Err(error) = self.open_directory(&parent[..=depth]) else { continue };
                    match error {
                        ParentError::Io(error) if error.kind() == io::ErrorKind::NotFound => {}
                        error => return Err(error),
                    }
                    let above = self.open_directory(&parent[..depth])?;
                    rustix::fs::mkdirat(&above, &parent[depth], Mode::from_raw_mode(0o755))?;
                    // Whatever this process' umask is.
                    let made = self.open_directory(&parent[..=depth])?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    created += 1;
                }
                self.open_directory(parent)?
            }
            other => other?,
        };
        self.parent = Some(fd);
        self.parent_path = Some(parent.to_vec());
        Ok(created)
    }

    /// The directory of the last [`Tree::open_parent`].
    pub fn parent(&self) -> &OwnedFd {
        self.parent.as_ref().unwrap_or(&self.root)
    }

    /// An existing directory; follows symlinks that stay inside.
    pub fn open_directory(&self, components: &[OsString]) -> Result<OwnedFd, ParentError> {
        // O_NOFOLLOW would refuse a last component that is a harmless symlink.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = joined(components);
        rustix::fs::openat2(&self.root, path.as_os_str(), flags, Mode::empty(), self.within)
            .map_err(|errno| match errno {
                Errno::XDEV | Errno::LOOP => match self.leading_symlink(components) {
                    Some(target) => ParentError::Outside(target),
                    None => errno.into(),
                },
                errno => errno.into(),
            })
    }

    /// The target of the first symlink on the path that cannot be followed inside.
    fn leading_symlink(&self, components: &[OsString]) -> Option<String> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for depth in 0..components.len() {
            let path = joined(&components[..=depth]);
            let inside = rustix::fs::openat2(
                &self.root,
                path.as_os_str(),
                flags,
                Mode::empty(),
                self.within,
            );
            if inside.is_err() {
                let link = flags | OFlags::NOFOLLOW;
                let link = rustix::fs::openat2(
                    &self.root,
                    path.as_os_str(),
                    link,
                    Mode::empty(),
                    self.within,
                );
                let target = rustix::fs::readlinkat(link.ok()?, "", Vec::new()).ok()?;
                return Some(target.to_string_lossy().into_owned());
            }
        }
        None
    }

    /// What is at `name` in the parent; symlinks are not followed.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes whatever is at `name` in the parent; returns the bytes of files that
    /// are gone with it.
    pub fn remove(&mut self, name: &OsStr) -> io::Result<u64> {
        let mut freed = 0;
        remove_at(self.parent(), name, &mut freed)?;
        self.parent_path = None;
        Ok(freed)
    }

    pub fn make_directory(&self, name: &OsStr) -> io::Result<OwnedFd> {
        rustix::fs::mkdirat(self.parent(), name, Mode::from_raw_mode(0o700))?;
        self.open_made(name)
    }

    /// A directory that is known to be at `name`.
    pub fn open_made(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | DIRECTORY;
        Ok(rustix::fs::openat(self.parent(), name, flags, Mode::empty())?)
    }

    pub fn make_file(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.parent(), name, flags, Mode::from_raw_mode(0o600))?)
    }

    pub fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, self.parent(), name)?)
    }

    pub fn make_fifo(&self, name: &OsStr) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o600);
        Ok(rustix::fs::mknodat(self.parent(), name, FileType::Fifo, mode, 0)?)
    }

    /// overlayfs' mark that a lower layer's `name` is gone.
    pub fn make_whiteout(&self, name: &OsStr) -> io::Result<()> {
        let device = rustix::fs::makedev(0, 0);
        let mode = Mode::empty();
        Ok(rustix::fs::mknodat(self.parent(), name, FileType::CharacterDevice, mode, device)?)
    }

    /// Links `name` in the parent to what is at `target`, a symlink itself included.
    pub fn make_hard_link(&self, target: &[OsString], name: &OsStr) -> Result<(), ParentError> {
        let Some((last, directory)) = target.split_last() else {
            return Err(Errno::PERM.into());
        };
        let directory = self.open_directory(directory)?;
        rustix::fs::linkat(&directory, last, self.parent(), name, AtFlags::empty())?;
        Ok(())
    }

    /// What is at `target`, for the check before something makes room for a link to it.
    pub fn stat_within(&self, target: &[OsString]) -> Result<Stat, ParentError> {
        let Some((last, directory)) = target.split_last() else {
            return Ok(rustix::fs::fstat(&self.root)?);
        };
        let directory = self.open_directory(directory)?;
        Ok(rustix::fs::statat(&directory, last, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Owner, mode and time of something that is neither opened nor followed.
    pub fn set_metadata_at(
        &self,
        name: &OsStr,
        metadata: &Metadata,
        is_link: bool,
    ) -> io::Result<()> {
        let parent = self.parent();
        let owner = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        rustix::fs::chownat(parent, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_link {
            rustix::fs::chmodat(
                parent,
                name,
                Mode::from_raw_mode(metadata.mode),
                AtFlags::empty(),
            )?;
        }
        let times = timestamps(metadata.mtime);
        Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Owner, then mode, since chown clears set-id bits; attributes last, since
/// writing and chown clear capabilities. The time is apart: see [`set_mtime`].
pub(crate) fn set_metadata(fd: impl AsFd, metadata: &Metadata) -> io::Result<()> {
    let owner = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    rustix::fs::fchown(&fd, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in &metadata.xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::fsetxattr(&fd, name.as_os_str(), value, flags) {
            // tmpfs has these only since Linux 6.6; no program needs them to run.
            Err(Errno::OPNOTSUPP) if name.as_bytes().starts_with(b"user.") => {
                tracing::debug!(attribute = ?name, "dropped: this file system has none such");
            }
            other => other?,
        }
    }
    Ok(())
}

/// A directory's time is set after everything in it is there.
pub(crate) fn set_mtime(fd: impl AsFd, mtime: (i64, u32)) -> io::Result<()> {
    Ok(rustix::fs::futimens(fd, &timestamps(mtime))?)
}

/// Hides everything that lower layers have in this directory.
pub(crate) fn set_opaque(directory: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", flags)?)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn joined(components: &[OsString]) -> OsString {
    if components.is_empty() { ".".into() } else { components.join(OsStr::new("/")) }
}

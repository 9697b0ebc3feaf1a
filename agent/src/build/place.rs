//! Files are put into the root of a stage, and never beside it.
//!
//! Owns the writing: paths of the image are resolved by `openat2` with `RESOLVE_IN_ROOT`,
//! so that a symlink in the image leads where it leads in the container; whatever is at the
//! last name is replaced and not followed. Decides nothing about what is copied.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tenantry_build::copy::{Destination, Source};

use super::error::StepError;
use super::tree::{self, DEEPEST, Tree, kind, names, open_at, resolve, shown, stat_at};

/// What copied files become.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes {
    /// `None`: as it is in the source.
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Placer<'r> {
    root: &'r OwnedFd,
    attributes: Attributes,
}

impl<'r> Placer<'r> {
    pub fn new(root: &'r OwnedFd, attributes: Attributes) -> Self {
        Self { root, attributes }
    }

    /// One source of a `COPY`: a directory's content, or a file.
    pub fn copy(
        &self,
        tree: &Tree,
        source: &Source,
        destination: &Destination,
    ) -> Result<(), StepError> {
        let failed = || StepError::file("copy", source.path.clone());
        if source.is_directory {
            let from = tree.directory(&source.path).map_err(failed())?;
            let to = self.directory(&destination.path)?;
            return self.contents(&from, &to, 0).map_err(failed());
        }
        let last = source.path.rsplit('/').next().unwrap_or_default();
        let (directory, name) = self.target(destination, last)?;
        let (file, stat) = tree.file(&source.path).map_err(failed())?;
        self.file(file, &stat, &directory, &name).map_err(failed())
    }

    /// A text of the Dockerfile's own.
    pub fn write(
        &self,
        name: &str,
        content: &str,
        destination: &Destination,
    ) -> Result<(), StepError> {
        let (directory, name) = self.target(destination, name)?;
        let written = self.create(&directory, &name).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            let (uid, gid) = self.attributes.owner.unwrap_or((0, 0));
            own(&file, uid, gid, self.attributes.mode.unwrap_or(0o644))
        });
        written.map_err(StepError::file("write", destination.path.as_str()))
    }

    /// A directory by its absolute path; what is missing of it is made.
    pub fn directory(&self, path: &str) -> Result<OwnedFd, StepError> {
        self.make_directory(path).map_err(StepError::file("make directory", path))
    }

    fn make_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let open = |part: &str| {
            let part = if part.is_empty() { "." } else { part };
            resolve(self.root, part, OFlags::RDONLY | OFlags::DIRECTORY)
        };
        let path = path.trim_start_matches('/');
        match open(path) {
            Ok(found) => return Ok(found),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let mut above = open("")?;
        let mut begin = 0;
        for end in ends {
            above = match open(&path[..end]) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    let name = &path[begin..end];
                    refuse_whiteout(name.as_bytes())?;
                    rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
                    let made = open_at(&above, &CString::new(name)?, OFlags::DIRECTORY)?;
                    let (uid, gid) = self.attributes.owner.unwrap_or((0, 0));
                    // Whatever this process' umask is.
                    own(&made, uid, gid, 0o755)?;
                    made
                }
                Err(errno) => return Err(errno.into()),
            };
            begin = end + 1;
        }
        Ok(above)
    }

    /// Where a file goes: into the destination if that is a directory, else to its name.
    fn target(
        &self,
        destination: &Destination,
        name: &str,
    ) -> Result<(OwnedFd, CString), StepError> {
        let path = destination.path.as_str();
        let there = resolve(self.root, path, OFlags::PATH | OFlags::DIRECTORY).is_ok();
        let (directory, name) = match destination.is_directory || there {
            true => (path, name),
            false => path.rsplit_once('/').unwrap_or(("", path)),
        };
        let named = refuse_whiteout(name.as_bytes()).and_then(|()| Ok(CString::new(name)?));
        let name = named.map_err(StepError::file("copy to", path))?;
        Ok((self.directory(directory)?, name))
    }

    fn contents(&self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            let reason = format!("directories are nested more than {DEEPEST} deep");
            return Err(io::Error::other(reason));
        }
        for name in names(from)? {
            let done = self.entry(from, &name, to, depth);
            done.map_err(|e| match e.raw_os_error() {
                Some(_) => io::Error::new(e.kind(), format!("{}: {e}", shown(&name))),
                None => e,
            })?;
        }
        Ok(())
    }

    fn entry(&self, from: &OwnedFd, name: &CStr, to: &OwnedFd, depth: usize) -> io::Result<()> {
        refuse_whiteout(name.to_bytes())?;
        let stat = stat_at(from, name)?;
        let owner = self.attributes.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let owner = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        match kind(&stat) {
            FileType::RegularFile => {
                let file = open_at(from, name, OFlags::empty())?;
                self.file(File::from(file), &stat, to, name)
            }
            FileType::Directory => {
                let inner = open_at(from, name, OFlags::DIRECTORY)?;
                if !is_directory(to, name)? {
                    remove(to, name)?;
                    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o755))?;
                }
                let made = open_at(to, name, OFlags::DIRECTORY)?;
                self.contents(&inner, &made, depth + 1)?;
                self.finish(&inner, &made, &stat)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                remove(to, name)?;
                rustix::fs::symlinkat(&*target, to, name)?;
                let no_follow = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), no_follow)?;
                Ok(rustix::fs::utimensat(to, name, &times(&stat), no_follow)?)
            }
            FileType::Fifo => {
                remove(to, name)?;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, name, FileType::Fifo, mode, 0)?;
                let no_follow = AtFlags::SYMLINK_NOFOLLOW;
                Ok(rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), no_follow)?)
            }
            // It means nothing without the process that made it.
            FileType::Socket => Ok(()),
            _ => Err(io::Error::other(format!("{} is a device node", shown(name)))),
        }
    }

    fn file(&self, mut file: File, stat: &Stat, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let mut copy = self.create(to, name)?;
        io::copy(&mut file, &mut copy)?;
        self.finish(&file, &copy, stat)
    }

    fn create(&self, to: &OwnedFd, name: &CStr) -> io::Result<File> {
        remove(to, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made =
            rustix::fs::openat(to, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
        Ok(File::from(made))
    }

    /// Owner and mode first: a change of owner takes capabilities away.
    fn finish(&self, from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
        let (uid, gid) = self.attributes.owner.unwrap_or((stat.st_uid, stat.st_gid));
        own(&to, uid, gid, self.attributes.mode.unwrap_or(stat.st_mode & 0o7777))?;
        for (name, value) in tree::attributes(from)? {
            match rustix::fs::fsetxattr(&to, &*name, &value, XattrFlags::empty()) {
                // tmpfs has these only since Linux 6.6; no program needs them to run.
                Err(Errno::OPNOTSUPP) if name.as_bytes().starts_with(b"user.") => {}
                set => set?,
            }
        }
        Ok(rustix::fs::futimens(&to, &times(stat))?)
    }
}

fn own(file: impl AsFd, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

/// In a layer, such a name would say that another file is gone.
fn refuse_whiteout(name: &[u8]) -> io::Result<()> {
    match name.starts_with(b".wh.") {
        true => {
            let name = String::from_utf8_lossy(name).into_owned();
            Err(io::Error::other(format!("{name}: in a layer, this name is a whiteout")))
        }
        false => Ok(()),
    }
}

fn is_directory(at: &OwnedFd, name: &CStr) -> io::Result<bool> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(kind(&stat) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whatever is at the name, a directory with all that is in it.
fn remove(at: &OwnedFd, name: &CStr) -> io::Result<()> {
    let stat = match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if kind(&stat) != FileType::Directory {
        return Ok(rustix::fs::unlinkat(at, name, AtFlags::empty())?);
    }
    let inner = open_at(at, name, OFlags::DIRECTORY)?;
    for inner_name in names(&inner)? {
        remove(&inner, &inner_name)?;
    }
    Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests;

//! Paths inside the container, resolved so that no symlink of an image leads out.
//!
//! Called in the child, after `pivot_root` or `setns`, with the container's root as
//! working directory: that is what `openat2` resolves in.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// `openat2` gives EAGAIN when a rename or mount anywhere on the host races with
/// a path that holds `..`; the next attempt is independent of the last.
const ATTEMPTS: usize = 64;

pub fn open(path: &str, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A place to mount on.
pub fn open_target(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::PATH)
}

/// Creates a directory and its parents, or opens what is there.
pub fn create_directory(path: &str) -> Result<OwnedFd> {
    match open_target(path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut prefix = String::from("/");
    let mut parent = open_target(&prefix)?;
    for component in Path::new(path).components() {
        let Component::Normal(name) = component else {
            if component == Component::ParentDir {
                return Err(Errno::INVAL);
            }
            continue;
        };
        let name = name.to_str().ok_or(Errno::INVAL)?;
        prefix.push('/');
        prefix.push_str(name);
        parent = match open_target(&prefix) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755))?;
                open_target(&prefix)?
            }
            other => other?,
        };
    }
    Ok(parent)
}

/// Creates an empty file and its parent directories, or opens what is there.
pub fn create_file(path: &str) -> Result<OwnedFd> {
    match open_target(path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = create_directory(if directory.is_empty() { "/" } else { directory })?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(parent.as_fd(), name, flags, Mode::from_raw_mode(0o644))?;
    open_target(path)
}

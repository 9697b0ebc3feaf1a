//! What an image has in a directory, copied into the new file system that covers it.
//!
//! Called in the child, after `pivot_root`. No link is followed: only names in directories
//! that are open are looked at. What is neither file, directory nor link is left out.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::{Errno, Result};

/// Deeper trees are no directory of an image's that a tmpfs is for.
const MOST_DEPTH: usize = 64;

/// `from` may be an `O_PATH` descriptor; `to` is the new file system's root.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty())?;
    copy_directory(&from, to, MOST_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let copy = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_directory(&below, &copy, depth - 1)?;
                own(&copy, &stat)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                own(&copy, &stat)?;
                let copied = std::io::copy(&mut File::from(source), &mut File::from(copy));
                copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), to, name)?;
                let (uid, gid) = owner(&stat);
                rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

/// The mode after the owner, whose change takes set-id bits away.
fn own(file: &OwnedFd, stat: &Stat) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid))?;
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).expect("a directory")
    }

    #[test]
    fn what_is_there_is_there_again_and_no_link_is_followed() {
        let place = tempfile::tempdir().expect("a directory");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("below")).expect("directories");
        fs::create_dir(&to).expect("a directory");
        fs::write(place.path().join("secret"), "secret").expect("a file");
        fs::write(from.join("below/file"), "text").expect("a file");
        let mode = fs::Permissions::from_mode(0o640);
        fs::set_permissions(from.join("below/file"), mode).expect("a mode");
        symlink("../secret", from.join("link")).expect("a link");
        copy(&open(&from), &open(&to)).expect("a copy");
        assert_eq!(fs::read_to_string(to.join("below/file")).expect("the file"), "text");
        let copied = fs::metadata(to.join("below/file")).expect("the file").permissions();
        assert_eq!(copied.mode() & 0o7777, 0o640);
        let link = fs::read_link(to.join("link")).expect("still a link");
        assert_eq!(link, Path::new("../secret"));
    }

    #[test]
    fn a_tree_without_end_is_no_directory_of_an_image() {
        let place = tempfile::tempdir().expect("a directory");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&to).expect("a directory");
        let deep = (0..MOST_DEPTH + 1).fold(from.clone(), |path, _| path.join("d"));
        fs::create_dir_all(deep).expect("directories");
        assert_eq!(copy(&open(&from), &open(&to)), Err(Errno::LOOP));
    }
}

//! Removal of a tree that a stranger made.
//!
//! A container may nest directories deeper than any path is long. So nothing recurses, no more
//! than [`DEPTH_MAX`] directories are open, and what lies deeper is moved up to the tree's root,
//! where a later pass finds it. No link is followed, and no path is resolved.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

const DEPTH_MAX: usize = 64;

/// Removes a directory and everything in it.
///
/// # Errors
/// The kernel's first refusal, and `DirectoryNotEmpty` where somebody goes on writing; what
/// could be removed is gone then.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = OwnedFd::from(File::open(parent.unwrap_or(Path::new(".")))?);
    remove_at(&parent, name, &mut 0)
}

/// Removes whatever `name` is; adds the bytes of files that are gone with it to `freed`.
pub(crate) fn remove_at(parent: &OwnedFd, name: &OsStr, freed: &mut u64) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_directory(&stat) {
        *freed += bytes_of(&stat);
        return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?);
    }
    let mut emptying = Emptying { root: open(parent, name)?, moved: 0, left: false, freed };
    while emptying.pass()? {}
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

struct Emptying<'a> {
    root: OwnedFd,
    /// Directories that were moved up, in all passes.
    moved: u64,
    /// Whether this pass has left something behind.
    left: bool,
    freed: &'a mut u64,
}

/// A directory that is being read, and its name in the one above.
struct Level {
    entries: Dir,
    name: CString,
}

impl Emptying<'_> {
    /// Whether another pass is needed.
    fn pass(&mut self) -> io::Result<bool> {
        self.left = false;
        let mut gone = 0_u64;
        let mut levels = vec![Level { entries: Dir::read_from(&self.root)?, name: c".".into() }];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { break };
            let Some(entry) = level.entries.read() else {
                let done = levels.pop().map(|level| level.name).unwrap_or_default();
                if let Some(above) = levels.last() {
                    gone += u64::from(self.remove_empty(above.entries.fd()?, &done)?);
                }
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let directory = level.entries.fd()?;
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if !is_directory(&stat) {
                *self.freed += bytes_of(&stat);
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                gone += 1;
            } else if depth < DEPTH_MAX {
                let entries = Dir::new(open(directory, name)?)?;
                levels.push(Level { entries, name: name.to_owned() });
            } else {
                self.move_up(directory, name)?;
                gone += 1;
            }
        }
        if self.left && gone == 0 {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        Ok(self.left)
    }

    /// Some file systems pass over entries of a directory that shrinks while it is read.
    fn remove_empty(&mut self, above: impl AsFd, name: &CStr) -> io::Result<bool> {
        match rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY) => {
                self.left = true;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn move_up(&mut self, from: impl AsFd, name: &CStr) -> io::Result<()> {
        self.left = true;
        loop {
            let place = format!(".deep-{}", self.moved);
            self.moved += 1;
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&from, name, &self.root, place, flags) {
                Err(Errno::EXIST) => {}
                done => return Ok(done?),
            }
        }
    }
}

fn open<P: rustix::path::Arg>(parent: impl AsFd, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Of a regular file's last name.
fn bytes_of(stat: &Stat) -> u64 {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_file && stat.st_nlink == 1 { stat.st_size as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_name_stays() {
        let place = tempfile::tempdir().unwrap();
        let (kept, root) = (place.path().join("kept"), place.path().join("root"));
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "text").unwrap();
        fs::write(root.join("a/file"), "text").unwrap();
        symlink(&kept, root.join("a/b/link")).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        assert!(kept.join("file").exists());
        assert_eq!(remove_tree(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tree_deeper_than_a_path_is_long_goes_with_few_directories_open() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        // Where the first ones would be moved to.
        fs::create_dir(root.join(".deep-0")).unwrap();
        let mut inner = OwnedFd::from(File::open(&root).unwrap());
        for _ in 0..2500 {
            rustix::fs::mkdirat(&inner, "d", Mode::from_raw_mode(0o700)).unwrap();
            inner = open(&inner, "d").unwrap();
        }
        // A thread of little stack, as the ones that would have to recurse.
        let gone = root.clone();
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        thread.spawn(move || remove_tree(&gone)).unwrap().join().unwrap().unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

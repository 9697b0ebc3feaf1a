//! Removing cgroup directories, whose files vanish with them.
//!
//! Owns the walk over nested groups and the patience with processes that are on their
//! way out. Never kills, never removes a file.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, rmdir, statat};
use rustix::io::Errno;

use crate::error::Error;
use crate::file::read_list;
use crate::parse;

const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Removes `dir` and the groups nested in it. `EBUSY` is both "has nested groups" and
/// "has processes": the first is worked on, the second is waited for until `deadline`.
pub(crate) fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        match rmdir(dir) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(Error::io("remove", dir, errno)),
        }
        let children = match child_dirs(dir) {
            Ok(children) => children,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::io("list", dir, errno)),
        };
        for child in &children {
            remove_tree(child, deadline)?;
        }
        if children.is_empty() {
            if Instant::now() >= deadline {
                return Err(busy(dir));
            }
            sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Removes `dir` alone, if it is there and nothing is in it.
pub(crate) fn remove_empty(dir: &Path) -> Result<(), Error> {
    match rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Err(busy(dir)),
        Err(errno) => Err(Error::io("remove", dir, errno)),
    }
}

fn busy(dir: &Path) -> Error {
    let pids = read_list(&dir.join("cgroup.procs")).map(|text| parse::pids(&text));
    Error::Busy { path: dir.to_owned(), pids: pids.unwrap_or_default() }
}

/// Nested groups: the directories in `dir`.
pub(crate) fn child_dirs(dir: &Path) -> Result<Vec<PathBuf>, Errno> {
    let fd = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut children = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        if kind == FileType::Directory {
            children.push(dir.join(name.to_str().map_err(|_| Errno::ILSEQ)?));
        }
    }
    Ok(children)
}

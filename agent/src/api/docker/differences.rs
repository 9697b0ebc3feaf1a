//! `GET /containers/{id}/changes`: what a container wrote over its image, path by path.
//!
//! Owns the walk over the writing layer beside the image's layers, as overlayfs merges them.
//! Nothing is opened but directories, each from its parent's descriptor, and no link is
//! followed: a container that runs may change what is looked at, at any moment.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde_json::{Value, json};
use tenantry_container::ContainerConfig;

use super::super::Shared;
use crate::api::error::{ApiError, ApiResult};

/// A longer list is refused rather than cut, and so is one whose paths are longer.
const MOST: usize = 100_000;
const MOST_BYTES: usize = 16 << 20;
/// As deep as a layer may be.
const MOST_DEPTH: usize = 256;
/// What a start puts there itself, or only as a place to mount on.
const OURS: [&str; 7] =
    ["/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys"];

/// Docker's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

pub async fn changes(
    State(app): State<Shared>,
    UrlPath(id): UrlPath<String>,
) -> ApiResult<Json<Value>> {
    let container = app.engine.get(&id)?;
    let layers = container.record.layers.clone();
    let hidden = hidden(&container.record.config);
    let walked = app.engine.look(&container.record.id, false, move |upper, _| {
        let mut walk = Walk { hidden, found: Vec::new(), bytes: 0 };
        walk.directory(&open(CWD, upper)?, &layers, "", 0).map(|_| walk.found)
    });
    let found = walked.await?.map_err(ApiError::internal)?;
    let view = |(path, kind): &(String, Kind)| json!({ "Path": path, "Kind": *kind as u8 });
    Ok(Json(found.iter().map(view).collect::<Vec<_>>().into()))
}

fn hidden(config: &ContainerConfig) -> BTreeSet<String> {
    let binds = config.binds.iter().map(|bind| &bind.target);
    let volumes = config.volumes.iter().map(|volume| &volume.target);
    let tmpfs = config.tmpfs.iter().map(|tmpfs| &tmpfs.target);
    let own = binds.chain(volumes).chain(tmpfs).map(|path| path.trim_end_matches('/').to_owned());
    own.chain(OURS.map(str::to_owned)).collect()
}

struct Walk {
    hidden: BTreeSet<String>,
    found: Vec<(String, Kind)>,
    /// Of the paths that were found.
    bytes: usize,
}

impl Walk {
    /// Whether anything below was found. `lowers` are the directories that the image has at the
    /// same path, the topmost first.
    fn directory(
        &mut self,
        upper: &OwnedFd,
        lowers: &[PathBuf],
        path: &str,
        depth: usize,
    ) -> io::Result<bool> {
        if depth > MOST_DEPTH {
            return Err(io::Error::other(format!("directories deeper than {MOST_DEPTH}")));
        }
        let before = self.found.len();
        for name in names(upper)? {
            let shown = String::from_utf8_lossy(name.to_bytes());
            let path = format!("{path}/{shown}");
            if self.hidden.contains(&path) {
                continue;
            }
            let stat = match rustix::fs::statat(upper, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // It is running, and files come and go.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let below = Below::of(lowers, OsStr::from_bytes(name.to_bytes()));
            let kind = if below.stat.is_some() { Kind::Modified } else { Kind::Added };
            if is_whiteout(&stat) {
                // One over nothing: it was made and taken away by the container itself.
                if below.stat.is_some() {
                    self.push(path, Kind::Deleted)?;
                }
            } else if !is_directory(&stat) {
                self.push(path, kind)?;
            } else if let Some(inner) = unless_gone(open(upper, &name))? {
                self.push(path.clone(), kind)?;
                self.inside(&inner, &stat, below, &path, depth)?;
            }
        }
        Ok(self.found.len() > before)
    }

    /// A directory stands before what is in it, and may turn out to be untouched itself.
    fn inside(
        &mut self,
        inner: &OwnedFd,
        stat: &Stat,
        below: Below,
        path: &str,
        depth: usize,
    ) -> io::Result<()> {
        let place = self.found.len() - 1;
        let lowers = if is_opaque(inner) { Vec::new() } else { below.directories };
        let touched = self.directory(inner, &lowers, path, depth + 1)?;
        let same = below.stat.as_ref().is_some_and(|lower| has_same_owner_and_mode(lower, stat));
        if same && !touched {
            self.found.remove(place);
        }
        Ok(())
    }

    fn push(&mut self, path: String, kind: Kind) -> io::Result<()> {
        self.bytes += path.len();
        if self.found.len() >= MOST || self.bytes > MOST_BYTES {
            let most = format!("more than {MOST} changes or {MOST_BYTES} bytes of paths");
            return Err(io::Error::other(most));
        }
        self.found.push((path, kind));
        Ok(())
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
        if names.len() > MOST {
            return Err(io::Error::other(format!("more than {MOST} names in a directory")));
        }
    }
    names.sort();
    Ok(names)
}

fn open<P: rustix::path::Arg>(parent: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// `None`: it went, or became something else, since it was looked at.
fn unless_gone(opened: Result<OwnedFd, Errno>) -> io::Result<Option<OwnedFd>> {
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What the image has under one name.
#[derive(Default)]
struct Below {
    /// Of what is seen of it; `None`: nothing.
    stat: Option<Stat>,
    /// If it is a directory, of all layers that make it up.
    directories: Vec<PathBuf>,
}

impl Below {
    fn of(lowers: &[PathBuf], name: &OsStr) -> Below {
        let mut below = Below::default();
        for lower in lowers {
            let path = lower.join(name);
            let Ok(stat) = rustix::fs::lstat(&path) else { continue };
            if is_whiteout(&stat) || below.stat.is_some() && !is_directory(&stat) {
                // Nothing of the layers further down is seen.
                break;
            }
            below.stat.get_or_insert(stat);
            if !is_directory(&stat) {
                break;
            }
            let opaque = open(CWD, &path).is_ok_and(|directory| is_opaque(&directory));
            below.directories.push(path);
            if opaque {
                break;
            }
        }
        below
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 2];
    let read = rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value[..]);
    matches!(read, Ok(1)) && value[0] == b'y'
}

fn has_same_owner_and_mode(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
    of(one) == of(other)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn file(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn walk(upper: &Path, layers: &[PathBuf]) -> Vec<(String, Kind)> {
        let hidden = hidden(&ContainerConfig::default());
        let mut walk = Walk { hidden, found: Vec::new(), bytes: 0 };
        walk.directory(&open(CWD, upper).unwrap(), layers, "", 0).unwrap();
        walk.found
    }

    #[test]
    fn what_is_new_and_what_is_other_than_before_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, top, bottom] = ["upper", "top", "bottom"].map(|name| dir.path().join(name));
        for path in [&upper, &top, &bottom] {
            fs::create_dir(path).unwrap();
        }
        file(&top, "etc/passwd");
        file(&bottom, "etc/group");
        file(&bottom, "srv/a");
        file(&upper, "etc/group");
        file(&upper, "etc/hosts");
        file(&upper, "new/b");
        // Touched by nobody: a start made the way to a mount.
        fs::create_dir(upper.join("srv")).unwrap();
        let found = walk(&upper, &[top, bottom]);
        let expected = [
            ("/etc", Kind::Modified),
            ("/etc/group", Kind::Modified),
            ("/new", Kind::Added),
            ("/new/b", Kind::Added),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }

    #[test]
    fn a_file_hides_the_directories_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let [top, bottom] = ["top", "bottom"].map(|name| dir.path().join(name));
        file(&top, "a");
        file(&bottom, "a/b");
        let below = Below::of(&[top, bottom], "a".as_ref());
        assert!(below.stat.is_some_and(|stat| !is_directory(&stat)));
        assert!(below.directories.is_empty());
    }

    #[test]
    fn a_link_in_a_directorys_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), "secret/key");
        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        symlink(dir.path().join("secret"), upper.join("link")).unwrap();
        assert_eq!(walk(&upper, &[]), [("/link".to_owned(), Kind::Added)]);
        let opened = open(open(CWD, &upper).unwrap(), "link");
        assert!(unless_gone(opened).unwrap().is_none());
    }

    #[test]
    fn a_tree_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let deep = (0..=MOST_DEPTH).fold(dir.path().to_owned(), |path, _| path.join("d"));
        fs::create_dir_all(deep).unwrap();
        let mut walk = Walk { hidden: BTreeSet::new(), found: Vec::new(), bytes: 0 };
        let error = walk.directory(&open(CWD, dir.path()).unwrap(), &[], "", 0).unwrap_err();
        assert!(error.to_string().contains("256"), "{error}");
    }
}

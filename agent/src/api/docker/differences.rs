//! `GET /containers/{id}/changes`: what a container wrote over its image, path by path.
//!
//! Owns the walk over the writing layer beside the image's layers, as overlayfs merges them.
//! Nothing is opened but directories, and no link is followed.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{Path as UrlPath, State};
use serde_json::{Value, json};
use tenantry_container::ContainerConfig;

use super::super::Shared;
use crate::api::error::{ApiError, ApiResult};

/// A longer list is refused rather than cut.
const MOST: usize = 100_000;
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
        let mut walk = Walk { hidden, found: Vec::new() };
        walk.directory(upper, &layers, "").map(|_| walk.found)
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
}

impl Walk {
    /// Whether anything below was found. `lowers` are the directories that the image has at the
    /// same path, the topmost first.
    fn directory(&mut self, upper: &Path, lowers: &[PathBuf], path: &str) -> io::Result<bool> {
        let mut names: Vec<std::ffi::OsString> = Vec::new();
        for entry in fs::read_dir(upper)? {
            names.push(entry?.file_name());
        }
        names.sort();
        let before = self.found.len();
        for name in names {
            let path = format!("{path}/{}", name.to_string_lossy());
            if self.hidden.contains(&path) {
                continue;
            }
            let upper = upper.join(&name);
            let stat = match fs::symlink_metadata(&upper) {
                // It is running, and files come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let below = Below::of(lowers, &name);
            self.entry(&upper, &stat, &below, path)?;
        }
        Ok(self.found.len() > before)
    }

    fn entry(
        &mut self,
        upper: &Path,
        stat: &Metadata,
        below: &Below,
        path: String,
    ) -> io::Result<()> {
        if is_whiteout(stat) {
            // One over nothing: it was made and taken away by the container itself.
            return if below.stat.is_some() { self.push(path, Kind::Deleted) } else { Ok(()) };
        }
        if !stat.is_dir() {
            let kind = if below.stat.is_some() { Kind::Modified } else { Kind::Added };
            return self.push(path, kind);
        }
        // A directory stands before what is in it, and may turn out to be untouched itself.
        let place = self.found.len();
        let kind = if below.stat.is_some() { Kind::Modified } else { Kind::Added };
        self.push(path.clone(), kind)?;
        let nothing = Vec::new();
        let lowers = if is_opaque(upper) { &nothing } else { &below.directories };
        let touched = self.directory(upper, lowers, &path)?;
        let same = below.stat.as_ref().is_some_and(|lower| has_same_owner_and_mode(lower, stat));
        if same && !touched {
            self.found.remove(place);
        }
        Ok(())
    }

    fn push(&mut self, path: String, kind: Kind) -> io::Result<()> {
        if self.found.len() >= MOST {
            return Err(io::Error::other(format!("more than {MOST} changes")));
        }
        self.found.push((path, kind));
        Ok(())
    }
}

/// What the image has under one name.
#[derive(Default)]
struct Below {
    /// Of what is seen of it; `None`: nothing.
    stat: Option<Metadata>,
    /// If it is a directory, of all layers that make it up.
    directories: Vec<PathBuf>,
}

impl Below {
    fn of(lowers: &[PathBuf], name: &std::ffi::OsStr) -> Below {
        let mut below = Below::default();
        for lower in lowers {
            let path = lower.join(name);
            let Ok(stat) = fs::symlink_metadata(&path) else { continue };
            if is_whiteout(&stat) || below.stat.is_some() && !stat.is_dir() {
                // Nothing of the layers further down is seen.
                break;
            }
            let is_directory = stat.is_dir();
            below.stat.get_or_insert(stat);
            if !is_directory {
                break;
            }
            let opaque = is_opaque(&path);
            below.directories.push(path);
            if opaque {
                break;
            }
        }
        below
    }
}

fn is_whiteout(stat: &Metadata) -> bool {
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0_u8; 2];
    let read = rustix::fs::lgetxattr(directory, "trusted.overlay.opaque", &mut value[..]);
    matches!(read, Ok(1)) && value[0] == b'y'
}

fn has_same_owner_and_mode(one: &Metadata, other: &Metadata) -> bool {
    let of = |stat: &Metadata| (stat.mode(), stat.uid(), stat.gid());
    of(one) == of(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn walk(upper: &Path, layers: &[PathBuf]) -> Vec<(String, Kind)> {
        let hidden = hidden(&ContainerConfig::default());
        let mut walk = Walk { hidden, found: Vec::new() };
        walk.directory(upper, layers, "").unwrap();
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
        assert!(below.stat.is_some_and(|stat| stat.is_file()));
        assert!(below.directories.is_empty());
    }
}

//! A tree that files are copied from: a context, or the root of a stage.
//!
//! Owns the look at it: every path is resolved by `openat2` with `RESOLVE_IN_ROOT`, so that
//! no symlink in it leads out, and what lies in a directory is never followed. Also its
//! digest, which is what the cache compares: mode, kind, content, link target and the
//! attributes that are copied; not times, as with Docker.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tenantry_build::copy::{Files, Source};

use super::error::StepError;

/// Directories may be nested this deep.
pub(super) const DEEPEST: usize = 512;

const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Tree { root: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    pub fn of(root: &OwnedFd) -> io::Result<Tree> {
        Ok(Tree { root: root.try_clone()? })
    }

    /// What a path leads to, symlinks followed inside. `None` if that is nothing.
    pub fn find(&self, path: &str) -> io::Result<Option<(OwnedFd, Stat)>> {
        let path = if path.is_empty() { "." } else { path };
        match resolve(&self.root, path, OFlags::PATH) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                Ok(Some((found, stat)))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A directory, to be listed.
    pub fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        Ok(resolve(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// A regular file; anything else is an error.
    pub fn file(&self, path: &str) -> io::Result<(File, Stat)> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        // First without opening it: opening a device or a pipe has effects.
        let (_, stat) = self.find(path)?.ok_or_else(missing)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        let opened = resolve(&self.root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        Ok((File::from(opened), stat))
    }

    /// Of all that a source has. Hex digits.
    pub fn digest(&self, source: &Source) -> Result<String, StepError> {
        let mut hasher = Sha256::new();
        let failed = StepError::file("read", source.path.as_str());
        let hashed = if source.is_directory {
            self.directory(&source.path).and_then(|dir| hash_directory(&mut hasher, &dir, 0))
        } else {
            self.file(&source.path).and_then(|(file, stat)| hash_file(&mut hasher, file, &stat))
        };
        hashed.map_err(failed)?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Files for Tree {
    fn is_directory(&self, path: &str) -> io::Result<Option<bool>> {
        Ok(self.find(path)?.map(|(_, stat)| kind(&stat) == FileType::Directory))
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let names = names(&self.directory(path)?)?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }
}

pub(super) fn resolve(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), IN_ROOT)
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Sorted, without `.` and `..`.
pub(super) fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn stat_at(directory: &OwnedFd, name: &CStr) -> io::Result<Stat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A file or directory that is known to be there; a symlink in its place is refused.
pub(super) fn open_at(directory: &OwnedFd, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Attributes that go with a file: programs' own, and capabilities.
pub(super) fn attributes(file: impl AsFd) -> io::Result<Vec<(CString, Vec<u8>)>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&file, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        let copied = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        if !copied && name != b"security.capability" {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(&file, &*name, &mut value[..])?;
        value.truncate(length);
        found.push((name, value));
    }
    found.sort();
    Ok(found)
}

fn hash_part(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_le_bytes());
    hasher.update(part);
}

fn hash_attributes(hasher: &mut Sha256, file: impl AsFd) -> io::Result<()> {
    for (name, value) in attributes(file)? {
        hash_part(hasher, name.as_bytes());
        hash_part(hasher, &value);
    }
    Ok(())
}

fn hash_file(hasher: &mut Sha256, mut file: File, stat: &Stat) -> io::Result<()> {
    hash_part(hasher, format!("file {:o} {}", stat.st_mode & 0o7777, stat.st_size).as_bytes());
    hash_attributes(hasher, &file)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

fn hash_directory(hasher: &mut Sha256, directory: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("directories are nested more than {DEEPEST} deep")));
    }
    for name in names(directory)? {
        let stat = stat_at(directory, &name)?;
        hash_part(hasher, name.as_bytes());
        match kind(&stat) {
            FileType::RegularFile => {
                let file = open_at(directory, &name, OFlags::empty())?;
                hash_file(hasher, File::from(file), &stat)?;
            }
            FileType::Directory => {
                hash_part(hasher, format!("directory {:o}", stat.st_mode & 0o7777).as_bytes());
                let inner = open_at(directory, &name, OFlags::DIRECTORY)?;
                hash_attributes(hasher, &inner)?;
                hash_directory(hasher, &inner, depth + 1)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, &*name, Vec::new())?;
                hash_part(hasher, b"symlink");
                hash_part(hasher, target.as_bytes());
            }
            other => hash_part(hasher, format!("{other:?} {:o}", stat.st_mode & 0o7777).as_bytes()),
        }
    }
    // So that no directory's end can be taken for a name.
    hash_part(hasher, b"/end");
    Ok(())
}

pub(super) fn shown(name: &CStr) -> String {
    OsStr::from_bytes(name.to_bytes()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn digest(dir: &Path) -> String {
        let source = Source { path: String::new(), is_directory: true };
        Tree::open(dir).unwrap().digest(&source).unwrap()
    }

    #[test]
    fn the_digest_sees_content_mode_and_names_and_no_times() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "1").unwrap();
        let mut seen = vec![digest(dir.path())];
        let mut changed = |what: &str| {
            let now = digest(dir.path());
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(at("a"), "2").unwrap();
        changed("content");
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o600)).unwrap();
        changed("mode");
        fs::rename(at("a"), at("b")).unwrap();
        changed("name");
        fs::create_dir(at("d")).unwrap();
        changed("directory");
        symlink("b", at("s")).unwrap();
        changed("symlink");
        fs::rename(at("b"), at("d/b")).unwrap();
        changed("place");
        let before = digest(dir.path());
        let old = fs::File::open(at("d/b")).unwrap();
        old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(digest(dir.path()), before);
    }

    #[test]
    fn no_symlink_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("inside", root.join("fine")).unwrap();
        fs::write(root.join("inside"), "x").unwrap();
        let tree = Tree::open(&root).unwrap();
        assert_eq!(tree.is_directory("up").unwrap(), None);
        assert_eq!(tree.is_directory("absolute").unwrap(), None);
        assert_eq!(tree.is_directory("../secret").unwrap(), None);
        assert_eq!(tree.is_directory("fine").unwrap(), Some(false));
        assert_eq!(tree.is_directory("").unwrap(), Some(true));
    }
}

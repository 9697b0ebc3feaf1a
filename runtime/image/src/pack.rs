//! An overlayfs upper directory becomes a layer's tar stream, the way back from
//! [`crate::unpack`].
//!
//! Owns what each file turns into: whiteout devices become `.wh.NAME`, opaque
//! directories get `.wh..wh..opq`, further names of a file become hard links. Names
//! are sorted and times are whole seconds, as Docker writes them, so that the same
//! tree is the same stream. Reads through directory descriptors alone and follows no
//! symlink, so that a container which still runs cannot lead it elsewhere. Called by
//! [`crate::commit`], and for trees that are no layers by who copies out of a container
//! ([`pack_tree`]).
//!
//! What no image can hold: sockets are left out, and device nodes below `dev`, over
//! which the runtime mounts its own. Device nodes elsewhere are refused, as they are
//! when a layer is unpacked.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;

use crate::Digest;
use crate::archive::write::{self, padding};
use crate::archive::{Entry, Kind, shown};
use crate::digest::Hashing;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::owners::OwnerMapping;
use crate::policy::AttributePolicy;

const NOBODY: u32 = 65_534;
const BUFFER_BYTES: usize = 256 * 1024;
const NO_FOLLOW: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Over the whole uncompressed stream.
    pub diff_id: Digest,
    /// Without the root's own: 0 says that nothing was changed.
    pub entries: u64,
}

/// Writes `upper` to `out` as a tar stream. `what` names the layer in errors.
pub(crate) fn pack(
    what: &str,
    upper: &Path,
    owners: Option<OwnerMapping>,
    limits: &Limits,
    out: impl Write,
) -> Result<Packed> {
    let flags = NO_FOLLOW | OFlags::DIRECTORY;
    let root = rustix::fs::openat(CWD, upper, flags, Mode::empty());
    let root = root.map_err(Error::io("open directory", upper))?;
    let mut packer = Packer {
        what,
        limits,
        owners,
        out: Hashing::new(out),
        entries: 0,
        bytes: 0,
        links: HashMap::new(),
        buffer: vec![0; BUFFER_BYTES],
        tree: None,
    };
    packer.root(&root)?;
    packer.directory(&root, b"", 1)?;
    packer.write(&write::END)?;
    let (_, diff_id, _) = packer.out.finish();
    Ok(Packed { diff_id, entries: packer.entries })
}

/// What of a tree that is no layer is packed.
#[derive(Debug)]
pub struct Packing<'a> {
    /// Names the archive in errors.
    pub what: &'a str,
    pub limits: &'a Limits,
    /// The tree's owners as the archive is to have them.
    pub owners: Option<OwnerMapping>,
    /// Mounts below are left empty; else only those of the kernel's own file systems are.
    pub one_mount: bool,
}

/// Writes a tar stream of `name` in `directory`, or of the directory itself if there is no name,
/// under the name `top`; `.` packs what is in it. Names that begin with `.wh.` are names, sockets
/// and device nodes are left out.
///
/// # Errors
/// [`Error::Pack`] names the path; [`Error::Limit`] a bound that was reached.
pub fn pack_tree(
    packing: &Packing<'_>,
    directory: &OwnedFd,
    name: Option<&OsStr>,
    top: &OsStr,
    out: impl Write,
) -> Result<()> {
    let failed = |errno: Errno| Error::Pack {
        layer: packing.what.to_owned(),
        entry: top.to_string_lossy().into_owned(),
        operation: "open",
        source: errno.into(),
    };
    let mut packer = Packer {
        what: packing.what,
        limits: packing.limits,
        owners: packing.owners,
        out: Hashing::new(out),
        entries: 0,
        bytes: 0,
        links: HashMap::new(),
        buffer: vec![0; BUFFER_BYTES],
        tree: Some(Scope { one_mount: packing.one_mount, mount: mount_of(directory, c"")? }),
    };
    // The root's name is what all paths begin with.
    let path = if top == "/" { Vec::new() } else { top.as_bytes().to_vec() };
    match name {
        None => {
            let flags = NO_FOLLOW | OFlags::DIRECTORY;
            let root = rustix::fs::openat(directory, ".", flags, Mode::empty()).map_err(failed)?;
            if path == b"." {
                let stat = rustix::fs::fstat(&root).map_err(failed)?;
                let xattrs = packer.xattrs(&root, b"./")?;
                let entry = packer.entry(b"./".to_vec(), Kind::Directory, &stat, xattrs)?;
                packer.put(&entry)?;
                packer.directory(&root, b"", 1)?;
            } else {
                packer.take_directory(&root, path, 1)?;
            }
        }
        Some(name) => {
            let name = CString::new(name.as_bytes()).map_err(|_| failed(Errno::INVAL))?;
            let stat = rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW);
            packer.take(directory, &name, path, &stat.map_err(failed)?, 1)?;
        }
    }
    packer.write(&write::END)?;
    packer.out.finish();
    Ok(())
}

/// Of a tree that is no layer.
#[derive(Clone, Copy, Debug)]
struct Scope {
    one_mount: bool,
    mount: u64,
}

/// The number of the mount that a name in a directory, or the directory itself, is on.
fn mount_of(directory: &OwnedFd, name: &CStr) -> Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    match rustix::fs::statx(directory, name, flags, StatxFlags::MNT_ID) {
        Ok(stat) => Ok(stat.stx_mnt_id),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => Err(Error::Io {
            operation: "look at",
            path: name.to_string_lossy().into_owned().into(),
            source: errno.into(),
        }),
    }
}

/// File systems that show the kernel's state and hold nothing of anybody's.
fn is_kernels(directory: &OwnedFd) -> bool {
    const PROC: i64 = 0x9fa0;
    const SYSFS: i64 = 0x6265_6572;
    const CGROUP: i64 = 0x27_e0eb;
    const CGROUP2: i64 = 0x6367_7270;
    const DEVPTS: i64 = 0x1cd1;
    const MQUEUE: i64 = 0x1980_0202;
    let system = rustix::fs::fstatfs(directory).map_or(0, |system| system.f_type);
    [PROC, SYSFS, CGROUP, CGROUP2, DEVPTS, MQUEUE].contains(&system)
}

struct Packer<'a, W> {
    what: &'a str,
    limits: &'a Limits,
    owners: Option<OwnerMapping>,
    out: Hashing<W>,
    entries: u64,
    /// Content so far.
    bytes: u64,
    /// The path that came first of each inode with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    /// `None`: a layer.
    tree: Option<Scope>,
}

impl<W: Write> Packer<'_, W> {
    /// A layer without an entry for its root has a plain one: only another needs saying.
    fn root(&mut self, root: &OwnedFd) -> Result<()> {
        let stat = rustix::fs::fstat(root).map_err(self.failed(b"./", "look at"))?;
        let entry =
            self.entry(b"./".to_vec(), Kind::Directory, &stat, self.xattrs(root, b"./")?)?;
        if (entry.mode, entry.uid, entry.gid) != (0o755, 0, 0) || !entry.xattrs.is_empty() {
            self.write(&write::render(&entry))?;
            self.entries += 1;
        }
        Ok(())
    }

    /// What is in a directory whose path, with a slash at its end, is `prefix`.
    fn directory(&mut self, directory: &OwnedFd, prefix: &[u8], depth: u64) -> Result<()> {
        self.bound("depth of a path", depth, self.limits.path_depth)?;
        let names = names(directory).map_err(self.failed(prefix, "list directory"))?;
        for name in names {
            let path = [prefix, name.to_bytes()].concat();
            self.bound("length of a path", path.len() as u64, self.limits.path_bytes)?;
            if self.tree.is_none() && name.to_bytes().starts_with(b".wh.") {
                return Err(self.refused(&path, "a name that begins like a layer's whiteouts"));
            }
            let stat = rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW);
            match stat {
                Ok(stat) => self.take(directory, &name, path, &stat, depth)?,
                // A container that still runs has removed it.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.failed(&path, "look at")(errno)),
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        directory: &OwnedFd,
        name: &CString,
        path: Vec<u8>,
        stat: &Stat,
        depth: u64,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.tree.is_none() && kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            let at = path.len() - name.to_bytes().len();
            return self.mark([&path[..at], b".wh.", &path[at..]].concat());
        }
        if kind == FileType::Directory {
            let inner = self.open(directory, name, &path, OFlags::DIRECTORY)?;
            return self.take_directory(&inner, path, depth);
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).cloned()
        {
            let entry = Entry { link: first, ..self.entry(path, Kind::HardLink, stat, vec![])? };
            return self.put(&entry);
        }
        match kind {
            FileType::RegularFile => {
                if let Some(Scope { one_mount: true, mount }) = self.tree
                    && mount_of(directory, name)? != mount
                {
                    let entry = self.entry(path, Kind::File, stat, vec![])?;
                    return self.put(&entry);
                }
                let file = self.open(directory, name, &path, OFlags::empty())?;
                self.take_file(File::from(file), path)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, &**name, Vec::new());
                let link = target.map_err(self.failed(&path, "read symlink"))?.into_bytes();
                self.remember(stat, &path);
                let entry = self.entry(path, Kind::Symlink, stat, vec![])?;
                self.put(&Entry { link, ..entry })
            }
            FileType::Fifo => {
                self.remember(stat, &path);
                let entry = self.entry(path, Kind::Fifo, stat, vec![])?;
                self.put(&entry)
            }
            FileType::CharacterDevice | FileType::BlockDevice
                if self.tree.is_none() && !path.starts_with(b"dev/") =>
            {
                Err(self.refused(&path, "a device node; an image can have none"))
            }
            _ => Ok(()),
        }
    }

    fn take_directory(&mut self, inner: &OwnedFd, mut path: Vec<u8>, depth: u64) -> Result<()> {
        let stat = rustix::fs::fstat(inner).map_err(self.failed(&path, "look at"))?;
        path.push(b'/');
        let entry = self.entry(path.clone(), Kind::Directory, &stat, self.xattrs(inner, &path)?)?;
        self.put(&entry)?;
        if let Some(scope) = self.tree {
            let elsewhere = scope.one_mount && mount_of(inner, c"")? != scope.mount;
            if elsewhere || is_kernels(inner) {
                return Ok(());
            }
            return self.directory(inner, &path, depth + 1);
        }
        // overlayfs' own marks: what lower layers have here is gone, or is elsewhere.
        let mark = |name: &str| attribute(inner, name.as_bytes());
        match mark("trusted.overlay.redirect") {
            Ok(None) => {}
            Ok(Some(_)) => return Err(self.refused(&path, "a directory that overlayfs redirects")),
            Err(errno) => return Err(self.failed(&path, "read attributes of")(errno)),
        }
        let opaque = mark("trusted.overlay.opaque");
        if opaque.map_err(self.failed(&path, "read attributes of"))?.as_deref() == Some(b"y") {
            self.mark([path.as_slice(), b".wh..wh..opq"].concat())?;
        }
        self.directory(inner, &path, depth + 1)
    }

    fn take_file(&mut self, mut file: File, path: Vec<u8>) -> Result<()> {
        // What was opened counts, should it have been replaced meanwhile.
        let stat = rustix::fs::fstat(&file).map_err(self.failed(&path, "look at"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let metacopy = attribute(&file, b"trusted.overlay.metacopy");
        if self.tree.is_none()
            && metacopy.map_err(self.failed(&path, "read attributes of"))?.is_some()
        {
            return Err(self.refused(&path, "a file whose content overlayfs left below"));
        }
        self.remember(&stat, &path);
        let xattrs = self.xattrs(&file, &path)?;
        let entry = self.entry(path, Kind::File, &stat, xattrs)?;
        let entry = Entry { size: stat.st_size as u64, ..entry };
        self.bytes += entry.size;
        self.bound("bytes of content", self.bytes, self.limits.unpacked_bytes)?;
        self.put(&entry)?;
        let mut left = entry.size;
        while left > 0 {
            let wanted = left.min(BUFFER_BYTES as u64) as usize;
            let read = match file.read(&mut self.buffer[..wanted]) {
                // Cut off by a container that still runs: the header has its size already.
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    wanted
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(&entry.path, "read")(error)),
            };
            let written = self.out.write_all(&self.buffer[..read]);
            written.map_err(Error::io("write", self.what))?;
            left -= read as u64;
        }
        self.write(&[0; 512][..padding(entry.size)])
    }

    fn open(
        &self,
        directory: &OwnedFd,
        name: &CString,
        path: &[u8],
        more: OFlags,
    ) -> Result<OwnedFd> {
        let opened = rustix::fs::openat(directory, &**name, NO_FOLLOW | more, Mode::empty());
        opened.map_err(self.failed(path, "open"))
    }

    fn remember(&mut self, stat: &Stat, path: &[u8]) {
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
    }

    /// An empty file that says something about its name.
    fn mark(&mut self, path: Vec<u8>) -> Result<()> {
        self.put(&Entry {
            path,
            link: Vec::new(),
            kind: Kind::File,
            size: 0,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        })
    }

    fn entry(
        &self,
        path: Vec<u8>,
        kind: Kind,
        stat: &Stat,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Entry> {
        let id = |id: u32| {
            let found = self.owners.map_or(Some(id), |owners| owners.container_id(id));
            // In a tree that is looked at from outside, layers have their own owners still, and
            // what is bound into it the host's.
            let found = found.or_else(|| self.tree.map(|_| if id < NOBODY { id } else { NOBODY }));
            found.ok_or_else(|| self.refused(&path, &format!("owner {id}, not of the container")))
        };
        let (uid, gid) = (id(stat.st_uid)?.into(), id(stat.st_gid)?.into());
        Ok(Entry {
            path,
            link: Vec::new(),
            kind,
            size: 0,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: (stat.st_mtime, 0),
            xattrs,
            sparse: None,
        })
    }

    /// Those that unpacking would set, sorted; the rest is this host's or overlayfs' own.
    fn xattrs(&self, fd: impl AsFd, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let names = attribute_names(&fd).map_err(self.failed(path, "list attributes of"))?;
        let mut found = Vec::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            if AttributePolicy::of(name) != AttributePolicy::Set {
                continue;
            }
            let value = attribute(&fd, name).map_err(self.failed(path, "read attributes of"))?;
            let value = value.and_then(|value| match self.owners {
                Some(owners) => owners.container_attribute(name, value),
                None => Some(value),
            });
            found.extend(value.map(|value| (name.to_vec(), value)));
        }
        found.sort();
        Ok(found)
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        self.bound("entries", self.entries, self.limits.entries_per_layer)?;
        self.write(&write::render(entry))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io("write", self.what))
    }

    fn bound(&self, quantity: &'static str, value: u64, allowed: u64) -> Result<()> {
        if value > allowed {
            return Err(Error::Limit { what: self.what.to_owned(), quantity, value, allowed });
        }
        Ok(())
    }

    fn refused(&self, path: &[u8], reason: &str) -> Error {
        let (layer, reason) = (self.what.to_owned(), reason.to_owned());
        Error::Refused { layer, entry: shown(path), reason }
    }

    fn failed<E: Into<io::Error>>(
        &self,
        path: &[u8],
        operation: &'static str,
    ) -> impl FnOnce(E) -> Error + use<E, W> {
        let (layer, entry) = (self.what.to_owned(), shown(path));
        move |source| Error::Pack { layer, entry, operation, source: source.into() }
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What nearly all lists of names and values fit into, and what the kernel allows
/// (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const ATTRIBUTE_BYTES: [usize; 2] = [1024, 65_536];

fn attribute_names(fd: impl AsFd) -> Result<Vec<u8>, Errno> {
    match grown(|buffer| rustix::fs::flistxattr(&fd, buffer)) {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        names => names,
    }
}

/// `None` if the file has no such attribute.
fn attribute(fd: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    match grown(|buffer| rustix::fs::fgetxattr(&fd, name, buffer)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        value => value.map(Some),
    }
}

fn grown(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let [few, most] = ATTRIBUTE_BYTES;
    let mut buffer = vec![0; few];
    let bytes = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer = vec![0; most];
            read(&mut buffer)
        }
        bytes => bytes,
    }?;
    buffer.truncate(bytes);
    Ok(buffer)
}

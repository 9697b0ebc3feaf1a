//! A layer's tar stream becomes a directory in overlayfs' format.
//!
//! Owns what each kind of entry turns into and what is refused. Reads through
//! [`crate::archive`], writes through [`crate::tree`] alone. Called for each new
//! layer, with a fresh directory that the caller throws away on an error, and for archives that
//! are no layers ([`unpack_archive`]).
//!
//! Policy:
//! - A path or hard-link target that is absolute, has `..`, or passes a symlink that
//!   leads outside is refused. Symlinks themselves may say anything: they are
//!   resolved in the container.
//! - Device nodes below `dev` are dropped, since the runtime mounts its own `/dev`
//!   over them; anywhere else they are refused. Character device 0:0 would also be
//!   overlayfs' whiteout.
//! - Whiteouts say what lower layers lose; what the same layer brings stays (OCI image
//!   spec, layer.md).
//! - Attributes: `user.*`, `security.capability` and POSIX ACLs are set; those that
//!   overlayfs reads are refused; others belong to the host that built the image
//!   and are dropped.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Stat};

use crate::Digest;
use crate::archive::{Archive, Content, Entry, Kind};
use crate::compression::Decoder;
use crate::digest::Hashing;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::owners::OwnerMapping;
use crate::pax::Segment;
use crate::policy::{self, AttributePolicy};
use crate::tree::{self, Components, Metadata, ParentError, Tree};

/// Zeros in a multiple of this become a hole.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Over the whole uncompressed stream, whatever follows the archive's end included.
    pub diff_id: Digest,
    /// Bytes of file content, each hard-linked file once.
    pub size_bytes: u64,
    pub entries: u64,
}

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// What lower layers lose.
    Layer,
    /// Nothing.
    Plain,
    /// Nothing, and what is there is not ours.
    Over,
}

/// Unpacks a tar stream (plain, gzip or zstd) that is no layer, such as a build's context,
/// into `directory`, which must not exist. Bounded, contained and refused as a layer's
/// entries are, but `.wh.` files are files. `what` names the archive in errors. On an error
/// the directory is left as far as it got.
pub fn unpack_archive(
    what: &str,
    stream: impl Read,
    directory: &Path,
    limits: &Limits,
) -> Result<()> {
    let stream = Decoder::new(what, stream)?;
    let budget = Budget::new(limits.unpacked_bytes);
    unpack_as(Dialect::Plain, what, stream, directory, limits, &budget).map(drop)
}

/// Unpacks such a stream over what `directory` holds already. Symlinks in it are followed where
/// they stay inside. A file takes the place of a file, whatever it is; a directory is merged with
/// a directory. Where something is mounted nothing is replaced.
///
/// # Errors
/// [`Error::Refused`] also where a directory would take another's place, or another a directory's.
pub fn unpack_over(
    what: &str,
    stream: impl Read,
    directory: OwnedFd,
    owners: Option<OwnerMapping>,
    limits: &Limits,
) -> Result<()> {
    let stream = Decoder::new(what, stream)?;
    let budget = Budget::new(limits.unpacked_bytes);
    let tree = Tree::over(directory);
    unpack_to(Dialect::Over, what, stream, tree, owners, limits, &budget).map(drop)
}

/// What a stream holds: itself, or what gzip or zstd made smaller.
pub fn decompressed(what: &str, stream: impl Read) -> Result<impl Read> {
    Decoder::new(what, stream)
}

/// How many bytes of content may still be unpacked, by several threads together.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        Budget(AtomicU64::new(bytes))
    }

    /// What is left, if it is less than asked for; then nothing is taken.
    fn take(&self, bytes: u64) -> Result<(), u64> {
        let taken = |left: u64| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).map(drop)
    }
}

/// Unpacks into `directory`, which must not exist. `what` names the layer in errors;
/// `budget` is the content that may still be unpacked, and shrinks.
pub(crate) fn unpack(
    what: &str,
    stream: impl Read,
    directory: &Path,
    limits: &Limits,
    budget: &Budget,
) -> Result<Unpacked> {
    unpack_as(Dialect::Layer, what, stream, directory, limits, budget)
}

fn unpack_as(
    dialect: Dialect,
    what: &str,
    stream: impl Read,
    directory: &Path,
    limits: &Limits,
    budget: &Budget,
) -> Result<Unpacked> {
    let tree = Tree::create(directory).map_err(Error::io("create directory", directory))?;
    unpack_to(dialect, what, stream, tree, None, limits, budget)
}

fn unpack_to(
    dialect: Dialect,
    what: &str,
    stream: impl Read,
    tree: Tree,
    owners: Option<OwnerMapping>,
    limits: &Limits,
    budget: &Budget,
) -> Result<Unpacked> {
    let mut archive = Archive::new(what, Hashing::new(stream), limits);
    let mut layer = Layer {
        dialect,
        what,
        tree,
        owners,
        limits,
        budget,
        entries: 0,
        size_bytes: 0,
        directory_times: Vec::new(),
        dropped: HashSet::new(),
        buffer: vec![0; CHUNK_BYTES],
    };
    while let Some(entry) = archive.next_entry()? {
        layer.take(&entry, &mut archive.content())?;
    }
    layer.set_directory_times()?;
    let Layer { entries, size_bytes, dropped, .. } = layer;
    if !dropped.is_empty() {
        tracing::debug!(layer = what, devices = dropped.len(), "dropped device nodes below dev");
    }
    let (_, diff_id, _) = archive.drain()?.finish();
    Ok(Unpacked { diff_id, size_bytes, entries })
}

struct Layer<'a> {
    dialect: Dialect,
    what: &'a str,
    tree: Tree,
    /// The container's owners become the host's.
    owners: Option<OwnerMapping>,
    limits: &'a Limits,
    budget: &'a Budget,
    entries: u64,
    size_bytes: u64,
    /// Set at the end: making an entry changes its directory's time.
    directory_times: Vec<(Components, (i64, u32))>,
    /// Device nodes below `dev`, so that hard links to them are dropped as well.
    dropped: HashSet<Components>,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn take<R: Read>(&mut self, entry: &Entry, content: &mut Content<'_, '_, R>) -> Result<()> {
        self.count(1)?;
        let path = self.components(entry, &entry.path)?;
        let Some((name, parent)) = path.split_last() else {
            return self.take_root(entry);
        };
        let created = self.tree.open_parent(parent);
        let created = created.map_err(|error| self.parent_error(entry, "open parent of", error))?;
        self.count(created)?;
        if self.dialect == Dialect::Layer
            && let Some(whiteout) = name.as_bytes().strip_prefix(b".wh.")
        {
            return self.take_whiteout(entry, whiteout);
        }
        match entry.kind {
            Kind::Directory => self.take_directory(entry, &path, name),
            Kind::File => self.take_file(entry, name, content),
            Kind::HardLink => self.take_hard_link(entry, &path, name),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return Err(self.refused(entry, "a symlink without a target"));
                }
                self.make_room(entry, name)?;
                let target = OsStr::from_bytes(&entry.link);
                self.tree.make_symlink(name, target).map_err(self.failed(entry, "make symlink"))?;
                self.finish_special(entry, name, true)
            }
            Kind::Fifo => {
                self.make_room(entry, name)?;
                self.tree.make_fifo(name).map_err(self.failed(entry, "make fifo"))?;
                self.finish_special(entry, name, false)
            }
            Kind::CharDevice | Kind::BlockDevice => {
                if parent.first().is_some_and(|first| first == "dev") {
                    self.make_room(entry, name)?;
                    self.dropped.insert(path);
                    return Ok(());
                }
                Err(self.refused(
                    entry,
                    "a device node; allowed are those below dev, which are dropped",
                ))
            }
        }
    }

    fn take_root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(self.refused(entry, "the layer's root must be a directory"));
        }
        let metadata = self.metadata(entry)?;
        let set = tree::set_metadata(self.tree.root(), &metadata);
        set.map_err(self.failed(entry, "set attributes of"))?;
        self.directory_times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn take_whiteout(&mut self, entry: &Entry, name: &[u8]) -> Result<()> {
        match name {
            b".wh..opq" => {
                tree::set_opaque(self.tree.parent()).map_err(self.failed(entry, "mark opaque by"))
            }
            // AUFS' own files, which Docker skips as well.
            name if name.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(self.refused(entry, "a whiteout that names no file")),
            name => {
                let name = OsStr::from_bytes(name);
                match self.stat(entry, name)? {
                    None => {
                        let made = self.tree.make_whiteout(name);
                        made.map_err(self.failed(entry, "make whiteout for"))
                    }
                    Some(stat) if kind_of(&stat) == FileType::Directory => {
                        let directory = self.tree.open_made(name);
                        directory
                            .and_then(tree::set_opaque)
                            .map_err(self.failed(entry, "mark opaque by"))
                    }
                    Some(_) => Ok(()),
                }
            }
        }
    }

    fn take_directory(&mut self, entry: &Entry, path: &Components, name: &OsStr) -> Result<()> {
        let there = self.stat(entry, name)?;
        let exists = there.as_ref().is_some_and(|stat| kind_of(stat) == FileType::Directory);
        let replaces_whiteout =
            there.is_some_and(|stat| kind_of(&stat) == FileType::CharacterDevice);
        let directory = if exists {
            self.tree.open_made(name)
        } else {
            self.make_room(entry, name)?;
            self.tree.make_directory(name)
        };
        let directory = directory.map_err(self.failed(entry, "make directory"))?;
        if replaces_whiteout {
            // The lower layers' content stays gone.
            tree::set_opaque(&directory).map_err(self.failed(entry, "mark opaque"))?;
        }
        let metadata = self.metadata(entry)?;
        tree::set_metadata(&directory, &metadata)
            .map_err(self.failed(entry, "set attributes of"))?;
        self.directory_times.push((path.clone(), entry.mtime));
        Ok(())
    }

    fn take_file<R: Read>(
        &mut self,
        entry: &Entry,
        name: &OsStr,
        content: &mut Content<'_, '_, R>,
    ) -> Result<()> {
        if let Err(left) = self.budget.take(entry.size) {
            let allowed = self.limits.unpacked_bytes;
            return Err(Error::Limit {
                what: format!("{}: entry `{}`", self.what, entry.shown()),
                quantity: "bytes unpacked with it",
                value: (allowed - left).saturating_add(entry.size),
                allowed,
            });
        }
        self.make_room(entry, name)?;
        let file = self.tree.make_file(name).map_err(self.failed(entry, "make file"))?;
        let filled = self.fill(entry, &File::from(file), content);
        if filled.is_err() && self.dialect == Dialect::Over {
            // What is unpacked into a container stays there: not half a file.
            let _ = self.tree.remove(name);
        }
        filled
    }

    fn fill<R: Read>(
        &mut self,
        entry: &Entry,
        file: &File,
        content: &mut Content<'_, '_, R>,
    ) -> Result<()> {
        let metadata = self.metadata(entry)?;
        let whole = [Segment { offset: 0, bytes: entry.size }];
        let segments = entry.sparse.as_deref().unwrap_or(&whole);
        for segment in segments {
            self.write(entry, file, segment, content)?;
        }
        let finished = file
            .set_len(entry.size)
            .and_then(|()| tree::set_metadata(file, &metadata))
            .and_then(|()| tree::set_mtime(file, entry.mtime));
        finished.map_err(self.failed(entry, "set attributes of"))?;
        self.size_bytes += entry.size;
        Ok(())
    }

    /// Copies one segment, leaving chunks of zeros as holes.
    fn write<R: Read>(
        &mut self,
        entry: &Entry,
        file: &File,
        segment: &Segment,
        content: &mut Content<'_, '_, R>,
    ) -> Result<()> {
        let mut done = 0;
        while done < segment.bytes {
            let wanted = (segment.bytes - done).min(CHUNK_BYTES as u64) as usize;
            let chunk = &mut self.buffer[..wanted];
            let read = content.read_full(chunk)?;
            if read < wanted {
                return Err(self.refused(entry, "its content is shorter than its sparse map"));
            }
            if chunk.iter().any(|byte| *byte != 0) {
                let written = file.write_all_at(chunk, segment.offset + done);
                written.map_err(self.failed(entry, "write file"))?;
            }
            done += wanted as u64;
        }
        Ok(())
    }

    fn take_hard_link(&mut self, entry: &Entry, path: &Components, name: &OsStr) -> Result<()> {
        let target = self.components(entry, &entry.link)?;
        if target == *path {
            return Ok(());
        }
        if self.dropped.contains(&target) {
            self.dropped.insert(path.clone());
            return Ok(());
        }
        let stat = self.tree.stat_within(&target);
        let stat =
            stat.map_err(|error| self.parent_error(entry, "find hard-link target of", error))?;
        if kind_of(&stat) == FileType::Directory {
            return Err(self.refused(entry, "a hard link to a directory"));
        }
        if self.stat(entry, name)?.is_some_and(|there| there.st_ino == stat.st_ino) {
            return Ok(());
        }
        self.make_room(entry, name)?;
        let linked = self.tree.make_hard_link(&target, name);
        linked.map_err(|error| self.parent_error(entry, "make hard link", error))
    }

    fn finish_special(&self, entry: &Entry, name: &OsStr, is_link: bool) -> Result<()> {
        let metadata = self.metadata(entry)?;
        let set = self.tree.set_metadata_at(name, &metadata, is_link);
        set.map_err(self.failed(entry, "set attributes of"))
    }

    fn set_directory_times(&mut self) -> Result<()> {
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            // Gone or replaced since: its time does not matter.
            let Ok(directory) = self.tree.open_directory(&path) else { continue };
            tree::set_mtime(&directory, mtime).map_err(|source| Error::Unpack {
                layer: self.what.to_owned(),
                entry: path.join(OsStr::new("/")).to_string_lossy().into_owned(),
                operation: "set time of directory",
                source,
            })?;
        }
        Ok(())
    }

    /// Later entries replace earlier ones of the same path.
    fn make_room(&mut self, entry: &Entry, name: &OsStr) -> Result<()> {
        if let Some(there) = self.stat(entry, name)? {
            if self.dialect == Dialect::Over {
                let is_directory = kind_of(&there) == FileType::Directory;
                if is_directory || entry.kind == Kind::Directory {
                    let reason = "a directory is not replaced by a file, nor a file by a directory";
                    return Err(self.refused(entry, reason));
                }
                if self.tree.is_mounted(name).map_err(self.failed(entry, "look at"))? {
                    return Err(self.refused(entry, "something is mounted there"));
                }
            }
            let freed = self.tree.remove(name).map_err(self.failed(entry, "replace"))?;
            self.size_bytes = self.size_bytes.saturating_sub(freed);
        }
        Ok(())
    }

    fn stat(&self, entry: &Entry, name: &OsStr) -> Result<Option<Stat>> {
        self.tree.stat(name).map_err(self.failed(entry, "look at"))
    }

    fn count(&mut self, entries: u64) -> Result<()> {
        self.entries += entries;
        let allowed = self.limits.entries_per_layer;
        if self.entries > allowed {
            let what = self.what.to_owned();
            return Err(Error::Limit { what, quantity: "entries", value: self.entries, allowed });
        }
        Ok(())
    }

    fn components(&self, entry: &Entry, path: &[u8]) -> Result<Components> {
        let components = policy::components(path).ok_or_else(|| Error::Escape {
            layer: self.what.to_owned(),
            entry: entry.shown(),
            target: crate::archive::shown(path),
        })?;
        let (value, allowed) = (components.len() as u64, self.limits.path_depth);
        if value > allowed {
            let what = format!("{}: entry `{}`", self.what, entry.shown());
            return Err(Error::Limit { what, quantity: "depth of its path", value, allowed });
        }
        Ok(components)
    }

    fn metadata(&self, entry: &Entry) -> Result<Metadata> {
        let id = |value: u64| {
            let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
                self.refused(entry, &format!("owner {value}; allowed are 0 to {}", u32::MAX - 1))
            })?;
            let Some(owners) = self.owners else { return Ok(id) };
            let host = owners.host_id(id);
            host.ok_or_else(|| self.refused(entry, &format!("owner {id}, not of the container")))
        };
        let mut xattrs = Vec::new();
        for (name, value) in &entry.xattrs {
            match AttributePolicy::of(name) {
                AttributePolicy::Set => {
                    xattrs.push((OsString::from(OsStr::from_bytes(name)), value.clone()));
                }
                AttributePolicy::Drop => {}
                AttributePolicy::Refuse => {
                    let reason = format!("attribute {} would steer overlayfs", name.escape_ascii());
                    return Err(self.refused(entry, &reason));
                }
            }
        }
        Ok(Metadata {
            mode: entry.mode,
            uid: id(entry.uid)?,
            gid: id(entry.gid)?,
            mtime: entry.mtime,
            xattrs,
        })
    }

    fn refused(&self, entry: &Entry, reason: &str) -> Error {
        Error::Refused {
            layer: self.what.to_owned(),
            entry: entry.shown(),
            reason: reason.to_owned(),
        }
    }

    fn failed<'b>(
        &'b self,
        entry: &'b Entry,
        operation: &'static str,
    ) -> impl Fn(io::Error) -> Error + 'b {
        move |source| Error::Unpack {
            layer: self.what.to_owned(),
            entry: entry.shown(),
            operation,
            source,
        }
    }

    fn parent_error(&self, entry: &Entry, operation: &'static str, error: ParentError) -> Error {
        match error {
            ParentError::Outside(target) => {
                Error::Escape { layer: self.what.to_owned(), entry: entry.shown(), target }
            }
            ParentError::Io(source) => self.failed(entry, operation)(source),
        }
    }
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

//! Tar as a stream of entries, as lenient as Docker at its end and nowhere else.
//!
//! Owns the walk over headers, their extensions and the limits on them; the `tar`
//! crate lends the header's layout. It touches no file system. Its own iterator is
//! not used because `tar` 0.4.46 rejects archives whose last block is not padded,
//! reads pax and long-name extensions of any declared size into memory, breaks
//! binary attributes at newlines and does not know pax sparse files.
//!
//! As in Go's `archive/tar`, which decides what Docker loads: entries of a kind
//! without content have none whatever their header's size says, a stream may end
//! at a header or inside padding, and never inside content.

mod fields;
mod sparse;
pub(crate) mod write;

use std::io::{self, Read};

use tar::Header;

use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::pax::{self, Pax, Segment};

use fields::{checksum_fits, header_time, number, until_nul};

const BLOCK: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    CharDevice,
    BlockDevice,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub path: Vec<u8>,
    /// Target of a symlink or hard link; empty otherwise.
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Bytes of the file once unpacked, holes included.
    pub size: u64,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: (i64, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content belongs; `None` if it is the whole file.
    pub sparse: Option<Vec<Segment>>,
}

impl Entry {
    /// The path for messages.
    pub fn shown(&self) -> String {
        shown(&self.path)
    }
}

pub(crate) fn shown(path: &[u8]) -> String {
    let mut text: String =
        String::from_utf8_lossy(path).chars().take(200).flat_map(char::escape_debug).collect();
    if text.len() < path.len() {
        text.push('…');
    }
    text
}

/// Yields entries; between two calls of [`Archive::next_entry`], [`Archive::content`]
/// reads the current entry's stored bytes.
pub(crate) struct Archive<'a, R> {
    inner: R,
    /// What errors call it: "layer sha256:…", "archive".
    what: &'a str,
    limits: &'a Limits,
    offset: u64,
    /// Content and padding of the current entry that are not read yet.
    pending: u64,
    padding: u64,
    ended: bool,
}

impl<'a, R: Read> Archive<'a, R> {
    pub fn new(what: &'a str, inner: R, limits: &'a Limits) -> Archive<'a, R> {
        Archive { inner, what, limits, offset: 0, pending: 0, padding: 0, ended: false }
    }

    /// The next entry, or `None` at the archive's end. Skips what was left of the last one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut long_path = None;
        let mut long_link = None;
        let mut extended = Pax::default();
        loop {
            self.finish_entry()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let old = header.as_old();
            let size = self.number(&old.size, "size")?;
            match old.linkflag[0] {
                b'L' => {
                    long_path = Some(until_nul(&self.extension(size, self.limits.path_bytes + 1)?))
                }
                b'K' => {
                    long_link = Some(until_nul(&self.extension(size, self.limits.path_bytes + 1)?))
                }
                b'x' => {
                    let content = self.extension(size, self.limits.pax_bytes)?;
                    extended = pax::parse(&content).map_err(|reason| self.malformed(reason))?;
                }
                // Global records: Docker ignores them, so reading them would make
                // two readers of one layer disagree.
                b'g' => drop(self.extension(size, self.limits.pax_bytes)?),
                flag => {
                    let stored = extended.size.take().unwrap_or(size);
                    return self
                        .entry(&header, flag, stored, long_path, long_link, extended)
                        .map(Some);
                }
            }
        }
    }

    /// Reads the current entry's stored content; an archive that ends inside it is an error.
    pub fn content(&mut self) -> Content<'_, 'a, R> {
        Content { archive: self }
    }

    /// Reads what follows the end-of-archive mark, so that the stream's digest is
    /// over all of it.
    pub fn drain(mut self) -> Result<R> {
        let mut buffer = vec![0; 64 * 1024];
        while self.read_some(&mut buffer)? > 0 {}
        Ok(self.inner)
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        stored: u64,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        extended: Pax,
    ) -> Result<Entry> {
        let old = header.as_old();
        let sparse_name = extended.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name.or(long_path).or(extended.path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link.or(extended.link).unwrap_or_else(|| until_nul(&old.linkname));
        let kind = match flag {
            // Before POSIX, a directory was a file whose name ends with a slash.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                let reason =
                    format!("entry `{}` is of unknown type {}", shown(&path), flag.escape_ascii());
                return Err(self.malformed(reason));
            }
        };
        for (text, quantity) in [(&path, "length of a path"), (&link, "length of a link target")] {
            self.bound(quantity, text.len() as u64, self.limits.path_bytes)?;
            if text.contains(&0) {
                return Err(self.malformed(format!("`{}` holds a NUL byte", shown(text))));
            }
        }
        let mut entry = Entry {
            path,
            link,
            kind,
            size: 0,
            mode: (self.number(&old.mode, "mode")? & 0o7777) as u32,
            uid: extended.uid.map_or_else(|| self.number(&old.uid, "uid"), Ok)?,
            gid: extended.gid.map_or_else(|| self.number(&old.gid, "gid"), Ok)?,
            mtime: extended.mtime.unwrap_or_else(|| (header_time(&old.mtime), 0)),
            xattrs: extended.xattrs,
            sparse: None,
        };
        if kind == Kind::File {
            entry.size = stored;
            self.pending = stored;
            self.padding = stored.wrapping_neg() % BLOCK;
            match (flag, extended.sparse) {
                (b'S', _) => self.gnu_sparse(header, &mut entry)?,
                (_, Some(sparse)) => {
                    entry.size = sparse.real_bytes;
                    entry.sparse = Some(match sparse.map {
                        Some(map) => map,
                        None => self.leading_map(sparse.real_bytes)?,
                    });
                }
                _ => {}
            }
            if let Some(segments) = &entry.sparse {
                self.bound(
                    "segments of a sparse file",
                    segments.len() as u64,
                    self.limits.sparse_segments,
                )?;
                let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
                if bytes != self.pending {
                    let reason =
                        format!("sparse file `{}`: map and content differ in size", entry.shown());
                    return Err(self.malformed(reason));
                }
            }
        }
        Ok(entry)
    }

    /// `None` at the end: a zero block, or the stream's end where a header would start.
    fn read_header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let read = self.read_full(header.as_mut_bytes())?;
        if (1..BLOCK as usize).contains(&read) {
            return Err(self.truncated("inside a header"));
        }
        if read == 0 || header.as_bytes().iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let wanted = self.number(&header.as_old().cksum, "checksum")?;
        if !checksum_fits(&header, wanted) {
            return Err(self.malformed("not a tar header: its checksum is wrong".into()));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64, allowed: u64) -> Result<Vec<u8>> {
        self.bound("size of an extension header", size, allowed)?;
        let mut content = vec![0; size as usize];
        self.read_extension(&mut content)?;
        self.padding = size.wrapping_neg() % BLOCK;
        Ok(content)
    }

    fn read_extension(&mut self, buffer: &mut [u8]) -> Result<()> {
        if self.read_full(buffer)? < buffer.len() {
            return Err(self.truncated("inside an extension header"));
        }
        Ok(())
    }

    fn finish_entry(&mut self) -> Result<()> {
        let mut buffer = [0; 32 * 1024];
        while self.pending > 0 {
            self.content().read_some(&mut buffer)?;
        }
        let padding = std::mem::take(&mut self.padding) as usize;
        if padding > 0 && self.read_full(&mut buffer[..padding])? < padding {
            self.ended = true;
        }
        Ok(())
    }

    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.read_some(&mut buffer[read..])? {
                0 => break,
                n => read += n,
            }
        }
        Ok(read)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Ok(n) => {
                    self.offset += n as u64;
                    self.bound("size of the archive", self.offset, self.limits.archive_bytes)?;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.truncated("its compression is cut off"));
                }
                Err(source) => return Err(Error::Read { what: self.what.to_owned(), source }),
            }
        }
    }

    /// Octal digits between spaces and NULs, blank meaning zero, or GNU's base 256.
    fn number(&self, field: &[u8], name: &str) -> Result<u64> {
        number(field).ok_or_else(|| {
            self.malformed(format!("header field {name} is `{}`", field.escape_ascii()))
        })
    }

    fn bound(&self, quantity: &'static str, value: u64, allowed: u64) -> Result<()> {
        if value > allowed {
            return Err(Error::Limit { what: self.what.to_owned(), quantity, value, allowed });
        }
        Ok(())
    }

    fn malformed(&self, reason: String) -> Error {
        Error::Malformed { what: self.what.to_owned(), offset: self.offset, reason }
    }

    fn truncated(&self, reason: &str) -> Error {
        Error::Truncated {
            what: self.what.to_owned(),
            offset: self.offset,
            reason: reason.to_owned(),
        }
    }
}

/// The stored bytes of the current entry.
pub(crate) struct Content<'b, 'a, R> {
    archive: &'b mut Archive<'a, R>,
}

impl<R: Read> Content<'_, '_, R> {
    /// 0 at the content's end; an error if the archive ends before it.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = (buffer.len() as u64).min(self.archive.pending) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.archive.read_some(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(self.archive.truncated("inside a file's content"));
        }
        self.archive.pending -= n as u64;
        Ok(n)
    }

    /// Fills `buffer` or stops at the content's end; returns how much was filled.
    pub fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.read_some(&mut buffer[read..])? {
                0 => break,
                n => read += n,
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;

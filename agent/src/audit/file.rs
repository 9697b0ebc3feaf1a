//! The audit file: sealed JSON lines, rotated by size, that begin anew where an agent before
//! ended. What could not be written is a line of the file as soon as one can be written again.
//!
//! Nothing is chosen here about what an event is; `super` is the only caller.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{self, Head, Link, SEAL_BYTES};
use super::rotation;
use super::tail::{self, Tail, Torn};

#[derive(Clone, Debug)]
pub struct FileLimits {
    pub path: PathBuf,
    /// A file that would be larger with the next lines is put aside.
    pub max_bytes: u64,
    /// Of those that were put aside.
    pub keep_files: u32,
}

/// What the file says about itself, between the events.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Notice {
    /// The first line of each file: the hash that it follows.
    Chain { prev: String },
    /// A line that an agent did not write to its end was cut off here.
    Torn { torn: TornLine },
    /// Events that could not be written here.
    Gap { gap: Gap },
}

#[derive(Clone, Debug, Serialize)]
struct TornLine {
    bytes: u64,
    sha256: String,
}

#[derive(Clone, Debug, Serialize)]
struct Gap {
    lost: u64,
    /// When the first was lost.
    since: String,
    error: String,
}

impl Notice {
    fn kind(&self) -> &'static str {
        match self {
            Self::Chain { .. } => "chain",
            Self::Torn { .. } => "torn",
            Self::Gap { .. } => "gap",
        }
    }

    fn seal(&self, head: &mut Head, lines: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Line<'a> {
            event: Nature,
            #[serde(flatten)]
            notice: &'a Notice,
            #[serde(rename = "@timestamp")]
            timestamp: String,
        }
        #[derive(Serialize)]
        struct Nature {
            action: &'static str,
        }
        let line = Line { event: Nature { action: self.kind() }, notice: self, timestamp: now() };
        // Plain text and numbers always serialize.
        let object = serde_json::to_vec(&line).unwrap_or_default();
        chain::seal(head, &object, lines);
    }
}

/// What became of some lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub written: u64,
    pub lost: u64,
}

/// What was added to the file.
#[derive(Debug)]
pub struct Appended<'a> {
    pub outcome: Outcome,
    /// The file's own lines in front of the others: `chain`, `torn`, `gap`.
    pub own: Vec<&'static str>,
    /// All lines that landed, whole and sealed.
    pub lines: &'a [u8],
}

#[derive(Debug)]
pub struct AuditFile {
    file: File,
    bytes: u64,
    limits: FileLimits,
    head: Head,
    /// The lines of the last write: memory that is not asked for anew each time.
    sealed: Vec<u8>,
    /// Bytes of a piece of a line at the file's end that could not be cut off yet.
    uncut: u64,
    /// Stand in front of the next lines. Two at most: a torn line, a gap.
    pending: Vec<Notice>,
    /// With no files kept, the one before goes when its follower has begun.
    is_removal_due: bool,
    /// It should be put aside and cannot be.
    is_stuck: bool,
}

impl AuditFile {
    /// Goes on behind the last line there is; a torn one is cut off, and a line says so.
    pub fn open(limits: FileLimits) -> io::Result<Self> {
        let file = open(&limits.path)?;
        let mut tail = tail::read(&file)?;
        let torn_bytes = tail.torn.as_ref().map_or(0, |torn| torn.bytes);
        if tail.last.is_none() && file.metadata()?.len() > torn_bytes {
            // Nothing of it is a line of the chain: it stays as it is.
            tracing::error!(path = %limits.path.display(), "the audit file holds no chain");
            // It counts for none: the chain's last file may be the next one that would go.
            rotate(&limits.path, limits.keep_files.max(1).saturating_add(1))?;
            tail = Tail::default();
        }
        let last = match tail.last {
            Some(last) => Some(last),
            // A new file, or one that was torn in its first line.
            None => tail::newest(&limits.path)?,
        };
        if last.as_ref().is_some_and(|last| !last.is_right) {
            let path = limits.path.display();
            tracing::error!(%path, "the audit file's last line is not as it was written");
        }
        let file = open(&limits.path)?;
        let bytes = file.metadata()?.len();
        let head = last.map_or(Head::START, |last| last.head);
        let mut audit = Self {
            file,
            bytes,
            limits,
            head,
            sealed: Vec::new(),
            uncut: 0,
            pending: Vec::new(),
            is_removal_due: false,
            is_stuck: false,
        };
        if let Some(torn) = tail.torn {
            audit.cut_off(&torn)?;
        }
        Ok(audit)
    }

    fn cut_off(&mut self, torn: &Torn) -> io::Result<()> {
        let path = self.limits.path.display();
        tracing::warn!(%path, bytes = torn.bytes, sha256 = %torn.hash, "a torn line is cut off");
        self.bytes -= torn.bytes;
        self.file.set_len(self.bytes)?;
        self.pending.push(Notice::Torn {
            torn: TornLine { bytes: torn.bytes, sha256: torn.hash.to_string() },
        });
        // Where the disk is full, the line stays due.
        self.append(&[], 0);
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.limits.path
    }

    /// Of the last line there is.
    pub fn head(&self) -> Head {
        self.head
    }

    /// `objects`: `count` JSON objects, each with a newline behind it. What the disk did not take
    /// is lost, and stands as a gap in front of what it takes next.
    pub fn append(&mut self, objects: &[u8], count: u64) -> Appended<'_> {
        self.sealed.clear();
        let room = self.make_room(objects.len() as u64 + count * SEAL_BYTES as u64);
        let (mut own, error) = match room {
            Ok(()) => self.write(objects),
            Err(error) => (Vec::new(), Some(error)),
        };
        let landed = memchr::memchr_iter(b'\n', &self.sealed).count();
        own.truncate(landed);
        let notices = own.iter().filter(|kind| **kind != "chain").count();
        for notice in self.pending.drain(..notices) {
            if let Notice::Gap { gap } = notice {
                tracing::warn!(path = %self.limits.path.display(), gap.lost, "audit goes on");
            }
        }
        let written = ((landed - own.len()) as u64).min(count);
        let lost = count - written;
        if let Some(error) = &error {
            self.miss(lost, error);
        }
        if self.is_removal_due && self.bytes > self.uncut {
            // The follower has begun. Tried again with the next lines.
            self.is_removal_due = std::fs::remove_file(rotation::numbered(self.path(), 1)).is_err();
        }
        Appended { outcome: Outcome { written, lost }, own, lines: &self.sealed }
    }

    /// Cuts off what a failed write left, and puts a full file aside. Where that fails, the file
    /// that there is goes on, up to twice its size: better a large file than lost lines.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if self.uncut > 0 {
            self.cut(self.uncut)?;
        }
        if self.bytes == 0 || self.bytes + bytes <= self.limits.max_bytes {
            return Ok(());
        }
        let Err(error) = self.begin_next() else {
            self.is_stuck = false;
            return Ok(());
        };
        if !std::mem::replace(&mut self.is_stuck, true) {
            let path = self.path().display();
            tracing::error!(%path, %error, "the full audit file could not be put aside");
        }
        match self.bytes + bytes <= self.limits.max_bytes.saturating_mul(2) {
            true => Ok(()),
            false => Err(error),
        }
    }

    fn begin_next(&mut self) -> io::Result<()> {
        rotate(&self.limits.path, self.limits.keep_files)?;
        self.file = open(&self.limits.path)?;
        self.bytes = self.file.metadata()?.len();
        self.is_removal_due = self.limits.keep_files == 0;
        Ok(())
    }

    /// Seals and writes what is pending and then `objects`, and moves the head. The lines that
    /// landed, whole, are then in `sealed`. The kinds of the file's own lines; why not all landed.
    fn write(&mut self, objects: &[u8]) -> (Vec<&'static str>, Option<io::Error>) {
        let mut head = self.head;
        let lines = &mut self.sealed;
        let mut own = Vec::new();
        if self.bytes == 0 {
            let notice = Notice::Chain { prev: head.hash.to_string() };
            own.push(notice.kind());
            notice.seal(&mut head, lines);
        }
        for notice in &self.pending {
            own.push(notice.kind());
            notice.seal(&mut head, lines);
        }
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', objects) {
            chain::seal(&mut head, &objects[start..newline], lines);
            start = newline + 1;
        }
        let (taken, error) = write_all(&mut self.file, lines);
        self.bytes += taken as u64;
        if error.is_none() {
            self.head = head;
            return (own, None);
        }
        let whole = lines[..taken].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let last = lines[..whole].strip_suffix(b"\n").unwrap_or_default();
        let last = last.rsplit(|byte| *byte == b'\n').next().and_then(Link::parse);
        self.head = last.map_or(self.head, |link| link.head);
        lines.truncate(whole);
        if taken > whole {
            self.uncut = (taken - whole) as u64;
            // Where that fails, it is tried again before the next line.
            let _ = self.cut(self.uncut);
        }
        (own, error)
    }

    /// The file's last `bytes`: nobody else writes to it.
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len().saturating_sub(bytes);
        self.file.set_len(length)?;
        self.bytes = length;
        self.uncut = 0;
        Ok(())
    }

    fn miss(&mut self, events: u64, error: &io::Error) {
        match self.pending.last_mut() {
            _ if events == 0 => {}
            Some(Notice::Gap { gap }) => gap.lost += events,
            _ => {
                let error = error.to_string();
                tracing::error!(path = %self.path().display(), error, "audit lines are lost");
                self.pending.push(Notice::Gap { gap: Gap { lost: events, since: now(), error } });
            }
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let present = rotation::present(path)?;
    rotation::execute(path, &rotation::plan(&present, keep))
}

/// How many bytes were taken, and why not all.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Some(error)),
        }
    }
    (taken, None)
}

#[cfg(test)]
mod tests;

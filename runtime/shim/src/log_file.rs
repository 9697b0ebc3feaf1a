//! The container's output, appended as frames.
//!
//! Owns the descriptor of the log's newest piece, the pieces' order and the read buffer. A
//! container must not stop because a disk is full: a frame that cannot be written whole is taken
//! back, and its bytes are counted as lost. Where pieces end is `log_pieces`' choice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use tenantry_shim::log::{HEADER_BYTES, Header, Stream};
use tenantry_shim::log_pieces;
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::LogBound;

use crate::failure::{at, io_at};

#[derive(Debug)]
pub struct LogFile {
    /// Piece 0's.
    base: PathBuf,
    bound: Option<LogBound>,
    /// Those that there are, the newest last; never none.
    pieces: Vec<u64>,
    /// The newest.
    file: OwnedFd,
    /// Bytes of it.
    written: u64,
    /// Whether pieces that somebody holds are kept, and further output waits for that.
    waits_for_readers: bool,
    /// Header and payload, so that a frame is one write. Its capacity is that of
    /// the longest frame; pages that no output ever needed are never touched.
    frame: Vec<u8>,
    lost_bytes: u64,
}

/// What one read of a pipe gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Bytes,
    Nothing,
    /// No writer is left.
    End,
}

impl LogFile {
    /// Goes on in the newest piece of an earlier run.
    pub fn open(base: &Path, bound: Option<LogBound>) -> Result<Self, Failure> {
        let directory = base.parent().unwrap_or(Path::new("/"));
        let entries = std::fs::read_dir(directory).map_err(io_at("read", directory.display()))?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        let mut pieces = log_pieces::numbers(base, names);
        if pieces.is_empty() {
            pieces.push(0);
        }
        let path = log_pieces::path(base, pieces.last().copied().unwrap_or_default());
        let file = open_piece(&path, OFlags::empty()).map_err(at("open", path.display()))?;
        let written = length(&file).map_err(at("fstat", path.display()))?;
        let frame = Vec::with_capacity(HEADER_BYTES + log_pieces::most_payload_bytes(bound));
        let base = base.to_owned();
        let (waits_for_readers, lost_bytes) = (true, 0);
        let mut log =
            Self { base, bound, pieces, file, written, waits_for_readers, frame, lost_bytes };
        log.remove_surplus();
        Ok(log)
    }

    /// Output that no frame holds, because the log could not be written.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Whether a piece that is to go is held by a reader. Nothing is transferred meanwhile: the
    /// container waits for who has attached to it, as for the reader of a pipe.
    pub fn is_held(&self) -> bool {
        self.waits_for_readers && log_pieces::surplus(self.bound, self.pieces.len()) > 0
    }

    /// Removes what was held and is no longer.
    pub fn look_at_readers(&mut self) {
        if self.is_held() {
            self.remove_surplus();
        }
    }

    /// The container has ended: what is still in its pipes goes to the log, and pieces that are
    /// held stay until the next run.
    pub fn end_waiting(&mut self) {
        self.waits_for_readers = false;
    }

    /// One read, at most two frames: the end of a piece and the beginning of the next.
    pub fn transfer(&mut self, pipe: impl AsFd, stream: Stream) -> Transfer {
        if self.is_held() {
            return Transfer::Nothing;
        }
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES]);
        let read = rustix::io::read(&pipe, rustix::buffer::spare_capacity(&mut self.frame));
        match read {
            Ok(0) => return Transfer::End,
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Transfer::Nothing,
            Err(_) => return Transfer::End,
        }
        let unix_ns = unix_ns();
        let mut from = 0;
        if let Some(here) = log_pieces::cut(self.bound, self.written, &self.frame[HEADER_BYTES..]) {
            if here > 0 {
                self.append(stream, unix_ns, 0, here);
                // The header of the rest takes the place of bytes that are written.
                from = here;
            }
            self.begin_piece();
        }
        self.append(stream, unix_ns, from, self.frame.len() - HEADER_BYTES);
        Transfer::Bytes
    }

    /// The payload's bytes `from..to` as a frame.
    fn append(&mut self, stream: Stream, unix_ns: u64, from: usize, to: usize) {
        let header = Header { stream, payload_bytes: (to - from) as u32, unix_ns };
        let (start, end) = (from, to + HEADER_BYTES);
        self.frame[start..start + HEADER_BYTES].copy_from_slice(&header.render());
        match self.write(start, end) {
            Ok(()) => self.written += (end - start) as u64,
            Err(_) => self.lost_bytes += (to - from) as u64,
        }
    }

    fn write(&self, start: usize, end: usize) -> Result<(), Errno> {
        let mut written = start;
        while written < end {
            match retry_on_intr(|| rustix::io::write(&self.file, &self.frame[written..end])) {
                Ok(count) if count > 0 => written += count,
                outcome => {
                    self.take_back(written - start);
                    return Err(outcome.err().unwrap_or(Errno::NOSPC));
                }
            }
        }
        Ok(())
    }

    /// A reader stops at half a frame, so none may stay before the next one.
    fn take_back(&self, written: usize) {
        if written > 0
            && let Ok(length) = length(&self.file)
        {
            let _ = rustix::fs::ftruncate(&self.file, length - written as u64);
        }
    }

    /// The next piece is there before the oldest goes: a crash leaves one too many and never none.
    /// Where none can be made, the newest grows on.
    fn begin_piece(&mut self) {
        let number = self.pieces.last().map_or(0, |last| last + 1);
        let path = log_pieces::path(&self.base, number);
        let Ok(file) = open_piece(&path, OFlags::EXCL) else { return };
        self.file = file;
        self.written = 0;
        self.pieces.push(number);
        self.remove_surplus();
    }

    fn remove_surplus(&mut self) {
        for _ in 0..log_pieces::surplus(self.bound, self.pieces.len()) {
            let Some(oldest) = self.pieces.first() else { return };
            let path = log_pieces::path(&self.base, *oldest);
            if !remove_unless_held(&path) {
                return;
            }
            self.pieces.remove(0);
        }
    }
}

/// `false` while somebody reads it who must not miss anything. A reader that takes hold between
/// the two steps finds that the piece has no name any more.
fn remove_unless_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
        let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if lock == Err(Errno::WOULDBLOCK) {
            return false;
        }
        // What cannot be removed must not hold the container up either.
        let _ = rustix::fs::unlink(path);
    }
    true
}

fn open_piece(path: &Path, further: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | further;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))
}

fn length(file: &OwnedFd) -> Result<u64, Errno> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default())
}

pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

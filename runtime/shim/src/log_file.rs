//! The container's output, appended as frames.
//!
//! Owns the log's descriptor and the read buffer. A container must not stop
//! because a disk is full: a frame that cannot be written whole is taken back,
//! and its bytes are counted as lost.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use tenantry_shim::log::{HEADER_BYTES, Header, MAX_PAYLOAD_BYTES, Stream};
use tenantry_shim::protocol::Failure;

use crate::failure::at;

#[derive(Debug)]
pub struct LogFile {
    file: OwnedFd,
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
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))
            .map_err(at("open", path.display()))?;
        let frame = Vec::with_capacity(HEADER_BYTES + MAX_PAYLOAD_BYTES);
        Ok(Self { file, frame, lost_bytes: 0 })
    }

    /// Output that no frame holds, because the log could not be written.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// One read, at most one frame.
    pub fn transfer(&mut self, pipe: impl AsFd, stream: Stream) -> Transfer {
        self.frame.clear();
        self.frame.extend_from_slice(&[0; HEADER_BYTES]);
        let read = rustix::io::read(&pipe, rustix::buffer::spare_capacity(&mut self.frame));
        let length = match read {
            Ok(0) => return Transfer::End,
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Transfer::Nothing,
            Err(_) => return Transfer::End,
        };
        let header = Header { stream, payload_bytes: length as u32, unix_ns: unix_ns() };
        self.frame[..HEADER_BYTES].copy_from_slice(&header.render());
        if self.append().is_err() {
            self.lost_bytes += length as u64;
        }
        Transfer::Bytes
    }

    fn append(&self) -> Result<(), Errno> {
        let mut written = 0;
        while written < self.frame.len() {
            match retry_on_intr(|| rustix::io::write(&self.file, &self.frame[written..])) {
                Ok(count) if count > 0 => written += count,
                outcome => {
                    self.take_back(written);
                    return Err(outcome.err().unwrap_or(Errno::NOSPC));
                }
            }
        }
        Ok(())
    }

    /// A reader stops at half a frame, so none may stay before the next one.
    fn take_back(&self, written: usize) {
        if written > 0
            && let Ok(stat) = rustix::fs::fstat(&self.file)
        {
            let _ = rustix::fs::ftruncate(&self.file, stat.st_size as u64 - written as u64);
        }
    }
}

pub fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

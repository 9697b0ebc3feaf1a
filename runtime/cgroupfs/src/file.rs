//! System calls on cgroup files: whole reads into a reused buffer, single writes.
//!
//! Owns open, read and write; knows no format. Every value goes through one
//! `write` call, as the kernel takes it.

use std::path::Path;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, open, openat};
use rustix::io::{Errno, pread, read, retry_on_intr, write};

use crate::Error;

/// Text of the last file read. Grows to the longest file once and then stays.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

/// Longer than any file of a group with a handful of devices.
const FIRST_LENGTH: usize = 8 << 10;

impl Buffer {
    pub(crate) fn new() -> Buffer {
        Buffer { bytes: vec![0; FIRST_LENGTH] }
    }

    pub(crate) fn read(&mut self, path: &Path) -> Result<&str, Error> {
        self.read_at(CWD, path).map_err(|errno| Error::io("read", path, errno))
    }

    /// `None` where the kernel has no such file, or has it switched off (PSI).
    pub(crate) fn read_if_there(&mut self, path: &Path) -> Result<Option<&str>, Error> {
        match self.read_at(CWD, path) {
            Ok(text) => Ok(Some(text)),
            Err(errno) if is_absence(errno) => Ok(None),
            Err(errno) => Err(Error::io("read", path, errno)),
        }
    }

    pub(crate) fn read_at(
        &mut self,
        dir: BorrowedFd<'_>,
        path: impl rustix::path::Arg,
    ) -> Result<&str, Errno> {
        let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.read_from(&file)
    }

    /// The whole file, as it is now. cgroup files are rendered at once, for a read at
    /// their beginning anew: a read that does not fill the buffer was the last, and a
    /// second call to see the end would double the cost.
    pub(crate) fn read_from(&mut self, file: &OwnedFd) -> Result<&str, Errno> {
        let mut length = 0;
        loop {
            let wanted = self.bytes.len() - length;
            let at = length as u64;
            let got = retry_on_intr(|| pread(file, &mut self.bytes[length..], at))?;
            length += got;
            if got < wanted {
                break;
            }
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        str::from_utf8(&self.bytes[..length]).map_err(|_| Errno::ILSEQ)
    }

    /// Lines of a list, which comes in pieces: only nothing more is its end. A group
    /// whose list is its domain's has none.
    pub(crate) fn count_lines(&mut self, file: &OwnedFd) -> Result<u64, Errno> {
        let (mut lines, mut at) = (0, 0);
        loop {
            let got = match retry_on_intr(|| pread(file, &mut self.bytes[..], at)) {
                Err(Errno::OPNOTSUPP) => return Ok(lines),
                other => other?,
            };
            if got == 0 {
                return Ok(lines);
            }
            lines += self.bytes[..got].iter().filter(|byte| **byte == b'\n').count() as u64;
            at += got as u64;
        }
    }
}

pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// No such file, or a file that is switched off.
pub(crate) fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::OPNOTSUPP)
}

/// Reads to the end: `cgroup.procs` may come in pieces.
pub(crate) fn read_list(path: &Path) -> Result<String, Errno> {
    let file = open_file(path, OFlags::RDONLY)?;
    let mut bytes = Vec::with_capacity(4096);
    let mut piece = [0; 4096];
    loop {
        let got = retry_on_intr(|| read(&file, &mut piece))?;
        if got == 0 {
            return String::from_utf8(bytes).map_err(|_| Errno::ILSEQ);
        }
        bytes.extend_from_slice(&piece[..got]);
    }
}

pub(crate) fn write_value(path: &Path, value: &str) -> Result<(), Errno> {
    let file = open_file(path, OFlags::WRONLY)?;
    write_to(&file, value)
}

/// A limit's file, open both ways: old value, new value and read-back need one open.
#[derive(Debug)]
pub(crate) struct Actuator(OwnedFd);

impl Actuator {
    pub(crate) fn open(path: &Path) -> Result<Actuator, Errno> {
        open_file(path, OFlags::RDWR).map(Actuator)
    }

    /// The text now, without the final newline.
    pub(crate) fn read(&self) -> Result<String, Errno> {
        let mut bytes = vec![0; 4096];
        let mut length = 0;
        loop {
            let wanted = bytes.len() - length;
            let offset = length as u64;
            let got = retry_on_intr(|| pread(&self.0, &mut bytes[length..], offset))?;
            length += got;
            if got < wanted {
                break;
            }
            bytes.resize(bytes.len() * 2, 0);
        }
        bytes.truncate(length);
        let mut text = String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    pub(crate) fn write(&self, value: &str) -> Result<(), Errno> {
        write_to(&self.0, value)
    }
}

fn open_file(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| open(path, flags | OFlags::CLOEXEC, Mode::empty()))
}

/// An empty value is written as a newline: a write of no bytes does not reach the kernel's
/// handler.
fn write_to(file: &OwnedFd, value: &str) -> Result<(), Errno> {
    let bytes = if value.is_empty() { b"\n" } else { value.as_bytes() };
    let written = retry_on_intr(|| write(file, bytes))?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

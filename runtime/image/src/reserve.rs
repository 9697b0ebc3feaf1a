//! Room for `images.json` on a disk that is full, so that something can still be removed.
//!
//! Owns one file that means nothing. It is given up for a removal alone: what adds to a full disk
//! is to fail.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Twice as long as the file it stands for, in steps of this.
const STEP_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    pub fn new(dir: &Path) -> Reserve {
        Reserve(dir.join("reserve"))
    }

    /// Sees to it that a file of so many bytes would find room. Where there is none there is no
    /// reserve, which is no error: it is tried again with the next change.
    pub fn keep(&self, bytes: u64) {
        let wanted = (bytes * 2).div_ceil(STEP_BYTES).max(1) * STEP_BYTES;
        if fs::metadata(&self.0).is_ok_and(|there| there.len() >= wanted) {
            return;
        }
        // Not a hole: that would reserve nothing.
        let write = || File::create(&self.0)?.write_all(&vec![b'.'; wanted as usize]);
        if let Err(error) = write() {
            tracing::debug!(path = %self.0.display(), %error, "no reserve");
            let _ = fs::remove_file(&self.0);
        }
    }

    /// Whether there was one to give up.
    pub fn give_up(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}

/// Whether an operation failed for want of room.
pub(crate) fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let Error::Io { source, .. } = error else { return false };
    matches!(source.kind(), StorageFull | QuotaExceeded)
}

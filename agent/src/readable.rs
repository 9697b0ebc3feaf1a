//! The one place where tokio is handed a bare descriptor to wait for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Waits for `descriptor` (inotify, a ring buffer) to become readable.
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, names the same file as long as it lives, and is
    // owned by the AsyncFd until that has deregistered it.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

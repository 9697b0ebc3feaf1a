//! The exit file: complete or not there.
//!
//! Written to a temporary name and renamed. Not synced: a host that loses power
//! loses the container with it, and the agent reads "no exit file" as just that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tenantry_shim::protocol::ExitRecord;

pub fn write(path: &Path, record: &ExitRecord) -> Result<(), Errno> {
    let temporary = temporary_path(path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o644))?;
    let text = serde_json::to_vec(record).map_err(|_| Errno::INVAL)?;
    let written = match rustix::io::write(&file, &text) {
        Ok(written) if written < text.len() => Err(Errno::NOSPC),
        Ok(_) => rustix::fs::rename(&temporary, path),
        Err(errno) => Err(errno),
    };
    written.inspect_err(|_| {
        let _ = rustix::fs::unlink(&temporary);
    })
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    PathBuf::from(name)
}

//! Directories that last as long as one build.
//!
//! Owns their names below the builder's directory, and their end.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tenantry_image::remove_tree;

const PREFIX: &str = "build-";

static SERIAL: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    made: AtomicU64,
}

impl Scratch {
    pub(super) fn make(parent: &Path) -> io::Result<Scratch> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{PREFIX}{serial}"));
        directory(&dir)?;
        Ok(Scratch { dir, made: AtomicU64::new(0) })
    }

    /// A path in it that nothing has.
    pub fn path(&self, kind: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{kind}-{number}"))
    }

    /// A new directory in it.
    pub fn directory(&self, kind: &str) -> io::Result<PathBuf> {
        let path = self.path(kind);
        directory(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "stays until the next start");
        }
    }
}

/// Makes the parent, and removes what builds of an earlier agent left in it.
pub(super) fn clear(parent: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

//! Bounds on what an archive may make the store do.
//!
//! Owns the numbers and what they mean. Each module checks its own; going past
//! one is [`Error::Limit`] with both numbers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Far above what images need, far below what would hurt the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links in one layer, including the parent
    /// directories that it only implies.
    pub entries_per_layer: u64,
    /// Bytes of file content that one call unpacks, holes included.
    pub unpacked_bytes: u64,
    /// Bytes read from one archive after decompression, and from one layer.
    pub archive_bytes: u64,
    /// Members of an archive that holds images.
    pub archive_members: u64,
    /// Components of a path in a layer.
    pub path_depth: u64,
    /// Bytes of a path or link target, as Linux has it (`PATH_MAX`).
    pub path_bytes: u64,
    /// Bytes of one file's extended attributes and other pax records.
    pub pax_bytes: u64,
    /// Segments of one sparse file.
    pub sparse_segments: u64,
    /// Bytes of an index, manifest or image configuration.
    pub document_bytes: u64,
    /// Layers of one image; overlayfs takes 500.
    pub layers: u64,
    /// Images in one archive.
    pub images: u64,
    /// Indexes inside indexes.
    pub index_depth: u64,
}

/// What [`Error::Limit`] names as its quantity: those that were reached are counted by it, and
/// each counter is there before it is.
const QUANTITIES: [&str; 12] = [
    "bytes",
    "bytes unpacked with it",
    "depth of its path",
    "depth of nested indexes",
    "documents on the way to an image",
    "entries",
    "images",
    "layers",
    "length of a link target",
    "length of a path",
    "members",
    "size",
];

/// How often each bound was reached since the store was opened.
#[derive(Debug)]
pub(crate) struct Reached(Mutex<BTreeMap<&'static str, u64>>);

impl Default for Reached {
    fn default() -> Reached {
        Reached(Mutex::new(QUANTITIES.into_iter().map(|quantity| (quantity, 0)).collect()))
    }
}

impl Reached {
    /// Passes on what something came to, and counts it if a bound ended it.
    pub fn count<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Limit { quantity, .. }) = &result {
            *self.lock().entry(quantity).or_default() += 1;
        }
        result
    }

    pub fn read(&self) -> Vec<(&'static str, u64)> {
        self.lock().iter().map(|(quantity, times)| (*quantity, *times)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries_per_layer: 1_000_000,
            unpacked_bytes: 256 << 30,
            archive_bytes: 256 << 30,
            archive_members: 20_000,
            path_depth: 256,
            path_bytes: 4095,
            pax_bytes: 1 << 20,
            sparse_segments: 1 << 18,
            document_bytes: 4 << 20,
            layers: 500,
            images: 1000,
            index_depth: 4,
        }
    }
}

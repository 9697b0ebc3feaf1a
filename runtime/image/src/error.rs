//! What can go wrong, in words that name operation, object, value and what is allowed.
//!
//! Owns the one error type of the crate and its [`ErrorKind`], by which a caller
//! chooses a status without reading text.

use std::io;
use std::path::PathBuf;

use crate::Digest;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The name, option or archive given is wrong: tell whoever gave it (HTTP 400).
    Invalid,
    /// No such image (HTTP 404).
    NotFound,
    /// The image is in use, or the store is (HTTP 409).
    Conflict,
    /// This host failed: disk, permission, damaged store (HTTP 500).
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("image store {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },

    #[error(
        "image name `{name}`: {reason}; allowed is [HOST[:PORT]/]PATH[:TAG], PATH of lowercase \
         letters and digits separated by `.`, `_`, `__`, `-` or `/`, TAG of up to 128 letters, \
         digits, `_`, `.` or `-`"
    )]
    InvalidName { name: String, reason: String },
    #[error("digest `{text}`: allowed is sha256: and 64 lowercase hex digits")]
    InvalidDigest { text: String },
    #[error("{option} `{value}`: allowed is {allowed}")]
    InvalidOption { option: &'static str, value: String, allowed: &'static str },
    /// Docker's own words: clients' libraries know by them that it is an image that is missing.
    #[error("No such image: {name}")]
    NotFound { name: String },
    #[error("image id `{prefix}` is ambiguous: {}", candidates.join(", "))]
    Ambiguous { prefix: String, candidates: Vec<String> },
    #[error("conflict: unable to delete {image} ({force}) - {reason}")]
    InUse { image: String, force: &'static str, reason: String },
    #[error(
        "conflict: unable to remove repository reference {name:?} (must force) - {user} is \
         using its referenced image {image}"
    )]
    NameInUse { name: String, user: String, image: String },

    #[error("fetching {what}")]
    Fetch { what: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("reading {what}")]
    Read { what: String, source: io::Error },
    #[error("{what} at byte {offset}: {reason}")]
    Malformed { what: String, offset: u64, reason: String },
    #[error("{what} ends early, at byte {offset}: {reason}")]
    Truncated { what: String, offset: u64, reason: String },
    #[error("{what}: {quantity} is {value}, allowed is {allowed}")]
    Limit { what: String, quantity: &'static str, value: u64, allowed: u64 },
    #[error("{what} is compressed with {format}: allowed are plain, gzip and zstd")]
    Compression { what: String, format: &'static str },

    #[error("{layer}: entry `{entry}` leads outside of the image by `{target}`")]
    Escape { layer: String, entry: String, target: String },
    #[error("{layer}: entry `{entry}`: {reason}")]
    Refused { layer: String, entry: String, reason: String },
    #[error("{layer}: {operation} `{entry}`")]
    Unpack { layer: String, entry: String, operation: &'static str, source: io::Error },

    #[error("{layer}: {operation} `{entry}`")]
    Pack { layer: String, entry: String, operation: &'static str, source: io::Error },

    #[error("{what}: its digest is {actual}, expected is {expected}")]
    DigestMismatch { what: String, expected: Digest, actual: Digest },
    #[error("{what}: its size is {actual} bytes, its descriptor says {expected}")]
    SizeMismatch { what: String, expected: u64, actual: u64 },
    #[error("{wanted_by} wants {what}, which the archive lacks")]
    Missing { what: String, wanted_by: String },
    #[error("{what} is not valid JSON of its kind")]
    Json { what: String, source: serde_json::Error },
    #[error("{what}: {reason}")]
    Document { what: String, reason: String },
    #[error("{what} has no image for {wanted}; it has {}", available.join(", "))]
    Platform { what: String, wanted: String, available: Vec<String> },
    #[error(
        "not an image archive: allowed are an OCI layout (oci-layout, index.json) and a \
         `docker save` archive (manifest.json), plain, gzip or zstd"
    )]
    NotAnImageArchive,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { .. } | Error::Corrupt { .. } | Error::Pack { .. } | Error::Fetch { .. } => {
                ErrorKind::Internal
            }
            // What the archive asks for may be impossible; a full or failing disk,
            // or a missing right, is this host's.
            Error::Unpack { source, .. } => match source.kind() {
                io::ErrorKind::NotADirectory
                | io::ErrorKind::NotFound
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::InvalidFilename
                | io::ErrorKind::InvalidInput => ErrorKind::Invalid,
                _ => ErrorKind::Internal,
            },
            Error::Locked { .. } | Error::InUse { .. } | Error::NameInUse { .. } => {
                ErrorKind::Conflict
            }
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::InvalidName { .. }
            | Error::InvalidDigest { .. }
            | Error::InvalidOption { .. }
            | Error::Ambiguous { .. }
            | Error::Read { .. }
            | Error::Malformed { .. }
            | Error::Truncated { .. }
            | Error::Limit { .. }
            | Error::Compression { .. }
            | Error::Escape { .. }
            | Error::Refused { .. }
            | Error::DigestMismatch { .. }
            | Error::SizeMismatch { .. }
            | Error::Missing { .. }
            | Error::Json { .. }
            | Error::Document { .. }
            | Error::Platform { .. }
            | Error::NotAnImageArchive => ErrorKind::Invalid,
        }
    }

    /// For `map_err` after an operation on a file of the store.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        let path = path.into();
        move |source| Error::Io { operation, path, source: source.into() }
    }
}

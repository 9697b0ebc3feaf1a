//! What is wrong with a Dockerfile, and where.
//!
//! Owns the crate's one error type.

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A mistake in a Dockerfile or in what was given with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Docker's own words, so that whoever searches for them finds them.
    #[error("dockerfile parse error on line {line}: {reason}")]
    Parse { line: usize, reason: String },
    /// Nothing in the file is an instruction.
    #[error("the Dockerfile cannot be empty: it has no instructions")]
    Empty,
    #[error("the Dockerfile is {bytes} bytes long, allowed are {allowed}")]
    TooLong { bytes: usize, allowed: usize },
    #[error("the Dockerfile has {instructions} instructions, allowed are {allowed}")]
    TooMany { instructions: usize, allowed: usize },
    #[error("the Dockerfile is not UTF-8 text (byte {at})")]
    NotText { at: usize },
    #[error("failed to reach build target {target} in Dockerfile; it has the stages {known}")]
    NoSuchTarget { target: String, known: String },
}

impl Error {
    pub(crate) fn at(line: usize, reason: impl Into<String>) -> Error {
        Error::Parse { line, reason: reason.into() }
    }
}

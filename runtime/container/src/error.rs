//! What can go wrong with a container, by what the asker should do about it.
//!
//! Owns the one error type of this crate. The agent's API maps each variant to a
//! status code; nothing here knows what a status code is.

use std::{error::Error as StdError, io};

type Source = Box<dyn StdError + Send + Sync + 'static>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this name, id or beginning of an id.
    #[error("no such container: {reference}")]
    NotFound { reference: String },
    #[error("get {name}: no such volume")]
    NoVolume { name: String },
    /// A beginning of an id fits several containers; a longer one is needed.
    #[error("{reference} is the beginning of {matches} container ids; give more of it")]
    Ambiguous { reference: String, matches: usize },
    /// The request is right but not now: a name in use, the wrong state, a bound reached.
    #[error("{0}")]
    Conflict(String),
    /// What is named may not be used so, now or ever.
    #[error("{0}")]
    Forbidden(String),
    /// The request can never be granted as it stands.
    #[error("{field}: {value:?} is not allowed; allowed: {allowed}")]
    Invalid { field: String, value: String, allowed: String },
    /// This kernel or this version has no means for it.
    #[error("{what} is not supported: {why}")]
    Unsupported { what: String, why: String },
    /// The container's program, or that of an exec, could not be executed.
    #[error("cannot execute {program} in the container: {source}")]
    Program { program: String, source: io::Error },
    /// The image that a container is to be made from could not be resolved.
    #[error("image {reference}")]
    Image { reference: String, source: Source },
    /// A step on the host failed, and what it had begun was undone.
    #[error("{step}")]
    Failed { step: String, source: Source },
}

impl Error {
    pub(crate) fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Invalid { field: field.into(), value: value.to_string(), allowed: allowed.into() }
    }

    pub(crate) fn failed(step: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Failed { step: step.into(), source: source.into() }
    }

    /// What the network said, where a step on it failed.
    pub fn network(&self) -> Option<&tenantry_network::Error> {
        let Self::Failed { source, .. } = self else { return None };
        source.downcast_ref()
    }

    /// What a shell would exit with: 127 for a program that is not found, 126
    /// for one that cannot be executed; `None` for every other failure.
    pub fn exit_code(&self) -> Option<i32> {
        let Self::Program { source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Some(127),
            _ => Some(126),
        }
    }

    /// The message and those of its sources, for records and one-line answers.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = StdError::source(self);
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        text
    }
}

/// Failures of the shim's own words: which system call failed on what.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {source}")]
pub struct ShimFailure {
    pub operation: String,
    pub object: String,
    pub source: io::Error,
}

impl From<tenantry_shim::protocol::Failure> for Error {
    fn from(failure: tenantry_shim::protocol::Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        if failure.operation == "execve" {
            return Self::Program { program: failure.object, source };
        }
        let step = "the shim could not build the container";
        Self::failed(
            step,
            ShimFailure { operation: failure.operation, object: failure.object, source },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        for (errno, expected) in [(2, Some(127)), (20, Some(127)), (13, Some(126)), (8, Some(126))]
        {
            let failure = tenantry_shim::protocol::Failure {
                operation: "execve".into(),
                object: "/bin/x".into(),
                errno,
            };
            assert_eq!(Error::from(failure).exit_code(), expected, "errno {errno}");
        }
    }
}

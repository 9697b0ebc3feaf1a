//! What can go wrong, in words that name field, value and what is allowed.
//!
//! Callers of a runtime read its log and look for the kernel's words in it, in lower case as
//! Go has them: "no such file or directory" is exit code 127 of Podman's and of Docker's
//! client, "permission denied" 126. So [`Error::chain`] has all sources.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use tenantry_shim::protocol::Failure;

use crate::record::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{field}: {value:?} is not allowed; allowed: {allowed}")]
    Invalid { field: String, value: String, allowed: String },
    /// Right by the specification, and not to be had here.
    #[error("{field} is not supported: {why}")]
    Unsupported { field: String, why: String },
    #[error("cannot read {path}", path = path.display())]
    Document { path: PathBuf, source: serde_json::Error },
    #[error("container {0:?} does not exist")]
    NotFound(String),
    #[error("container {0:?} exists already")]
    Exists(String),
    /// "container not running" are the words that containerd looks for.
    #[error("cannot {operation} container {id:?}: container not running (it is {status})")]
    NotRunning { operation: &'static str, id: String, status: Status },
    #[error("cannot {operation} container {id:?}: it is {status}, allowed: {allowed}")]
    Status { operation: &'static str, id: String, status: Status, allowed: &'static str },
    /// The kernel's words stand in the message itself, since only here their case matters.
    #[error("cannot execute {program} in the container: {why}")]
    Program { program: String, why: String },
    #[error("hook {path}: {why}", path = path.display())]
    Hook { path: PathBuf, why: String },
    #[error("{operation} {object}")]
    Failed { operation: String, object: String, source: io::Error },
    #[error("cgroup")]
    Cgroup(#[from] tenantry_cgroupfs::Error),
    #[error("linux.resources")]
    Limits(#[from] tenantry_cgroupfs::ApplyError),
    #[error("linux.seccomp")]
    Seccomp(#[source] tenantry_container::Error),
}

impl Error {
    pub fn invalid(field: impl Into<String>, value: impl ToString, allowed: &str) -> Self {
        let (value, allowed) = (value.to_string(), allowed.to_owned());
        Self::Invalid { field: field.into(), value, allowed }
    }

    pub fn unsupported(field: impl Into<String>, why: &str) -> Self {
        Self::Unsupported { field: field.into(), why: why.to_owned() }
    }

    /// The message and those of its sources.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        text
    }
}

/// For `.map_err(failed("open", path.display()))`.
pub fn failed<E: Into<io::Error>>(
    operation: &'static str,
    object: impl std::fmt::Display,
) -> impl FnOnce(E) -> Error {
    let object = object.to_string();
    move |error| Error::Failed { operation: operation.to_owned(), object, source: error.into() }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let source = io::Error::from_raw_os_error(failure.errno);
        if failure.operation == "execve" {
            let why = source.to_string();
            // The first letter is ASCII in all of them.
            let why = format!("{}{}", why[..1].to_lowercase(), &why[1..]);
            return Self::Program { program: failure.object, why };
        }
        Self::Failed { operation: failure.operation, object: failure.object, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_in_the_words_that_callers_look_for() {
        let failure =
            Failure { operation: "execve".into(), object: "/bin/x".into(), errno: libc::ENOENT };
        let text = Error::from(failure).chain();
        assert!(text.starts_with("cannot execute /bin/x in the container: no such file"), "{text}");
    }
}

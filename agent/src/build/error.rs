//! Why a build failed.
//!
//! Owns the words: Docker's where it has some, with the Dockerfile's line in front.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Dockerfile(#[from] tenantry_build::Error),
    #[error("Cannot locate specified Dockerfile: {path}")]
    NoDockerfile { path: String },
    #[error("{file}:{line}")]
    Step { file: String, line: usize, source: StepError },
    #[error(transparent)]
    Ignore(#[from] tenantry_build::ignore::Error),
    #[error(transparent)]
    Image(#[from] tenantry_image::Error),
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("the client went away")]
    Cancelled,
    #[error("{0}")]
    Internal(String),
}

/// Why one step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// What is wrong with an instruction's value.
    #[error("{0}")]
    Instruction(String),
    #[error(transparent)]
    Copy(#[from] tenantry_build::copy::Error),
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i32 },
    #[error(transparent)]
    Image(#[from] tenantry_image::Error),
    #[error(transparent)]
    Container(#[from] tenantry_container::Error),
    #[error("{operation} {path}")]
    File { operation: &'static str, path: String, source: io::Error },
    #[error("the client went away")]
    Cancelled,
    #[error("{0}")]
    Internal(String),
}

impl StepError {
    /// For `map_err` after an operation on a file.
    pub fn file<E: Into<io::Error>>(
        operation: &'static str,
        path: impl Into<String>,
    ) -> impl FnOnce(E) -> StepError {
        let path = path.into();
        move |source| StepError::File { operation, path, source: source.into() }
    }
}

impl BuildError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Step { source: StepError::Cancelled, .. })
    }

    /// What the client exits with: the command's own code, or 1.
    pub fn code(&self) -> i32 {
        match self {
            Self::Step { source: StepError::Command { code, .. }, .. } => *code,
            _ => 1,
        }
    }

    /// All of it in one line.
    pub fn message(&self) -> String {
        crate::api::error::chain(self)
    }
}

//! What is wrong with a Compose file, and where.
//!
//! Owns the crate's one error type.

use std::fmt;
use std::sync::Arc;

pub type Result<T, E = Invalid> = std::result::Result<T, E>;

/// Where something stands. A line counts from one; zero is no line at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A mistake in a Compose file: where, in which field, and what is allowed there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{reason}", .field.as_deref().map(|field| format!("{field}: ")).unwrap_or_default())]
pub struct Invalid {
    pub place: Place,
    /// Such as `services.web.ports[0]`.
    pub field: Option<String>,
    pub reason: String,
}

impl Invalid {
    pub(crate) fn new(place: &Place, field: &str, reason: impl Into<String>) -> Invalid {
        let field = (!field.is_empty()).then(|| field.to_owned());
        Invalid { place: place.clone(), field, reason: reason.into() }
    }

    /// Of a whole file.
    pub(crate) fn file(file: &str, reason: impl Into<String>) -> Invalid {
        Invalid::new(&Place { file: file.into(), line: 0 }, "", reason)
    }
}

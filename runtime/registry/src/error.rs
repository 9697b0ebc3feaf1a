//! What can go wrong between us and a registry, in words for whoever asked.
//!
//! Owns the one error type. Addresses in it have no query: signatures stand there.

use std::time::Duration;

use hyper::StatusCode;
use url::Url;

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{registry} is no registry's address")]
    Address { registry: String },
    #[error("{} cannot be read", path.display())]
    Trust { path: std::path::PathBuf, source: Source },
    #[error("{address} cannot be reached")]
    Connect { address: String, source: Source },
    #[error("{address} is not trusted")]
    Untrusted { address: String, source: rustls::Error },
    #[error("{address} did not answer within {} s", after.as_secs())]
    Late { address: String, after: Duration },
    #[error("{what} stalled: less than {least} bytes in {} s", after.as_secs())]
    Stalled { what: String, least: u64, after: Duration },
    #[error("{what} broke off after {got} of {expected} bytes")]
    Broken { what: String, got: u64, expected: u64, source: Option<Source> },
    #[error("{address} broke off while it was written to")]
    Sending { address: String, source: Source },
    #[error("{what} is longer than the {allowed} bytes it may have")]
    TooLong { what: String, allowed: u64 },
    #[error("{what} has digest {actual}, asked for was {expected}")]
    Digest { what: String, expected: String, actual: String },
    #[error("{address} answered {status}{}", said(detail))]
    Status { address: String, status: StatusCode, detail: String, wait: Option<Duration> },
    #[error("{what} is not there{}", said(detail))]
    NotFound { what: String, detail: String },
    #[error("{registry} refuses: {}", if detail.is_empty() { "login wanted" } else { detail })]
    Denied { registry: String, detail: String },
    #[error(
        "{registry} sends us to {realm} for a token, and that is not given its password: \
         allowed are its own domain and what [registries] token_hosts names"
    )]
    Realm { registry: String, realm: String },
    #[error("{address}: {reason}")]
    Answer { address: String, reason: String },
    #[error("{address} redirects more than {allowed} times")]
    Redirects { address: String, allowed: u32 },
    #[error("{address} asks to wait {} s, allowed are {}", asked.as_secs(), allowed.as_secs())]
    Wait { address: String, asked: Duration, allowed: Duration },
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// Scheme, host, port and path.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

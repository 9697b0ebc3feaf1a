//! What can go wrong between us and a registry, in words for whoever asked.
//!
//! Owns the one error type. Addresses in it have no query: signatures stand there.

use std::time::Duration;

use hyper::StatusCode;
use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use url::Url;

pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{registry} is no registry's address")]
    Address { registry: String },
    #[error(
        "{address:?} cannot be downloaded: allowed are addresses of http and https, without a user"
    )]
    NoDownload { address: String },
    #[error("{} cannot be read", path.display())]
    Trust { path: std::path::PathBuf, source: Source },
    #[error("{address} cannot be reached")]
    Connect { address: String, source: Source },
    #[error("{address} is not trusted{}", dates(source))]
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

/// Of a certificate that is not valid by this host's clock, whichever of both is wrong.
fn dates(source: &rustls::Error) -> String {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let shown = |time: UnixTime| {
        let time = i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok());
        time.map_or_else(|| "a time out of reach".into(), |time| time.to_string())
    };
    let (was, date, now) = match source {
        rustls::Error::InvalidCertificate(ExpiredContext { time, not_after }) => {
            ("was valid until", not_after, time)
        }
        rustls::Error::InvalidCertificate(NotValidYetContext { time, not_before }) => {
            ("is valid from", not_before, time)
        }
        _ => return String::new(),
    };
    format!(
        ": its certificate {was} {}, and by this host's clock it is {}",
        shown(*date),
        shown(*now)
    )
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

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn a_certificate_out_of_time_names_its_date_and_the_clock() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let check = |source: CertificateError, expected: &str| {
            let address = "https://r/v2/".to_owned();
            let error = Error::Untrusted { address, source: source.into() };
            assert_eq!(error.to_string(), format!("https://r/v2/ is not trusted{expected}"));
        };
        check(
            CertificateError::ExpiredContext { time: at(86_400), not_after: at(3600) },
            ": its certificate was valid until 1970-01-01T01:00:00Z, and by this host's clock it is \
             1970-01-02T00:00:00Z",
        );
        check(
            CertificateError::NotValidYetContext { time: at(0), not_before: at(60) },
            ": its certificate is valid from 1970-01-01T00:01:00Z, and by this host's clock it is \
             1970-01-01T00:00:00Z",
        );
        check(CertificateError::UnknownIssuer, "");
    }
}

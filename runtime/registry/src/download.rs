//! A file from anywhere, for an import or a build: no registry, but the same patience, trust and
//! bounds.
//!
//! Owns nothing of the content: who reads it gets as many bytes as allowed, or an error. What
//! breaks off is not resumed, since nothing says that it is the same file still.

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, LAST_MODIFIED};
use hyper::{Method, Response};
use url::Url;

use crate::blob::Pace;
use crate::counts::Limit;
use crate::error::{Error, Result, shown};
use crate::registry::{Client, REDIRECTS, failure, follow, location, request};
use crate::retry::{self, Verdict};
use crate::transport::{self, Transport};

/// A file that is being fetched. Ends early when it is dropped.
#[derive(Debug)]
pub struct Download {
    /// Its connection lives in it.
    transport: Transport,
    body: Incoming,
    pace: Pace,
    what: String,
    at: u64,
    allowed: u64,
    /// How many bytes it is said to have.
    pub bytes: Option<u64>,
    /// When it is said to have been changed last, seconds since 1970.
    pub modified_unix_s: Option<u64>,
}

impl Client {
    /// Begins to fetch `address`, of `http` or `https`, of which at most so many bytes are taken.
    ///
    /// # Errors
    /// [`Error::NoDownload`] for what is no such address, and whatever a request comes to.
    pub async fn download(&self, address: &str, allowed: u64) -> Result<Download> {
        let url: Url =
            address.parse().map_err(|_| Error::NoDownload { address: address.to_owned() })?;
        let wrong = || Error::NoDownload { address: shown(&url) };
        let is_plain = url.username().is_empty() && url.password().is_none();
        let host = url.host_str().filter(|_| is_plain).ok_or_else(wrong)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let transport = self.transport(&authority)?;
        let mut failed = 0;
        let response = loop {
            let error = match get(&transport, &url).await {
                Ok(response) => break response,
                Err(error) => error,
            };
            failed += 1;
            let counters = &transport.counters;
            match retry::decide(error, failed, self.attempts(), false) {
                Verdict::After(pause) => {
                    counters.retried();
                    tokio::time::sleep(pause).await;
                }
                Verdict::Exhausted(error) => {
                    counters.reached(Limit::Attempts);
                    return Err(error);
                }
                Verdict::GiveUp(error) => {
                    counters.failed(&error);
                    return Err(error);
                }
            }
        };
        let (what, bytes) = (shown(&url), response.body().size_hint().exact());
        let modified = response.headers().get(LAST_MODIFIED);
        let modified_unix_s =
            modified.and_then(|value| retry::seconds_of(value.to_str().ok()?.trim()));
        if bytes.is_some_and(|bytes| bytes > allowed) {
            transport.counters.reached(Limit::AnswerBytes);
            return Err(Error::TooLong { what, allowed });
        }
        let pace = Pace::new(transport.patience);
        let body = response.into_body();
        Ok(Download { transport, body, pace, what, at: 0, allowed, bytes, modified_unix_s })
    }
}

/// One attempt, with all its redirects; never from TLS to none.
async fn get(transport: &Transport, url: &Url) -> Result<Response<Incoming>> {
    let mut url = url.clone();
    let mut redirects = 0;
    loop {
        let response =
            transport.send(request(Method::GET, &url, transport::empty())?, None).await?;
        let status = response.status();
        if status.is_success() {
            if let Some(encoding) = response.headers().get(CONTENT_ENCODING) {
                let reason = format!("it is encoded as {encoding:?}, which was not asked for");
                return Err(Error::Answer { address: shown(&url), reason });
            }
            return Ok(response);
        }
        if let Some(location) = location(&response).filter(|_| status.is_redirection()) {
            redirects += 1;
            if redirects > REDIRECTS {
                return Err(Error::Redirects { address: shown(&url), allowed: REDIRECTS });
            }
            url = follow(&url, location)?;
            continue;
        }
        let address = shown(&url);
        return Err(failure(transport, response, &address, &address).await);
    }
}

impl Download {
    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        let next = self.piece().await;
        if let Err(error) = &next {
            self.transport.counters.failed(error);
        }
        next.transpose()
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.pace.frame(&mut self.body, &self.what).await? {
            let frame = frame.map_err(|error| Error::Broken {
                what: self.what.clone(),
                got: self.at,
                expected: self.bytes.unwrap_or(self.at),
                source: Some(error.into()),
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.is_empty() {
                continue;
            }
            self.pace.bytes += data.len() as u64;
            self.transport.counters.fetched(data.len());
            self.at += data.len() as u64;
            if self.at > self.allowed {
                return Err(Error::TooLong { what: self.what.clone(), allowed: self.allowed });
            }
            return Ok(Some(data));
        }
        Ok(None)
    }
}

//! A blob as a stream that goes on where it broke off.
//!
//! Owns resumption and the stream's bounds: who reads it gets exactly as many bytes as the
//! manifest says, or an error. The digest is for whoever keeps the bytes to check: it
//! passes over them anyway.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::counts::Limit;
use crate::error::{Error, Result};
use crate::registry::{Call, Registry, Tries, scope};

/// Pieces that wait for their reader; each has some hundred KiB at most.
const QUEUE: usize = 32;
/// A stream that brings less in the time of patience is as good as dead.
const LEAST_BYTES: u64 = 1024;
/// What an attempt must bring to have been worth it: then failures before do not count.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Attempts for one blob, whatever they bring: each may be answered from the beginning.
const MOST_PARTS: u32 = 100;

/// A blob that is being fetched. Ends early when it is dropped.
#[derive(Debug)]
pub struct Blob {
    pieces: mpsc::Receiver<Result<Bytes>>,
}

impl Registry {
    /// Begins to fetch a blob of so many bytes.
    pub fn blob(&self, repository: &str, digest: &str, bytes: u64) -> Blob {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let fetch = Fetch {
            registry: self.clone(),
            path: format!("{repository}/blobs/{digest}"),
            what: format!("blob {digest}"),
            scopes: [scope(repository, "pull")],
            bytes,
            at: 0,
            sender,
        };
        self.0.handle.spawn(fetch.run());
        Blob { pieces }
    }
}

impl Blob {
    /// The next piece; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.pieces.recv().await
    }

    /// All of it: for blobs that are known to be small.
    pub async fn collect(mut self) -> Result<Bytes> {
        let mut content = BytesMut::new();
        while let Some(piece) = self.next().await {
            content.extend_from_slice(&piece?);
        }
        Ok(content.freeze())
    }
}

struct Fetch {
    registry: Registry,
    path: String,
    what: String,
    scopes: [String; 1],
    bytes: u64,
    /// How much the reader has been given.
    at: u64,
    sender: mpsc::Sender<Result<Bytes>>,
}

/// Whether there is more to do.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    /// Nobody reads any more.
    Unwanted,
}

impl Fetch {
    async fn run(mut self) {
        let mut tries = Tries::default();
        for _ in 0..MOST_PARTS {
            let before = self.at;
            let Err(error) = self.part().await else { return };
            if self.at - before >= PROGRESS_BYTES {
                tries.forget();
            }
            if let Err(error) = self.registry.pause(&mut tries, error).await {
                // A reader that is gone does not want to know either.
                let _ = self.sender.send(Err(error)).await;
                return;
            }
        }
        self.registry.0.transport.counters.reached(Limit::Attempts);
        let _ = self.sender.send(Err(self.broken(None))).await;
    }

    fn broken(&self, source: Option<hyper::Error>) -> Error {
        let source = source.map(Into::into);
        Error::Broken { what: self.what.clone(), got: self.at, expected: self.bytes, source }
    }

    /// One request, from where the last one ended.
    async fn part(&mut self) -> Result<Part> {
        let mut headers = Vec::new();
        if self.at > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", self.at));
            headers.extend(range.map(|range| (RANGE, range)));
        }
        let call = Call {
            method: Method::GET,
            url: self.registry.url(&self.path).await?,
            headers,
            scopes: &self.scopes,
            what: &self.what,
        };
        let response = self.registry.call(&call, || Ok(crate::transport::empty()), None).await?;
        let begins = self.begins(&response)?;
        let mut skip = self.at - begins;
        if let Some(rest) = response.body().size_hint().exact()
            && rest != self.bytes - begins
        {
            let whole = begins + rest;
            let reason = format!("{} has {whole} bytes, expected are {}", self.what, self.bytes);
            return Err(Error::Answer { address: self.registry.authority().to_owned(), reason });
        }
        let mut body = response.into_body();
        let mut pace = Pace::new(self.registry.0.transport.patience);
        while let Some(frame) = pace.frame(&mut body, &self.what).await? {
            let frame = frame.map_err(|error| self.broken(Some(error)))?;
            let Ok(mut data) = frame.into_data() else { continue };
            pace.bytes += data.len() as u64;
            self.registry.0.transport.counters.fetched(data.len());
            let skipped = skip.min(data.len() as u64);
            data.advance(skipped as usize);
            skip -= skipped;
            if self.at + data.len() as u64 > self.bytes {
                return Err(Error::TooLong { what: self.what.clone(), allowed: self.bytes });
            }
            if data.is_empty() {
                continue;
            }
            let length = data.len() as u64;
            if self.sender.send(Ok(data)).await.is_err() {
                return Ok(Part::Unwanted);
            }
            self.at += length;
        }
        if self.at < self.bytes { Err(self.broken(None)) } else { Ok(Part::Whole) }
    }

    /// The place at which an answer begins: a registry that knows no ranges sends everything.
    fn begins(&self, response: &Response<Incoming>) -> Result<u64> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(0);
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let begins = range.and_then(range_begins).filter(|begins| *begins <= self.at);
        begins.ok_or_else(|| Error::Answer {
            address: self.registry.authority().to_owned(),
            reason: format!("{} goes on at {range:?}, not at {}", self.what, self.at),
        })
    }
}

/// The first byte of `bytes 5-9/10`.
fn range_begins(text: &str) -> Option<u64> {
    text.strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

/// Sees to it that a stream brings something. Only the time that is waited for the registry
/// counts, not what the reader takes.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Duration,
    waited: Duration,
    /// To be counted up by who takes a frame.
    pub bytes: u64,
}

pub(crate) type Frame = std::result::Result<hyper::body::Frame<Bytes>, hyper::Error>;

impl Pace {
    pub fn new(patience: Duration) -> Pace {
        Pace { patience, waited: Duration::ZERO, bytes: 0 }
    }

    pub async fn frame(&mut self, body: &mut Incoming, what: &str) -> Result<Option<Frame>> {
        loop {
            if self.bytes >= LEAST_BYTES {
                (self.waited, self.bytes) = (Duration::ZERO, 0);
            }
            let since = Instant::now();
            let left = self.patience.saturating_sub(self.waited);
            let frame = tokio::time::timeout(left, body.frame()).await;
            self.waited += since.elapsed();
            match frame {
                Ok(frame) => return Ok(frame),
                Err(_) if self.bytes >= LEAST_BYTES => {}
                Err(_) => {
                    let (least, after) = (LEAST_BYTES, self.patience);
                    return Err(Error::Stalled { what: what.to_owned(), least, after });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_where_it_begins() {
        let check = |text, expected| assert_eq!(range_begins(text), expected, "{text}");
        check("bytes 5-9/10", Some(5));
        check("bytes 0-0/*", Some(0));
        check("bytes */10", None);
        check("5-9/10", None);
        check("", None);
    }
}

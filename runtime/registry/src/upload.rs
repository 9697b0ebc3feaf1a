//! A blob on its way to a registry: not at all if it is there, by a mount from another
//! repository if one has it, else in one piece, or in pieces where the registry asks for that.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
};
use hyper::{Method, Response, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::error::{Error, Result, shown};
use crate::registry::{Call, Registry, Tries, follow, scope};
use crate::transport::{self, Body};

const PIECE_BYTES: usize = 256 << 10;
/// Of a chunk, where the registry wants chunks and does not say how large.
const CHUNK_BYTES: u64 = 8 << 20;
/// A registry that wants larger ones is not obeyed.
const MOST_CHUNK_BYTES: u64 = 1 << 30;
const LEAST_CHUNK: &str = "oci-chunk-min-length";

/// What is to be there.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// `sha256:` and hex digits.
    pub digest: String,
    pub bytes: u64,
    /// Counts what was sent; begins anew with each attempt.
    pub sent: Arc<AtomicU64>,
}

/// How a blob came to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    WasThere,
    /// From this repository of the same registry.
    Mounted(String),
    Sent,
}

/// The blob's file, opened for each attempt.
pub type Open<'a> = &'a (dyn Fn() -> io::Result<std::fs::File> + Send + Sync);

impl Registry {
    /// Sees to it that `repository` has a blob. `others`: repositories of this registry that may
    /// have it.
    pub async fn push_blob(
        &self,
        repository: &str,
        blob: &Outgoing,
        others: &[String],
        open: Open<'_>,
    ) -> Result<Pushed> {
        let what = format!("blob {}", blob.digest);
        let mut scopes = vec![scope(repository, "pull,push")];
        let call = Call {
            method: Method::HEAD,
            url: self.url(&format!("{repository}/blobs/{}", blob.digest)).await?,
            headers: Vec::new(),
            scopes: &scopes,
            what: &what,
        };
        match self.persist(&call).await {
            Ok(_) => return Ok(Pushed::WasThere),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut tries = Tries::default();
        let other = others.first();
        scopes.extend(other.map(|other| scope(other, "pull")));
        let upload =
            Upload { registry: self, repository, blob, what: &what, scopes: &scopes, open };
        loop {
            match upload.attempt(other.map(String::as_str)).await {
                Ok(pushed) => return Ok(pushed),
                Err(error) => self.pause(&mut tries, error).await?,
            }
        }
    }

    /// Makes `reference`, a tag or digest, mean a manifest whose blobs are there.
    pub async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: Bytes,
    ) -> Result<()> {
        let what = format!("manifest {}/{repository}:{reference}", self.authority());
        let kind = HeaderValue::from_str(media_type).map_err(|_| Error::Answer {
            address: what.clone(),
            reason: format!("{media_type:?} is no media type"),
        })?;
        let call = Call {
            method: Method::PUT,
            url: self.url(&format!("{repository}/manifests/{reference}")).await?,
            headers: vec![(CONTENT_TYPE, kind)],
            scopes: &[scope(repository, "pull,push")],
            what: &what,
        };
        let mut tries = Tries::default();
        loop {
            match self.call(&call, || Ok(transport::whole(content.clone())), None).await {
                Ok(_) => return Ok(()),
                Err(error) => self.pause(&mut tries, error).await?,
            }
        }
    }
}

struct Upload<'u> {
    registry: &'u Registry,
    repository: &'u str,
    blob: &'u Outgoing,
    what: &'u str,
    scopes: &'u [String],
    open: Open<'u>,
}

type Headers = Vec<(HeaderName, HeaderValue)>;

impl Upload<'_> {
    async fn attempt(&self, other: Option<&str>) -> Result<Pushed> {
        self.blob.sent.store(0, Ordering::Relaxed);
        let mut url = self.registry.url(&format!("{}/blobs/uploads/", self.repository)).await?;
        if let Some(other) = other {
            url.query_pairs_mut()
                .append_pair("mount", &self.blob.digest)
                .append_pair("from", other);
        }
        let begun = self
            .send(Method::POST, url.clone(), vec![length(0)], &|| Ok(transport::empty()))
            .await?;
        if begun.status() == StatusCode::CREATED
            && let Some(other) = other
        {
            return Ok(Pushed::Mounted(other.to_owned()));
        }
        let place = self.place(&url, &begun)?;
        let least =
            begun.headers().get(LEAST_CHUNK).and_then(|value| value.to_str().ok()?.parse().ok());
        if least.is_some_and(|least: u64| least < self.blob.bytes) {
            return self.in_chunks(place, least).await;
        }
        match self.in_one(place).await {
            // Larger than what stands between us and the registry lets through.
            Err(Error::Status { status: StatusCode::PAYLOAD_TOO_LARGE, .. })
                if self.blob.bytes > CHUNK_BYTES =>
            {
                self.blob.sent.store(0, Ordering::Relaxed);
                let begun = self
                    .send(Method::POST, url.clone(), vec![length(0)], &|| Ok(transport::empty()));
                let place = self.place(&url, &begun.await?)?;
                self.in_chunks(place, None).await
            }
            other => other,
        }
    }

    async fn in_one(&self, place: Url) -> Result<Pushed> {
        let headers = vec![octets(), length(self.blob.bytes)];
        let body = || self.body(0, self.blob.bytes);
        self.send(Method::PUT, self.finished(place), headers, &body).await?;
        Ok(Pushed::Sent)
    }

    async fn in_chunks(&self, mut place: Url, least: Option<u64>) -> Result<Pushed> {
        let chunk = CHUNK_BYTES.max(least.unwrap_or(0)).min(MOST_CHUNK_BYTES);
        let mut at = 0;
        while at < self.blob.bytes {
            let end = self.blob.bytes.min(at + chunk);
            let range = HeaderValue::from_str(&format!("{at}-{}", end - 1));
            let mut headers = vec![octets(), length(end - at)];
            headers.extend(range.map(|range| (CONTENT_RANGE, range)));
            let body = || self.body(at, end - at);
            let answer = self.send(Method::PATCH, place.clone(), headers, &body).await?;
            place = self.place(&place, &answer)?;
            at = end;
        }
        let nothing = || Ok(transport::empty());
        self.send(Method::PUT, self.finished(place), vec![length(0)], &nothing).await?;
        Ok(Pushed::Sent)
    }

    fn finished(&self, mut place: Url) -> Url {
        place.query_pairs_mut().append_pair("digest", &self.blob.digest);
        place
    }

    /// Where the upload goes on.
    fn place(&self, asked: &Url, answer: &Response<Incoming>) -> Result<Url> {
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Error::Answer {
            address: shown(asked),
            reason: "it does not say where the upload goes".into(),
        })?;
        follow(asked, location)
    }

    /// Boxed, for one future type is enough and nested ones are large.
    fn send<'s>(
        &'s self,
        method: Method,
        url: Url,
        headers: Headers,
        body: &'s (dyn Fn() -> Result<Body> + Send + Sync),
    ) -> Pin<Box<dyn Future<Output = Result<Response<Incoming>>> + Send + 's>> {
        Box::pin(async move {
            let call = Call { method, url, headers, scopes: self.scopes, what: self.what };
            self.registry.call(&call, body, Some(&self.blob.sent)).await
        })
    }

    /// Some bytes of the file, counted as they go.
    fn body(&self, from: u64, bytes: u64) -> Result<Body> {
        let sending = |source: io::Error| Error::Sending {
            address: self.what.to_owned(),
            source: source.into(),
        };
        let mut file = (self.open)().map_err(sending)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(from)).map_err(sending)?;
        let sent = Arc::clone(&self.blob.sent);
        let counters = Arc::clone(&self.registry.0.transport.counters);
        sent.store(from, Ordering::Relaxed);
        let part = tokio::fs::File::from_std(file).take(bytes);
        let pieces = ReaderStream::with_capacity(part, PIECE_BYTES).map_ok(move |piece| {
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            counters.sent(piece.len());
            Frame::data(piece)
        });
        Ok(StreamBody::new(pieces).boxed_unsync())
    }
}

fn octets() -> (HeaderName, HeaderValue) {
    (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
}

fn length(bytes: u64) -> (HeaderName, HeaderValue) {
    (CONTENT_LENGTH, HeaderValue::from(bytes))
}

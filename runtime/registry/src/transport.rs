//! One request and its answer: connections, TLS, and an end to waiting.
//!
//! Owns the connection pool. Decides nothing about an answer's status.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::counts::Counters;
use crate::error::{Error, Result};
use crate::proxy::Connector;
use crate::resolve::Resolver;

/// For a connection; the kernel would try for two minutes.
const CONNECT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(15);

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

#[derive(Debug)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<Connector>, Body>,
    pub patience: Duration,
    pub counters: Arc<Counters>,
}

impl Transport {
    pub fn new(
        tls: rustls::ClientConfig,
        patience: Duration,
        proxies: Arc<Matcher>,
        counters: Arc<Counters>,
    ) -> Transport {
        let mut plain = HttpConnector::new_with_resolver(Resolver);
        plain.enforce_http(false);
        plain.set_connect_timeout(Some(CONNECT.min(patience)));
        plain.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new(plain, proxies));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Transport { client, patience, counters }
    }

    /// The answer's head. `sent` counts the request's body as it goes: while it grows, the
    /// registry is not late.
    pub async fn send(
        &self,
        request: Request<Body>,
        sent: Option<&AtomicU64>,
    ) -> Result<Response<Incoming>> {
        let address = address(request.uri());
        let mut answer = self.client.request(request);
        let mut seen = 0;
        loop {
            match tokio::time::timeout(self.patience, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(classify(address, error)),
                Err(_) => {
                    let now = sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
                    if now == seen {
                        return Err(Error::Late { address, after: self.patience });
                    }
                    seen = now;
                }
            }
        }
    }

    /// The whole body of an answer, which may have so many bytes.
    pub async fn read(
        &self,
        response: Response<Incoming>,
        what: &str,
        allowed: u64,
    ) -> Result<Bytes> {
        let mut body = response.into_body();
        let too_long = || Error::TooLong { what: what.to_owned(), allowed };
        if body.size_hint().lower() > allowed {
            return Err(too_long());
        }
        let reading = async {
            let mut content = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| Error::Broken {
                    what: what.to_owned(),
                    got: content.len() as u64,
                    expected: content.len() as u64 + body.size_hint().lower(),
                    source: Some(error.into()),
                })?;
                let Ok(data) = frame.into_data() else { continue };
                if (content.len() + data.len()) as u64 > allowed {
                    return Err(too_long());
                }
                self.counters.fetched(data.len());
                content.extend_from_slice(&data);
            }
            Ok(content.freeze())
        };
        // A document is short: it has this long as a whole.
        match tokio::time::timeout(self.patience, reading).await {
            Ok(read) => read,
            Err(_) => Err(Error::Stalled { what: what.to_owned(), least: 1, after: self.patience }),
        }
    }
}

fn address(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{authority}{}", uri.path())
}

fn classify(address: String, error: hyper_util::client::legacy::Error) -> Error {
    match tls_error(&error) {
        Some(source) => Error::Untrusted { address, source },
        None if error.is_connect() => Error::Connect { address, source: error.into() },
        None => Error::Sending { address, source: error.into() },
    }
}

/// The TLS library's error among an error's sources. An `io::Error` is asked for what it
/// holds: its `source` would be that one's source.
fn tls_error(error: &(dyn StdError + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found.clone());
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

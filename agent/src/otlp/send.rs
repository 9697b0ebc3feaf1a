//! One request to the collector at a time, over one connection that is kept. What an answer means
//! is decided by a function of its own; nothing is tried again here.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::endpoint::Endpoint;

/// For a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// More of an answer is not read.
const ANSWER_BYTES: usize = 64 << 10;
/// The longest time that a collector may ask for.
const MOST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All but so many records.
    Taken { rejected: u64, why: String },
    /// It would not take them another time either.
    Refused(String),
    /// To be tried again, not before this time if it says one.
    Later(String, Option<Duration>),
}

#[derive(Debug)]
pub struct Sender {
    endpoint: Endpoint,
    connection: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{address} cannot be connected to")]
    Connect { address: String, source: std::io::Error },
    #[error("{address} does not answer HTTP")]
    Http { address: String, source: hyper::Error },
    #[error("{address} did not answer within {} s", PATIENCE.as_secs())]
    Late { address: String },
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
}

impl Sender {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: None }
    }

    pub async fn post(&mut self, body: Bytes) -> Answer {
        let late = SendError::Late { address: self.endpoint.address.clone() };
        let outcome = tokio::time::timeout(PATIENCE, self.try_post(body)).await;
        match outcome.unwrap_or(Err(late)) {
            Ok(answer) => answer,
            Err(error) => {
                self.connection = None;
                Answer::Later(crate::api::error::chain(&error), None)
            }
        }
    }

    async fn try_post(&mut self, body: Bytes) -> Result<Answer, SendError> {
        let address = || self.endpoint.address.clone();
        let http = |source| SendError::Http { address: address(), source };
        let mut connection = match self.connection.take().filter(|it| !it.is_closed()) {
            Some(connection) => connection,
            None => {
                let stream = tenantry_registry::connect(&self.endpoint.address)
                    .await
                    .map_err(|source| SendError::Connect { address: address(), source })?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(http)?;
                // It ends with the sender, or with an error that the sender is told, too.
                tokio::spawn(connection);
                sender
            }
        };
        let request = Request::post(&self.endpoint.path)
            .header(header::HOST, &self.endpoint.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))?;
        connection.ready().await.map_err(http)?;
        let response = connection.send_request(request).await.map_err(http)?;
        let (head, body) = response.into_parts();
        // One that is too long, or broken off, says nothing: the status is what counts.
        if let Ok(body) = Limited::new(body, ANSWER_BYTES).collect().await {
            self.connection = Some(connection);
            return Ok(answer(head.status, &head.headers, &body.to_bytes()));
        }
        Ok(answer(head.status, &head.headers, b""))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    partial_success: PartialSuccess,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    /// A 64-bit number: text by the rules, but not of everybody.
    rejected_log_records: serde_json::Value,
    error_message: String,
}

/// As OTLP/HTTP has it: four statuses are worth another try, no other is.
fn answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    if status.is_success() {
        // An answer in words of another kind is a yes all the same.
        let response: Response = serde_json::from_slice(body).unwrap_or_default();
        let rejected = &response.partial_success.rejected_log_records;
        let rejected = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok());
        let why = response.partial_success.error_message;
        return Answer::Taken { rejected: rejected.unwrap_or(0), why };
    }
    let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
    let why = format!("{status} {text}").trim_end().to_owned();
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let seconds = headers.get(header::RETRY_AFTER).and_then(|it| it.to_str().ok());
            let pause = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
            Answer::Later(why, pause.map(|pause| pause.min(MOST_PAUSE)))
        }
        _ => Answer::Refused(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, retry_after: Option<&str>, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        }
        answer(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn what_was_not_taken_is_counted_from_the_answer() {
        let taken = |rejected, why: &str| Answer::Taken { rejected, why: why.into() };
        assert_eq!(answered(200, None, "{}"), taken(0, ""));
        assert_eq!(answered(200, None, ""), taken(0, ""));
        assert_eq!(answered(202, None, "thanks"), taken(0, ""));
        let partial = r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert_eq!(answered(200, None, partial), taken(3, "too old"));
        assert_eq!(answered(200, None, &partial.replace("\"3\"", "3")), taken(3, "too old"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let later = |text: &str, seconds: Option<u64>| {
            Answer::Later(text.into(), seconds.map(Duration::from_secs))
        };
        assert_eq!(answered(503, None, "busy"), later("503 Service Unavailable busy", None));
        assert_eq!(answered(429, Some("7"), ""), later("429 Too Many Requests", Some(7)));
        assert_eq!(answered(502, Some("99999"), ""), later("502 Bad Gateway", Some(300)));
        assert_eq!(answered(504, Some("soon"), ""), later("504 Gateway Timeout", None));
        let refused = |text: &str| Answer::Refused(text.into());
        assert_eq!(answered(400, None, "what?"), refused("400 Bad Request what?"));
        assert_eq!(answered(500, None, ""), refused("500 Internal Server Error"));
        assert_eq!(answered(301, None, ""), refused("301 Moved Permanently"));
    }
}

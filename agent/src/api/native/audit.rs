//! `GET /v1/audit`: lines of the chained files as they were written, chosen by time, container and
//! kind. Read while they are sent; a body that ends early ends with an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use super::events::kinds;
use crate::api::error::{ApiError, ApiResult};
use crate::audit::Filter;
use crate::audit::query::{self, MAX_LIMIT, moment};

/// Queries at a time: each holds a thread.
static ROOM: Semaphore = Semaphore::const_new(8);
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may wait for a slow reader, and how long one of them may.
const WAITING: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AuditQuery {
    since: Option<String>,
    until: Option<String>,
    container: Option<String>,
    kind: Option<String>,
    limit: Option<String>,
    after: Option<String>,
}

/// Lines of the audit file and of those that were rotated away, the oldest first.
#[utoipa::path(
    get,
    path = "/v1/audit",
    params(
        ("since" = Option<String>, Query, description = "RFC 3339, or so long ago: 90s, 15m, 1h, 2d"),
        ("until" = Option<String>, Query, description = "the same; not included"),
        ("container" = Option<String>, Query, description = "name, id or its beginning"),
        ("kind" = Option<String>, Query, description = "kinds of audit event, gap, torn, chain; comma-separated. Gaps always come along"),
        ("limit" = Option<u64>, Query, description = "1 to 100000: with `after` the next lines, else the newest"),
        ("after" = Option<u64>, Query, description = "the `seq` to begin behind")
    ),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = crate::audit::AuditEvent, description = "one a line"),
        (status = 400, body = ApiError),
        (status = 503, body = ApiError, description = "too many queries at a time")
    )
)]
pub async fn read(
    State(app): State<Shared>,
    Query(asked): Query<AuditQuery>,
) -> ApiResult<Response> {
    let query = asked.parse()?;
    let room = ROOM.try_acquire().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "8 audit queries run already")
    })?;
    let path = app.audit.path().to_path_buf();
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
    let is_whole = Arc::new(AtomicBool::new(false));
    let ended_well = Arc::clone(&is_whole);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _room = room;
        let mut piece = Vec::new();
        let send = |piece: Vec<u8>| {
            let sent = async { tokio::time::timeout(PATIENCE, sender.send(piece.into())).await };
            matches!(runtime.block_on(sent), Ok(Ok(())))
        };
        let mut is_heard = true;
        let outcome = query.run(&path, &mut |line| {
            piece.extend_from_slice(&line);
            if piece.len() >= PIECE_BYTES {
                is_heard = send(std::mem::take(&mut piece));
            }
            is_heard && !sender.is_closed()
        });
        match outcome {
            Ok(()) => ended_well.store(is_heard && send(piece), Ordering::Release),
            Err(error) => tracing::error!(path = %path.display(), %error, "audit files not read"),
        }
    });
    let end = stream::once(async move {
        match is_whole.load(Ordering::Acquire) {
            true => Ok(Bytes::new()),
            false => Err(io::Error::other("the answer is not whole")),
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok).chain(end));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

impl AuditQuery {
    fn parse(self) -> ApiResult<query::Query> {
        let now = jiff::Timestamp::now();
        let time = |field: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => moment(&text, now).map(Some).ok_or_else(|| {
                ApiError::invalid(field, text, "RFC 3339, or so long ago: 90s, 15m, 1h, 2d")
            }),
        };
        let number = |field: &str, text: Option<String>, least: u64, most: u64| match text {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
                _ => Err(ApiError::invalid(field, text, format!("{least} to {most}"))),
            },
        };
        Ok(query::Query {
            since: time("since", self.since)?,
            until: time("until", self.until)?,
            filter: Filter {
                container: self.container,
                kinds: kinds(self.kind.as_deref(), false)?,
            },
            after: number("after", self.after, 0, u64::MAX)?,
            limit: number("limit", self.limit, 1, MAX_LIMIT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: AuditQuery, field: &str, allowed: &str) {
        let error = query.parse().unwrap_err();
        assert_eq!(
            (error.field.as_deref(), error.allowed.as_deref()),
            (Some(field), Some(allowed))
        );
    }

    #[test]
    fn a_value_that_is_not_allowed_is_told_with_what_is() {
        let some = |text: &str| Some(text.to_owned());
        let moments = "RFC 3339, or so long ago: 90s, 15m, 1h, 2d";
        check(AuditQuery { since: some("soon"), ..Default::default() }, "since", moments);
        check(AuditQuery { until: some("1w"), ..Default::default() }, "until", moments);
        check(AuditQuery { limit: some("0"), ..Default::default() }, "limit", "1 to 100000");
        check(AuditQuery { limit: some("100001"), ..Default::default() }, "limit", "1 to 100000");
        let numbers = format!("0 to {}", u64::MAX);
        check(AuditQuery { after: some("-1"), ..Default::default() }, "after", &numbers);
        let kind = AuditQuery { kind: some("exec,lifecycle"), ..Default::default() };
        assert_eq!(kind.parse().unwrap_err().field.as_deref(), Some("kind"));
        let whole = AuditQuery { since: some("1h"), limit: some("5"), ..Default::default() };
        assert_eq!(whole.parse().unwrap().limit, Some(5));
    }
}

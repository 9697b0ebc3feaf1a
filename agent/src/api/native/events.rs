//! `GET /v1/events`: lifecycle, audit and governor events as server-sent events.
//!
//! An event of the audit has its place in the chain as `id`, and `Last-Event-ID` goes on behind
//! it: from the files, then live, each line once. The others have none, and neither are they in
//! the chain: the engine and the governor keep records of their own, and hand out events
//! without an account of what was lost on the way, which the chain must have. What a line's disk
//! refused comes without `id`, too.
//!
//! A reader that is too slow is told how many events it missed before it gets the next one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::LifecycleEvent;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged;

use super::Shared;
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;
use crate::audit::{Audit, AuditKind, Filter, Follower, Line, Lost, Piece, Refused};

/// A reader that hears nothing for so long gets a comment, and the id to go on behind.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Name, id or its beginning.
    container: Option<String>,
    /// A comma-separated list.
    kind: Option<String>,
    /// As the header `Last-Event-ID`, which goes before.
    since: Option<String>,
}

/// Beside the audit's.
const OTHER_KINDS: [&str; 5] = ["lifecycle", "governor", "gap", "torn", "chain"];

/// What happens to containers and in them, from now on, or behind a line of the audit's chain.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(
        ("container" = Option<String>, Query, description = "name, id or its beginning"),
        ("kind" = Option<String>, Query, description = "lifecycle, governor or a kind of audit event; comma-separated"),
        ("since" = Option<u64>, Query, description = "the audit's `seq` to go on behind"),
        ("Last-Event-ID" = Option<u64>, Header, description = "the same; goes before `since`")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = crate::audit::AuditEvent),
        (status = 400, body = ApiError),
        (status = 503, body = ApiError, description = "too many readers")
    )
)]
pub async fn events(
    State(app): State<Shared>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> ApiResult<Response> {
    let since = since(&headers, query.since.as_deref())?;
    let filter = Filter { container: query.container, kinds: kinds(query.kind.as_deref(), true)? };
    let follower = app.audit.follow(since).map_err(|refused| match refused {
        Refused::TooMany => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, refused.to_string()),
        Refused::NotYet { last } => {
            ApiError::invalid("since", since.unwrap_or_default(), format!("0 to {last}"))
        }
    })?;
    let lifecycle = BroadcastStream::new(app.engine.subscribe()).map(|event| match event {
        Ok(event) => lifecycle(&event),
        Err(Lagged(count)) => lost("lifecycle", count),
    });
    let governor = BroadcastStream::new(app.collector.governor.subscribe());
    let governor = governor.map(|event| match event {
        Ok(event) => own("governor", &now(), json!(event)),
        Err(Lagged(count)) => lost("governor", count),
    });
    let wanted = filter.clone();
    let others = stream::select(lifecycle, governor).filter_map(move |event| {
        let text = event.to_string();
        let line = as_line(&event, &text);
        std::future::ready(wanted.wants(&line).then(|| {
            let mut told = Vec::with_capacity(text.len() + 64);
            tell(&line, &mut told);
            Bytes::from(told)
        }))
    });
    let events = stream::select(others, audit(Arc::clone(&app.audit), follower, filter));
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, body).into_response())
}

/// The audit's lines, one piece for each that the follower has.
fn audit(audit: Arc<Audit>, follower: Follower, filter: Filter) -> impl Stream<Item = Bytes> {
    let mut alive = tokio::time::interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = (audit, follower, filter, alive);
    stream::unfold(state, |(audit, mut follower, filter, mut alive)| async move {
        let told = next(&audit, &mut follower, &filter, &mut alive).await;
        Some((Bytes::from(told), (audit, follower, filter, alive)))
    })
}

async fn next(
    audit: &Audit,
    follower: &mut Follower,
    filter: &Filter,
    alive: &mut Interval,
) -> Vec<u8> {
    loop {
        let piece = tokio::select! {
            piece = follower.next() => piece,
            _ = alive.tick() => {
                return format!(": nothing new\nid: {}\n\n", follower.passed()).into();
            }
        };
        let mut told = Vec::with_capacity(piece.told_bytes());
        if let Piece::Lost(Lost { count, until }) = piece {
            audit.count_stream_lost(count);
            let mut event = lost("audit", count);
            event["lost"]["until"] = json!(until);
            let text = event.to_string();
            tell(&Line { sequence: until, ..as_line(&event, &text) }, &mut told);
        }
        piece.each(|line| {
            if filter.wants(&line) {
                tell(&line, &mut told);
            }
        });
        if !told.is_empty() {
            alive.reset();
            return told;
        }
    }
}

/// As a browser's `EventSource` reads it. An event's JSON has no line break.
fn tell(line: &Line<'_>, told: &mut Vec<u8>) {
    if let Some(sequence) = line.sequence {
        told.extend_from_slice(b"id: ");
        told.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
        told.push(b'\n');
    }
    for part in [b"event: ", line.kind.as_bytes(), b"\ndata: ", line.object, b"\n\n"] {
        told.extend_from_slice(part);
    }
}

fn as_line<'a>(event: &'a Value, text: &'a str) -> Line<'a> {
    let of = |name: &str| event["container"][name].as_str().unwrap_or_default();
    Line {
        sequence: None,
        kind: event["event"]["action"].as_str().unwrap_or_default(),
        container_id: of("id"),
        container_name: of("name"),
        object: text.as_bytes(),
    }
}

fn lifecycle(event: &LifecycleEvent) -> Value {
    let told = json!({ "action": event.action.as_str(), "attributes": event.attributes });
    let mut own = own("lifecycle", &rfc3339(event.unix_ns), told);
    let image = json!({ "name": event.image });
    own["container"] = json!({ "id": event.id, "name": event.name, "image": image });
    own
}

fn lost(stream: &str, count: u64) -> Value {
    own("lost", &now(), json!({ "stream": stream, "count": count }))
}

/// An event that is in no audit file, in the same form.
fn own(kind: &str, time: &str, told: Value) -> Value {
    json!({ "event": { "action": kind }, "@timestamp": time, kind: told })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn since(headers: &HeaderMap, query: Option<&str>) -> ApiResult<Option<u64>> {
    let (field, text) = match headers.get("last-event-id") {
        Some(value) => ("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => match query {
            Some(text) => ("since", text),
            None => return Ok(None),
        },
    };
    let number =
        text.trim().parse().map_err(|_| ApiError::invalid(field, text, "a whole number"))?;
    Ok(Some(number))
}

/// `kind` of a query: a list with commas. `all`: of this stream; else of the audit's file alone.
pub(super) fn kinds(text: Option<&str>, all: bool) -> ApiResult<Vec<String>> {
    let kinds = text.unwrap_or_default().split(',').filter(|kind| !kind.is_empty());
    let others = &OTHER_KINDS[if all { 0 } else { 2 }..];
    let known = || AuditKind::ALL.iter().map(|kind| kind.as_str()).chain(others.iter().copied());
    kinds
        .map(|kind| match known().any(|known| known == kind) {
            true => Ok(kind.to_owned()),
            false => {
                let known: Vec<&str> = known().collect();
                Err(ApiError::invalid("kind", kind, known.join(", ")))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        assert_eq!(kinds(Some("exec,gap"), true).unwrap(), ["exec", "gap"]);
        assert_eq!(kinds(None, true).unwrap(), Vec::<String>::new());
        let error = kinds(Some("exec,execs"), true).unwrap_err();
        assert_eq!((error.field.as_deref(), error.value.as_deref()), (Some("kind"), Some("execs")));
        assert!(error.message.contains("exec, exit, oom"), "{}", error.message);
        assert!(kinds(Some("lifecycle"), false).is_err());
    }

    #[test]
    fn the_header_goes_before_the_query_and_neither_takes_what_is_no_number() {
        let mut headers = HeaderMap::new();
        assert_eq!(since(&headers, None).unwrap(), None);
        assert_eq!(since(&headers, Some("7")).unwrap(), Some(7));
        headers.insert("Last-Event-ID", "9".parse().unwrap());
        assert_eq!(since(&headers, Some("7")).unwrap(), Some(9));
        headers.insert("Last-Event-ID", "-1".parse().unwrap());
        let error = since(&headers, None).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("Last-Event-ID"));
        assert_eq!(
            since(&HeaderMap::new(), Some("x")).unwrap_err().field.as_deref(),
            Some("since")
        );
    }

    #[test]
    fn an_event_is_this_text() {
        let mut told = Vec::new();
        let event = lost("audit", 3);
        let text = event.to_string();
        let line = as_line(&event, &text);
        tell(&Line { sequence: Some(12), object: b"{}", ..line }, &mut told);
        tell(&Line { object: b"{\"a\":1}", ..line }, &mut told);
        let expected = "id: 12\nevent: lost\ndata: {}\n\nevent: lost\ndata: {\"a\":1}\n\n";
        assert_eq!(String::from_utf8(told).unwrap(), expected);
        assert_eq!(event["lost"], json!({ "stream": "audit", "count": 3 }));
    }
}

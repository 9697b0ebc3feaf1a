//! `GET /containers/{id}/logs`.

use std::collections::VecDeque;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tenantry_shim::log::Stream as Source;

use super::super::logs::{self, Frame, Frames};
use super::super::{Shared, is_running};
use super::attach::{ended, is_true};
use crate::api::error::{ApiError, ApiResult};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogsQuery {
    follow: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    timestamps: Option<String>,
    /// A number of lines, or `all`.
    tail: Option<String>,
    /// Unix seconds, with an optional fraction.
    since: Option<String>,
    until: Option<String>,
}

/// Which lines are wanted: values only.
#[derive(Clone, Copy, Debug)]
struct Filter {
    stdout: bool,
    stderr: bool,
    since_ns: u64,
    until_ns: u64,
}

impl Filter {
    fn wants(&self, frame: &Frame) -> bool {
        let stream = match frame.source {
            Source::Stdout => self.stdout,
            Source::Stderr => self.stderr,
        };
        stream && (self.since_ns..=self.until_ns).contains(&frame.unix_ns)
    }
}

pub async fn logs(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Response> {
    let container = app.engine.get(&id)?;
    let filter = Filter {
        stdout: is_true(query.stdout.as_deref()),
        stderr: is_true(query.stderr.as_deref()),
        since_ns: unix_ns("since", query.since.as_deref())?.unwrap_or(0),
        until_ns: unix_ns("until", query.until.as_deref())?.filter(|n| *n > 0).unwrap_or(u64::MAX),
    };
    if !filter.stdout && !filter.stderr {
        return Err(ApiError::invalid("stdout, stderr", "", "at least one of them true"));
    }
    let tail = match query.tail.as_deref() {
        None | Some("" | "all") => None,
        Some(text) => Some(
            text.parse::<usize>()
                .map_err(|_| ApiError::invalid("tail", text, "a number of lines, or \"all\""))?,
        ),
    };
    let path = container.log_path();
    let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let follow = is_true(query.follow.as_deref()) && is_running(&container);
    let ended = if follow { Some(ended(&app, &container.record.id).await) } else { None };
    let (mut earlier, mut from) = (Vec::new(), 0);
    if let Some(tail) = tail {
        earlier =
            last_lines(logs::frames(&path, 0, None).map_err(ApiError::internal)?, tail, filter)
                .await
                .map_err(ApiError::internal)?;
        from = length;
    }
    let later = match (tail, follow) {
        (Some(_), false) => futures_util::stream::empty().boxed(),
        _ => logs::frames(&path, from, ended).map_err(ApiError::internal)?,
    };
    let timestamps = is_true(query.timestamps.as_deref());
    let terminal = container.record.config.terminal.is_some();
    let render = move |frame: Frame| -> Bytes {
        if timestamps {
            let lines = logs::lines(&frame);
            lines.iter().flat_map(|line| logs::rendered(line, true, terminal)).collect()
        } else {
            logs::rendered(&frame, false, terminal)
        }
    };
    let frames = futures_util::stream::iter(earlier.into_iter().map(Ok))
        .chain(later)
        .try_filter(move |frame| std::future::ready(filter.wants(frame)))
        .map_ok(render);
    let media_type = [(CONTENT_TYPE, super::attach::media_type(terminal))];
    Ok((media_type, Body::from_stream(frames)).into_response())
}

async fn last_lines(
    mut frames: Frames,
    count: usize,
    filter: Filter,
) -> std::io::Result<Vec<Frame>> {
    let mut last = VecDeque::new();
    while let Some(frame) = frames.try_next().await? {
        if filter.wants(&frame) {
            last.extend(logs::lines(&frame));
            last.drain(..last.len().saturating_sub(count));
        }
    }
    Ok(last.into())
}

fn unix_ns(field: &str, text: Option<&str>) -> ApiResult<Option<u64>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    match (seconds.parse::<u64>(), digits.parse::<u64>()) {
        (Ok(seconds), Ok(ns)) => Ok(Some(seconds.saturating_mul(1_000_000_000).saturating_add(ns))),
        _ => Err(ApiError::invalid(field, text, "seconds since 1970, such as 1700000000.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_seconds_with_a_fraction() {
        assert_eq!(unix_ns("since", Some("12.5")).unwrap(), Some(12_500_000_000));
        assert_eq!(unix_ns("since", Some("12")).unwrap(), Some(12_000_000_000));
        assert_eq!(unix_ns("since", Some("")).unwrap(), None);
        assert!(unix_ns("since", Some("yesterday")).is_err());
    }

    #[tokio::test]
    async fn tail_counts_lines_and_not_frames() {
        let frame = |payload: &'static str| {
            Ok(Frame { source: Source::Stdout, unix_ns: 1, payload: payload.into() })
        };
        let frames = futures_util::stream::iter([frame("a\nb\nc\n"), frame("d\n")]).boxed();
        let all = Filter { stdout: true, stderr: true, since_ns: 0, until_ns: u64::MAX };
        let last = last_lines(frames, 2, all).await.unwrap();
        let texts: Vec<Bytes> = last.into_iter().map(|frame| frame.payload).collect();
        assert_eq!(texts, ["c\n", "d\n"]);
    }
}

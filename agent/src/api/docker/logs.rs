//! `GET /containers/{id}/logs`.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use tenantry_shim::log::Stream as Source;
use tokio::sync::oneshot;

use super::super::logs::{self, Frame, Last, Lines, Reader, Reading, Start};
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
    fn is_by_time(&self) -> bool {
        (self.since_ns, self.until_ns) != (0, u64::MAX)
    }

    fn wants(&self, frame: &Frame) -> bool {
        let stream = match frame.source {
            Source::Stdout => self.stdout,
            Source::Stderr => self.stderr,
        };
        stream && (self.since_ns..=self.until_ns).contains(&frame.unix_ns)
    }

    fn wanted(&self, mut lines: Vec<Frame>) -> Vec<Frame> {
        lines.retain(|line| self.wants(line));
        lines
    }
}

pub async fn logs(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Response> {
    let container = app.engine.get(&id)?;
    if container.record.config.log.discards {
        // Docker's words and status.
        let message = "configured logging driver does not support reading";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, message));
    }
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
    let follow = is_true(query.follow.as_deref()) && is_running(&container);
    let until = match follow {
        true => {
            let ended = ended(&app, &container.record.id).await;
            Some(sooner(ended, filter.until_ns))
        }
        false => None,
    };
    let reading = Reading { from: Start::Beginning, until, holds: false };
    let mut reader = Reader::open(&container.log_path(), reading).map_err(ApiError::internal)?;
    let timestamps = is_true(query.timestamps.as_deref());
    let by_line = timestamps || tail.is_some() || filter.is_by_time();
    let mut lines = by_line.then(Lines::default);
    let mut ready = VecDeque::new();
    if let (Some(tail), Some(lines)) = (tail, &mut lines) {
        let last = last_lines(&mut reader, lines, tail, filter, follow).await;
        ready = last.map_err(ApiError::internal)?;
    }
    // Without `follow` what is there now has been looked through.
    let over = tail.is_some() && !follow;
    let shown = Shown { reader, filter, lines, ready, over };
    let terminal = container.record.config.terminal.is_some();
    let frames = futures_util::stream::try_unfold(shown, |mut shown| async move {
        std::io::Result::Ok(shown.next().await?.map(|frame| (frame, shown)))
    });
    let frames = frames.map_ok(move |frame| logs::rendered(&frame, timestamps, terminal));
    let media_type = [(CONTENT_TYPE, super::attach::media_type(terminal))];
    Ok((media_type, Body::from_stream(frames)).into_response())
}

/// `ended`, or the moment `until_ns`, whichever comes first.
fn sooner(ended: oneshot::Receiver<()>, until_ns: u64) -> oneshot::Receiver<()> {
    if until_ns == u64::MAX {
        return ended;
    }
    let (sender, receiver) = oneshot::channel();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_nanos(until_ns).saturating_sub(now);
    tokio::spawn(async move {
        tokio::select! {
            _ = ended => {}
            () = tokio::time::sleep(left) => {}
        }
        let _ = sender.send(());
    });
    receiver
}

/// What one client is shown.
#[derive(Debug)]
struct Shown {
    reader: Reader,
    filter: Filter,
    /// `Some`: whole lines are wanted.
    lines: Option<Lines>,
    ready: VecDeque<Frame>,
    over: bool,
}

impl Shown {
    async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.over {
                return Ok(None);
            }
            match (self.reader.next().await?, &mut self.lines) {
                (Some(frame), Some(lines)) => {
                    self.ready.extend(self.filter.wanted(lines.push(frame)));
                }
                (Some(frame), None) if self.filter.wants(&frame) => return Ok(Some(frame)),
                (Some(_), None) => {}
                (None, lines) => {
                    let rest = lines.iter_mut().flat_map(Lines::rest).collect();
                    self.ready.extend(self.filter.wanted(rest));
                    self.over = true;
                }
            }
        }
    }
}

/// Of what is there now. A line that has not ended yet is one, unless its end is waited for.
async fn last_lines(
    reader: &mut Reader,
    lines: &mut Lines,
    count: usize,
    filter: Filter,
    follow: bool,
) -> std::io::Result<VecDeque<Frame>> {
    let mut last = Last::new(count);
    while let Some(frame) = reader.next_kept().await? {
        last.extend(filter.wanted(lines.push(frame)));
    }
    if !follow {
        last.extend(filter.wanted(lines.rest()));
    }
    Ok(last.into_lines())
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
}

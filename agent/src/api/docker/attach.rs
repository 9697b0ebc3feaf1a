//! Attach and the raw stream that it, and exec, turn the connection into.
//!
//! Docker's clients ask for `Upgrade: tcp`; the answer is 101, and from then on
//! the connection carries output one way and standard input the other. Output is
//! multiplexed frames, or just as it is from a terminal.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tenantry_container::{Action, WaitCondition};
use tokio::io::{AsyncWriteExt as _, ReadHalf};
use tokio::sync::oneshot;

use super::super::logs::{self, Reader, Reading, Start};
use super::super::{Shared, begin};
use super::terminal::{self, Keys, Left};
use crate::api::error::{ApiError, ApiResult};

pub type RawStream = TokioIo<Upgraded>;

/// Docker writes booleans as `1`, `true`, `True`, `0`, or leaves them out.
/// Between a stream's head and the stream.
const HEAD_START: Duration = Duration::from_millis(5);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AttachQuery {
    pub stdin: Option<String>,
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub stream: Option<String>,
    pub logs: Option<String>,
    #[serde(rename = "detachKeys")]
    pub detach_keys: Option<String>,
}

pub fn is_true(flag: Option<&str>) -> bool {
    matches!(flag, Some("1" | "true" | "True" | "TRUE"))
}

pub async fn attach(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<AttachQuery>,
    request: Request,
) -> ApiResult<Response> {
    let container = app.engine.get(&id)?;
    let keys = Keys::parse(query.detach_keys.as_deref())?;
    let config = &container.record.config;
    let terminal = config.terminal.is_some();
    let (response, upgrade) = upgrade(request, terminal)?;
    let earlier = is_true(query.logs.as_deref());
    let follow = is_true(query.stream.as_deref());
    let from = if earlier { Start::Beginning } else { Start::End };
    // The log must be watched before the client may start the container.
    let until = if follow { Some(ended(&app, &container.record.id).await) } else { None };
    // A client that is slower than the container holds it up, as the reader of a pipe does.
    let reading = Reading { from, until, holds: follow };
    let mut output = Reader::open(&container.log_path(), reading).map_err(ApiError::internal)?;
    let (stdout, stderr) = (is_true(query.stdout.as_deref()), is_true(query.stderr.as_deref()));
    let id = container.record.id.clone();
    let wants_stdin = is_true(query.stdin.as_deref());
    let stdin = if wants_stdin { app.engine.stdin(&id)? } else { None };
    let types = wants_stdin && terminal && config.open_stdin;
    app.engine.note(&id, Action::Attach, &[])?;
    tokio::spawn(async move {
        let Some(upgraded) = opened(upgrade).await else { return };
        let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let (leave, left) = oneshot::channel();
        if let Some(stdin) = stdin {
            tokio::spawn(feed(reader, stdin));
        } else if types {
            tokio::spawn(feed_terminal(app.clone(), id.clone(), reader, keys, leave));
        }
        let mut detached = pin!(async move {
            // Who does not leave by keys stays until the output ends.
            if left.await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        loop {
            let frame = tokio::select! {
                () = &mut detached => {
                    // It may have been removed just now.
                    let _ = app.engine.note(&id, Action::Detach, &[]);
                    break;
                }
                frame = output.next() => frame,
            };
            let Ok(Some(frame)) = frame else { break };
            let wanted = match frame.source {
                tenantry_shim::log::Stream::Stdout => stdout,
                tenantry_shim::log::Stream::Stderr => stderr,
            };
            let bytes = logs::rendered(&frame, false, terminal);
            if wanted && writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A client that left early needs no goodbye.
        let _ = writer.shutdown().await;
    });
    Ok(response)
}

/// Into the terminal of the run that is under way, or of the next. Clients attach before
/// they start a container.
async fn feed_terminal(
    app: Shared,
    id: String,
    reader: ReadHalf<RawStream>,
    keys: Keys,
    leave: oneshot::Sender<()>,
) {
    let master = match app.engine.next_terminal(&id).await {
        Ok(Some(master)) => master,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(container_id = id, error = error.chain(), "no terminal to type into");
            return;
        }
    };
    if terminal::type_into(reader, master, keys).await == Left::Detached {
        // Nobody is left to hear it if the output has ended.
        let _ = leave.send(());
    }
}

/// Resolves when the container's current or next run has ended and its log is complete.
pub async fn ended(app: &Shared, id: &str) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    let (engine, id) = (app.engine.clone(), id.to_owned());
    let exit = begin(async move { engine.wait(&id, WaitCondition::NextExit).await }).await;
    tokio::spawn(async move {
        // A container that is gone has ended as well.
        let _ = exit.await;
        let _ = sender.send(());
    });
    receiver
}

/// The 101 that turns the connection
/// into a raw stream. Clients before 2014 did not ask for it and are refused.
pub fn upgrade(mut request: Request, terminal: bool) -> ApiResult<(Response, OnUpgrade)> {
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let upgrade = hyper::upgrade::on(&mut request);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, media_type(terminal).parse().expect("a media type"));
    if !wants_upgrade {
        return Err(ApiError::invalid("Upgrade", "", "the header \"Upgrade: tcp\""));
    }
    headers.insert(CONNECTION, "Upgrade".parse().expect("a header's value"));
    headers.insert(UPGRADE, "tcp".parse().expect("a header's value"));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    Ok((response, upgrade))
}

/// The raw stream, a moment after its head was sent. Docker's library for Python reads the head
/// through a buffer and the stream past it: what came together with the head would be lost.
pub async fn opened(upgrade: OnUpgrade) -> Option<Upgraded> {
    let upgraded = upgrade.await.ok()?;
    tokio::time::sleep(HEAD_START).await;
    Some(upgraded)
}

/// What a client reads.
pub fn media_type(terminal: bool) -> &'static str {
    match terminal {
        true => "application/vnd.docker.raw-stream",
        false => "application/vnd.docker.multiplexed-stream",
    }
}

/// Copies what the client types to the container, and closes the pipe at its end.
pub async fn feed(mut reader: ReadHalf<RawStream>, stdin: OwnedFd) {
    let Ok(mut pipe) = tokio::net::unix::pipe::Sender::from_owned_fd(stdin) else { return };
    // A container that no longer reads ends the copy; that is no error.
    let _ = tokio::io::copy(&mut reader, &mut pipe).await;
}

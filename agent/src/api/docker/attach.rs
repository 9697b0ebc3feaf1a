//! Attach and the raw stream that it, and exec, turn the connection into.
//!
//! Docker's clients ask for `Upgrade: tcp`; the answer is 101, and from then on
//! the connection carries multiplexed frames one way and standard input the other.

use std::os::fd::OwnedFd;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tenantry_container::WaitCondition;
use tokio::io::{AsyncWriteExt as _, ReadHalf};
use tokio::sync::oneshot;

use super::super::{Shared, begin, logs};
use crate::api::error::{ApiError, ApiResult};

pub type RawStream = TokioIo<Upgraded>;

/// Docker writes booleans as `1`, `true`, `True`, `0`, or leaves them out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct AttachQuery {
    pub stdin: Option<String>,
    pub stdout: Option<String>,
    pub stderr: Option<String>,
    pub stream: Option<String>,
    pub logs: Option<String>,
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
    let (response, upgrade) = upgrade(request)?;
    let earlier = is_true(query.logs.as_deref());
    let follow = is_true(query.stream.as_deref());
    let path = container.log_path();
    let from = match earlier {
        true => 0,
        false => std::fs::metadata(&path).map_or(0, |metadata| metadata.len()),
    };
    // The log must be watched before the client may start the container.
    let ended = if follow { Some(ended(&app, &container.record.id).await) } else { None };
    let mut frames = logs::frames(&path, from, ended).map_err(ApiError::internal)?;
    let (stdout, stderr) = (is_true(query.stdout.as_deref()), is_true(query.stderr.as_deref()));
    let stdin = match is_true(query.stdin.as_deref()) {
        true => app.engine.stdin(&container.record.id)?,
        false => None,
    };
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        if let Some(stdin) = stdin {
            tokio::spawn(feed(reader, stdin));
        }
        while let Some(Ok(frame)) = frames.next().await {
            let wanted = match frame.source {
                tenantry_shim::log::Stream::Stdout => stdout,
                tenantry_shim::log::Stream::Stderr => stderr,
            };
            if wanted && writer.write_all(&logs::multiplexed(&frame, false)).await.is_err() {
                return;
            }
        }
        // A client that left early needs no goodbye.
        let _ = writer.shutdown().await;
    });
    Ok(response)
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
pub fn upgrade(mut request: Request) -> ApiResult<(Response, OnUpgrade)> {
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let upgrade = hyper::upgrade::on(&mut request);
    let mut headers = HeaderMap::new();
    let stream = "application/vnd.docker.multiplexed-stream".parse().expect("a media type");
    headers.insert(CONTENT_TYPE, stream);
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

/// Copies what the client types to the container, and closes the pipe at its end.
pub async fn feed(mut reader: ReadHalf<RawStream>, stdin: OwnedFd) {
    let Ok(mut pipe) = tokio::net::unix::pipe::Sender::from_owned_fd(stdin) else { return };
    // A container that no longer reads ends the copy; that is no error.
    let _ = tokio::io::copy(&mut reader, &mut pipe).await;
}

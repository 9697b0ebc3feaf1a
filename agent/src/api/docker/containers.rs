//! Container lifecycle: list, inspect, start, stop, kill, wait, update, remove.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard::models::{HostConfig, RestartPolicyNameEnum};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::{Snapshot, State as Lifecycle, WaitCondition, signals};

use super::super::{Shared, begin, is_running};
use super::attach::is_true;
use super::filters::{FilterQuery, Filters};
use super::sizes::Sizes;
use super::{create, inspect};
use crate::api::error::{ApiError, ApiResult};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    all: Option<String>,
    limit: Option<i64>,
    size: Option<String>,
    /// JSON: `{"name": ["web"], "label": ["a=b"], "status": ["exited"]}`.
    filters: Option<String>,
}

pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Vec<Value>>> {
    let allowed = ["id", "name", "label", "status", "volume", "health"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    let all = is_true(query.all.as_deref()) || !filters.of("status").is_empty();
    let mut containers = app.engine.list();
    containers.retain(|container| (all || is_running(container)) && fits(&filters, container));
    containers.sort_by_key(|container| std::cmp::Reverse(container.record.created_unix_ns));
    if let Some(limit) = query.limit.filter(|limit| *limit > 0) {
        containers.truncate(limit as usize);
    }
    let mut views: Vec<Value> =
        containers.iter().map(|container| inspect::summary(&app, container)).collect();
    if is_true(query.size.as_deref()) {
        let sizes = Sizes::new(&app);
        for (container, view) in containers.iter().zip(&mut views) {
            sizes.add(container, view).await;
        }
    }
    Ok(Json(views))
}

fn fits(filters: &Filters, container: &Snapshot) -> bool {
    let record = &container.record;
    filters.any("id", |id| record.id.starts_with(id))
        && filters.any("name", |name| record.name.contains(name.trim_start_matches('/')))
        && filters.any("status", |status| record.state_word() == status)
        && filters.any("health", |wanted| {
            let health = container.health.as_ref().filter(|_| is_running(container));
            health.map_or("none", |health| health.status.as_str()) == wanted
        })
        && filters.any("volume", |wanted| {
            let config = &record.config;
            config.volumes.iter().any(|used| used.name == wanted || used.target == wanted)
                || config.binds.iter().any(|bind| bind.target == wanted)
        })
        && filters.labels_fit(&record.config.labels)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct InspectQuery {
    size: Option<String>,
}

pub async fn inspect(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<InspectQuery>,
) -> ApiResult<Json<Value>> {
    let container = app.engine.get(&id)?;
    let mut view = inspect::inspect(&app, &container);
    if is_true(query.size.as_deref()) {
        Sizes::new(&app).add(&container, &mut view).await;
    }
    Ok(Json(view))
}

pub async fn start(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let container = app.engine.get(&id)?;
    if container.record.paused {
        let why = "cannot start a paused container, try unpause instead";
        return Err(ApiError::new(StatusCode::CONFLICT, why));
    }
    if is_running(&container) {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    let id = &container.record.id;
    let started = app.engine.start(id).await;
    // The client of `run --rm` waits until the container is gone, started or not.
    if started.is_err()
        && container.record.config.auto_remove
        && let Err(error) = app.engine.remove(id, true).await
    {
        tracing::warn!(container_id = id, error = %error.chain(), "not removed");
    }
    started?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StopQuery {
    /// Seconds before SIGKILL; -1 waits for ever.
    t: Option<i64>,
}

impl StopQuery {
    fn grace(&self) -> Option<Duration> {
        self.t.map(|seconds| u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs))
    }
}

pub async fn stop(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> ApiResult<StatusCode> {
    let container = app.engine.get(&id)?;
    if !matches!(container.record.state, Lifecycle::Running | Lifecycle::Restarting) {
        return Ok(StatusCode::NOT_MODIFIED);
    }
    app.engine.stop(&container.record.id, query.grace()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn restart(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> ApiResult<StatusCode> {
    app.engine.restart(&id, query.grace()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct KillQuery {
    signal: Option<String>,
}

pub async fn kill(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<KillQuery>,
) -> ApiResult<StatusCode> {
    let signal = query.signal.filter(|signal| !signal.is_empty());
    let signal = signals::parse_signal("signal", signal.as_deref().unwrap_or("SIGKILL"))?;
    app.engine.kill(&id, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RemoveQuery {
    force: Option<String>,
    /// Volumes that nobody named go, too.
    v: Option<String>,
    link: Option<String>,
}

pub async fn remove(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<StatusCode> {
    if is_true(query.link.as_deref()) {
        return Err(ApiError::unsupported("link", "this"));
    }
    let (force, volumes) = (is_true(query.force.as_deref()), is_true(query.v.as_deref()));
    app.engine.remove_with(&id, force, volumes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes those that neither run nor are to.
pub async fn prune(
    State(app): State<Shared>,
    Query(query): Query<FilterQuery>,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.filters.as_deref(), &["label", "label!", "until"])?;
    let until = filters.until(jiff::Timestamp::now())?;
    let sizes = Sizes::new(&app);
    let (mut removed, mut reclaimed) = (Vec::new(), 0);
    for container in app.engine.list() {
        let record = &container.record;
        let rests =
            matches!(record.state, Lifecycle::Created | Lifecycle::Exited | Lifecycle::Dead);
        let created_s = (record.created_unix_ns / 1_000_000_000) as i64;
        let fits = rests
            && filters.labels_fit(&record.config.labels)
            && until.is_none_or(|until| created_s < until);
        if !fits {
            continue;
        }
        let bytes = sizes.own_bytes(&container).await.unwrap_or(0);
        match app.engine.remove(&record.id, false).await {
            Ok(()) => {
                removed.push(record.id.clone());
                reclaimed += bytes;
            }
            // It was started, or removed, meanwhile.
            Err(error) => {
                tracing::info!(container_id = record.id, error = error.chain(), "not pruned");
            }
        }
    }
    Ok(Json(json!({ "ContainersDeleted": removed, "SpaceReclaimed": reclaimed })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WaitQuery {
    condition: Option<String>,
}

/// The head of the answer goes out at once: the client starts the container only
/// when it knows that it is waited for.
pub async fn wait(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> ApiResult<Response> {
    let condition = match query.condition.as_deref() {
        None | Some("" | "not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => {
            let allowed = "not-running, next-exit or removed";
            return Err(ApiError::invalid("condition", other, allowed));
        }
    };
    let id = app.engine.get(&id)?.record.id.clone();
    let engine = app.engine.clone();
    let waiting = begin(async move { engine.wait(&id, condition).await }).await;
    let body = futures_util::stream::once(async move {
        let answer = match waiting.await {
            Ok(status) => json!({ "StatusCode": status.code }),
            Err(error) => json!({ "StatusCode": 125, "Error": { "Message": error.chain() } }),
        };
        Ok::<_, std::io::Error>(Bytes::from(answer.to_string() + "\n"))
    });
    Ok(([("content-type", "application/json")], Body::from_stream(body)).into_response())
}

pub async fn pause(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn unpause(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.unpause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RenameQuery {
    name: String,
}

pub async fn rename(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<RenameQuery>,
) -> ApiResult<StatusCode> {
    let id = app.engine.get(&id)?.record.id.clone();
    app.engine.rename(&id, query.name.trim_start_matches('/')).await?;
    // The meters and metrics say its new name, too.
    app.introduce(&*app.engine.get(&id)?);
    Ok(StatusCode::NO_CONTENT)
}

/// `docker update`: limits and the restart policy.
pub async fn update(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Json(host): Json<HostConfig>,
) -> ApiResult<Json<Value>> {
    let policy = host.restart_policy.as_ref().and_then(|policy| policy.name);
    let policy = match policy {
        None | Some(RestartPolicyNameEnum::EMPTY) => None,
        Some(_) => Some(create::restart_policy(&host)?),
    };
    let limits = create::new_limits_of(&host)?;
    // What asks for nothing would be an event that tells of nothing.
    if !limits.is_empty() || policy.is_none() {
        app.engine.update_limits(&id, limits).await?;
    }
    if let Some(policy) = policy {
        app.engine.update_restart(&id, policy).await?;
    }
    Ok(Json(json!({ "Warnings": [] })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_grace_waits_for_ever() {
        assert_eq!(StopQuery { t: Some(-1) }.grace(), Some(Duration::MAX));
        assert_eq!(StopQuery { t: Some(3) }.grace(), Some(Duration::from_secs(3)));
        assert_eq!(StopQuery { t: None }.grace(), None);
    }
}

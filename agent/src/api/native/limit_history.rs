//! `GET /v1/containers/{id}/limits/history`: who holds which limit, and who changed it before.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Shared, throttle};
use crate::api::error::{ApiError, ApiResult};
use crate::limit_line::LimitLine;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitsHistory {
    pub container_id: String,
    pub container_name: String,
    /// Each limit that somebody set, by name.
    pub held: Vec<HeldLimit>,
    /// The last 64 changes since the agent began, the oldest first.
    pub changes: Vec<LimitLine>,
    /// Changes, of all containers, that were not kept for want of room.
    pub forgotten: u64,
}

/// One limit now. `max` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldLimit {
    /// `cpu.max` (CPUs), `cpu.weight`, `cpu.idle`, `cpuset.cpus`, `memory.max`, `memory.high`
    /// (bytes), `memory.swap.max` (with the memory itself), `pids.max`, `io.weight`,
    /// `io.max 8:0 rbps` (`wbps`, `riops`, `wiops`; a second), `net.egress`, `net.ingress` (bits a second,
    /// and behind a colon the burst in bytes where one was chosen), `net.priority` (1: last).
    pub limit: String,
    /// The operator's.
    pub wish: String,
    /// What the kernel says; absent if the container does not run, or the kernel has no such
    /// file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// `operator`, `controller`, or `other` for a value that neither has set.
    pub holder: String,
    /// Of what is held below the operator's wish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ends_in_seconds: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
}

/// Who holds which limit now, and the last changes with who made them and why.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/limits/history",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = LimitsHistory), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<LimitsHistory>> {
    let (container_id, container_name, _) = app.metered(&id)?;
    let rows = match app.foreign(&id) {
        Some(entry) => {
            let throttles = app.foreign_throttles.clone();
            let work = move || throttles.read_held(&entry.subject.cgroup);
            tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??
        }
        None => app.engine.held_limits(&id).await?,
    };
    let throttled = throttle::state(&app, &id).await?.map(|(throttled, _)| throttled);
    let held = rows.into_iter().map(|row| {
        let throttled = throttled.as_ref().filter(|_| row.throttled);
        let reason = throttled.map(|throttled| {
            let cause = throttled.causes.get(&row.limit).map(|cause| &cause.message);
            cause.unwrap_or(&throttled.reason).clone()
        });
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        HeldLimit {
            limit: row.limit,
            wish: row.wish,
            in_force: row.in_force,
            holder: row.holder.as_str().to_owned(),
            lease_ends_in_seconds: throttled.map(|held| left(held.deadline).as_secs_f64()),
            reason: reason.unwrap_or_default(),
        }
    });
    Ok(Json(LimitsHistory {
        held: held.collect(),
        changes: app
            .limit_history
            .of(&container_id)
            .iter()
            .map(|change| LimitLine::from(&**change))
            .collect(),
        forgotten: app.limit_history.counts().forgotten,
        container_id,
        container_name,
    }))
}

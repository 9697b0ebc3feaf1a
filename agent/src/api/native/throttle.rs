//! `PUT`, `GET` and `DELETE /v1/containers/{id}/throttle`: less than the limits for a while,
//! by hand. A controller takes the same way, below the operator.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use tenantry_container::{Holder, InForce, IoThrottle, Lease, Limit, Owner, Party, Throttle};

use super::Shared;
use super::limits::io_patch;
use super::model::{Applied, IoLimit, ThrottleAnswer, ThrottleRequest, Throttled, ThrottledFile};
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;

/// Holds a container below its limits until the lease ends: of each field the tighter value.
/// The same request again renews the lease. Nothing that dies keeps the container throttled.
#[utoipa::path(
    put,
    path = "/v1/containers/{id}/throttle",
    params(("id" = String, Path, description = "name, id or its beginning")),
    request_body = ThrottleRequest,
    responses(
        (status = 200, body = ThrottleAnswer),
        (status = 400, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, body = ApiError, description = "it does not run"),
        (status = 501, body = ApiError, description = "this kernel has no such limit")
    )
)]
pub async fn set(
    State(app): State<Shared>,
    Path(id): Path<String>,
    request: Result<Json<ThrottleRequest>, JsonRejection>,
) -> ApiResult<Json<ThrottleAnswer>> {
    let Json(request) = request.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let wanted = throttle(&request)?;
    if wanted.is_empty() {
        return Err(ApiError::invalid("throttle", "{}", "at least one limit; DELETE releases"));
    }
    let lease = Lease {
        time: Duration::from_secs(request.lease_seconds),
        owner: Owner::Operator,
        reason: request.reason,
        causes: BTreeMap::new(),
    };
    let applied = change(&app, &id, wanted, lease).await?;
    answer(&app, &id, applied).await
}

/// The throttle that lasts, and what the kernel says of it now.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/throttle",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = ThrottleAnswer), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<ThrottleAnswer>> {
    answer(&app, &id, Vec::new()).await
}

/// Releases the container: its limits are the operator's again. One that is not throttled is
/// left alone.
#[utoipa::path(
    delete,
    path = "/v1/containers/{id}/throttle",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = ThrottleAnswer), (status = 404, body = ApiError))
)]
pub async fn end(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<ThrottleAnswer>> {
    let lease = Lease {
        time: Duration::ZERO,
        owner: Owner::Operator,
        reason: String::new(),
        causes: BTreeMap::new(),
    };
    let applied = change(&app, &id, Throttle::default(), lease).await?;
    answer(&app, &id, applied).await
}

/// Ours or another runtime's.
async fn change(
    app: &Shared,
    id: &str,
    wanted: Throttle,
    lease: Lease,
) -> ApiResult<Vec<tenantry_container::Applied>> {
    let Some(entry) = app.foreign(id) else {
        return Ok(app.engine.throttle(id, wanted, lease).await?);
    };
    let throttles = app.foreign_throttles.clone();
    let work = move || throttles.set(&entry, wanted, lease);
    Ok(tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??)
}

pub(super) async fn state(
    app: &Shared,
    id: &str,
) -> ApiResult<Option<(tenantry_container::Throttled, Vec<InForce>)>> {
    if let Some(entry) = app.foreign(id) {
        let throttles = app.foreign_throttles.clone();
        let work = move || throttles.read_state(&entry.subject.cgroup);
        return Ok(tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??);
    }
    let Some(known) = app.engine.throttle_of(id)? else { return Ok(None) };
    Ok(Some((known, app.engine.in_force(id).await?)))
}

async fn answer(
    app: &Shared,
    id: &str,
    applied: Vec<tenantry_container::Applied>,
) -> ApiResult<Json<ThrottleAnswer>> {
    let applied = applied.into_iter().map(Applied::from).collect();
    let Some((known, files)) = state(app, id).await? else {
        return Ok(Json(ThrottleAnswer { applied, throttle: None }));
    };
    let names = |list: std::collections::BTreeSet<tenantry_container::Actuator>| {
        list.into_iter().map(|actuator| actuator.to_string()).collect()
    };
    let throttle = Throttled {
        owner: Party::from(known.owner).as_str().to_owned(),
        since: rfc3339(known.since_unix_ns),
        ends_in_seconds: known.deadline.saturating_duration_since(Instant::now()).as_secs_f64(),
        actuators: names(tenantry_container::throttle::actuators(&known.force)),
        yielded: names(known.yielded),
        reason: known.reason,
        files: files
            .into_iter()
            .map(|file| ThrottledFile {
                actuator: file.actuator.to_string(),
                path: file.path.display().to_string(),
                now: file.now,
                holder: match file.holder {
                    Holder::Throttle => "throttle",
                    Holder::Operator => "operator",
                    Holder::Other => "other",
                }
                .to_owned(),
            })
            .collect(),
    };
    Ok(Json(ThrottleAnswer { applied, throttle: Some(throttle) }))
}

fn throttle(request: &ThrottleRequest) -> ApiResult<Throttle> {
    Ok(Throttle {
        cpu_max_cores: request.cpus,
        cpu_weight: request.cpu_weight,
        cpu_idle: request.cpu_idle,
        memory_high_bytes: request.memory_high_bytes,
        io_weight: request.io_weight,
        io: request.io.iter().map(io).collect::<ApiResult<_>>()?,
        egress_bits_per_s: request.egress_bits_per_second,
        ingress_bits_per_s: request.ingress_bits_per_second,
        egress_bulk: request.egress_bulk,
    })
}

fn io(request: &IoLimit) -> ApiResult<IoThrottle> {
    let patch = io_patch(request)?;
    // To lift a limit is the operator's, and not for a while.
    let rate = |limit: Option<Limit<u64>>| match limit {
        Some(Limit::Value(rate)) => Some(rate),
        Some(Limit::Unlimited) | None => None,
    };
    Ok(IoThrottle {
        major: patch.major,
        minor: patch.minor,
        read_bytes_per_s: rate(patch.read_bytes_per_s),
        write_bytes_per_s: rate(patch.write_bytes_per_s),
        read_ops_per_s: rate(patch.read_ops_per_s),
        write_ops_per_s: rate(patch.write_ops_per_s),
    })
}

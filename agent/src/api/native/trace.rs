//! `POST`, `GET` and `DELETE /v1/containers/{id}/trace`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Shared;
use super::model::{TraceAnswer, TraceRequest, TracedCall};
use crate::api::error::{ApiError, ApiResult, chain};
use crate::api::logs::rfc3339;
use crate::trace::{StartError, Trace};

const KIND: &str = "syscalls";
const MAX_SECONDS: u64 = 3600;

/// Begins to time every system call of one container, until a lease ends.
#[utoipa::path(
    post,
    path = "/v1/containers/{id}/trace",
    params(("id" = String, Path, description = "name, id or its beginning")),
    request_body = TraceRequest,
    responses(
        (status = 200, body = TraceAnswer),
        (status = 400, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, body = ApiError, description = "traced already, or too many are")
    )
)]
pub async fn start(
    State(app): State<Shared>,
    Path(id): Path<String>,
    request: Result<Json<TraceRequest>, JsonRejection>,
) -> ApiResult<Json<TraceAnswer>> {
    let Json(request) = request.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    if let Some(unknown) = request.kinds.iter().find(|kind| *kind != KIND) {
        return Err(ApiError::invalid("kinds", unknown, KIND));
    }
    if request.kinds.is_empty() {
        return Err(ApiError::invalid("kinds", "[]", KIND));
    }
    if !(1..=MAX_SECONDS).contains(&request.seconds) {
        return Err(ApiError::invalid("seconds", request.seconds, format!("1 to {MAX_SECONDS}")));
    }
    let container = app.engine.get(&id)?;
    let record = &container.record;
    let conflict = |message: String| ApiError::new(StatusCode::CONFLICT, message);
    let slot = app.registry.slot(&record.id);
    let slot = slot.ok_or_else(|| conflict(format!("{} was never started", record.name)))?;
    let time = Duration::from_secs(request.seconds);
    let trace = app.traces.start(&record.id, &record.name, slot, time);
    let trace = trace.map_err(|error| match &error {
        StartError::Already { .. } | StartError::Full { .. } => conflict(error.to_string()),
        StartError::Kernel(_) => ApiError::internal(chain(&error)),
    })?;
    Ok(Json(answer(&trace)))
}

/// What the trace saw until now; once more after its end.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/trace",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = TraceAnswer), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<TraceAnswer>> {
    let container = app.engine.get(&id)?;
    found(app.traces.read(&container.record.id), &container.record.name)
}

/// Ends the trace now, and answers with what it saw.
#[utoipa::path(
    delete,
    path = "/v1/containers/{id}/trace",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = TraceAnswer), (status = 404, body = ApiError))
)]
pub async fn end(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<TraceAnswer>> {
    let container = app.engine.get(&id)?;
    found(app.traces.end(&container.record.id), &container.record.name)
}

fn found(trace: Option<Trace>, name: &str) -> ApiResult<Json<TraceAnswer>> {
    let why = || ApiError::new(StatusCode::NOT_FOUND, format!("{name} is not traced"));
    Ok(Json(answer(&trace.ok_or_else(why)?)))
}

fn answer(trace: &Trace) -> TraceAnswer {
    let text = |time: SystemTime| {
        rfc3339(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64)
    };
    let mut calls: Vec<TracedCall> = trace.calls.iter().map(call).collect();
    calls.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    TraceAnswer {
        id: trace.container_id.clone(),
        name: trace.name.clone(),
        kind: KIND.into(),
        running: trace.running,
        began_at: text(trace.began),
        ends_at: text(trace.ends),
        syscalls: calls,
    }
}

fn call(call: &tenantry_ebpf::TracedSyscall) -> TracedCall {
    let quantile = |q| call.latency.quantile(q).map(|duration| duration.as_nanos() as u64);
    TracedCall {
        name: tenantry_ebpf::syscall_name(call.nr)
            .map_or_else(|| format!("syscall_{}", call.nr), str::to_owned),
        calls: call.latency.count,
        errors: call.errors,
        total_ns: call.latency.sum_ns,
        p50_ns: quantile(0.5),
        p99_ns: quantile(0.99),
        max_ns: quantile(1.0),
    }
}

//! `GET` and `PATCH /v1/containers/{id}/limits`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use tenantry_container::units::{self, Device};
use tenantry_container::{IoPatch, Limit, LimitsPatch};

use super::model::{Applied, IoLimit, LimitsAnswer, LimitsRequest};
use super::{Shared, view};
use crate::api::error::{ApiError, ApiResult};

/// The limits in force.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/limits",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = LimitsAnswer), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<LimitsAnswer>> {
    app.refuse_foreign(&id)?;
    let container = app.engine.get(&id)?;
    Ok(Json(LimitsAnswer { applied: Vec::new(), limits: view::limits(&container.record.limits) }))
}

/// Changes limits while the container runs: all of them or, with an error, none.
/// Each value is written, read back and compared.
#[utoipa::path(
    patch,
    path = "/v1/containers/{id}/limits",
    params(("id" = String, Path, description = "name, id or its beginning")),
    request_body = LimitsRequest,
    responses(
        (status = 200, body = LimitsAnswer),
        (status = 400, body = ApiError),
        (status = 404, body = ApiError)
    )
)]
pub async fn change(
    State(app): State<Shared>,
    Path(id): Path<String>,
    request: Result<Json<LimitsRequest>, JsonRejection>,
) -> ApiResult<Json<LimitsAnswer>> {
    app.refuse_foreign(&id)?;
    let Json(request) = request.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let applied = app.engine.update_limits(&id, patch(&request)?).await?;
    let applied = applied.into_iter().map(Applied::from).collect();
    let container = app.engine.get(&id)?;
    Ok(Json(LimitsAnswer { applied, limits: view::limits(&container.record.limits) }))
}

impl From<tenantry_container::Applied> for Applied {
    fn from(applied: tenantry_container::Applied) -> Self {
        let tenantry_container::Applied { resource, actuator, written, read_back } = applied;
        Self { resource, actuator, written, read_back }
    }
}

fn patch(request: &LimitsRequest) -> ApiResult<LimitsPatch> {
    Ok(LimitsPatch {
        cpus: request.cpus.map(limit),
        memory_bytes: request.memory_bytes.map(limit),
        pids: request.pids.map(limit),
        egress_bits_per_s: request.egress_bits_per_second.map(limit),
        ingress_bits_per_s: request.ingress_bits_per_second.map(limit),
        egress_burst_bytes: request.egress_burst_bytes,
        ingress_burst_bytes: request.ingress_burst_bytes,
        io: request.io.iter().map(io_patch).collect::<ApiResult<_>>()?,
        ..LimitsPatch::default()
    })
}

fn limit<T>(value: Option<T>) -> Limit<T> {
    value.map_or(Limit::Unlimited, Limit::Value)
}

pub(super) fn io_patch(request: &IoLimit) -> ApiResult<IoPatch> {
    let number = |text: &str| {
        let (major, minor) = text.split_once(':')?;
        Some(Device::Number { major: major.parse().ok()?, minor: minor.parse().ok()? })
    };
    let device =
        number(&request.device).unwrap_or_else(|| Device::Path(request.device.clone().into()));
    let (major, minor) = units::read_device_number("io.device", &device)?;
    Ok(IoPatch {
        major,
        minor,
        read_bytes_per_s: request.read_bytes_per_second.map(limit),
        write_bytes_per_s: request.write_bytes_per_second.map(limit),
        read_ops_per_s: request.read_ops_per_second.map(limit),
        write_ops_per_s: request.write_ops_per_second.map(limit),
    })
}

//! `GET`, `PUT` and `DELETE /v1/containers/{id}/audit/filter`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Shared;
use super::model::AuditFilterAnswer;
use crate::api::App;
use crate::api::error::{ApiError, ApiResult, chain};
use crate::audit_filter::RawAuditFilter;

/// Which audit events a container has, chosen in the kernel.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/audit/filter",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = AuditFilterAnswer), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<AuditFilterAnswer>> {
    app.refuse_foreign(&id)?;
    let container = app.engine.get(&id)?;
    let record = &container.record;
    let own = app.registry.chosen_events(&record.id);
    answer(&app, &record.id, &record.name, own)
}

/// Chooses for one container, from now on, over its restarts and the agent's. What is absent is
/// as for all.
#[utoipa::path(
    put,
    path = "/v1/containers/{id}/audit/filter",
    params(("id" = String, Path, description = "name, id or its beginning")),
    request_body = RawAuditFilter,
    responses(
        (status = 200, body = AuditFilterAnswer),
        (status = 400, body = ApiError),
        (status = 404, body = ApiError),
        (status = 409, body = ApiError, description = "it was never started")
    )
)]
pub async fn choose(
    State(app): State<Shared>,
    Path(id): Path<String>,
    request: Result<Json<RawAuditFilter>, JsonRejection>,
) -> ApiResult<Json<AuditFilterAnswer>> {
    let Json(own) = request.map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    set(&app, &id, Some(own))
}

/// From now on the container has the events that all have.
#[utoipa::path(
    delete,
    path = "/v1/containers/{id}/audit/filter",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses(
        (status = 200, body = AuditFilterAnswer),
        (status = 404, body = ApiError),
        (status = 409, body = ApiError, description = "it was never started")
    )
)]
pub async fn end(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<AuditFilterAnswer>> {
    set(&app, &id, None)
}

fn set(app: &App, id: &str, own: Option<RawAuditFilter>) -> ApiResult<Json<AuditFilterAnswer>> {
    app.refuse_foreign(id)?;
    let container = app.engine.get(id)?;
    let record = &container.record;
    let of_all = &app.config.audit_filter;
    let filter = own.clone().unwrap_or_default().over(of_all);
    let filter = filter.map_err(|bad| ApiError::invalid(bad.field, bad.value, bad.allowed))?;
    let chosen = app.registry.choose_events(&record.id, own.clone(), &filter);
    if !chosen.map_err(|error| ApiError::internal(chain(&error)))? {
        let what = format!("{} was never started", record.name);
        return Err(ApiError::new(StatusCode::CONFLICT, what));
    }
    answer(app, &record.id, &record.name, own)
}

fn answer(
    app: &App,
    id: &str,
    name: &str,
    own: Option<RawAuditFilter>,
) -> ApiResult<Json<AuditFilterAnswer>> {
    let filter = own.clone().unwrap_or_default().over(&app.config.audit_filter);
    let filter = filter.map_err(|bad| ApiError::internal(bad.to_string()))?;
    let (id, name) = (id.to_owned(), name.to_owned());
    Ok(Json(AuditFilterAnswer { id, name, own, filter: RawAuditFilter::from(&filter) }))
}

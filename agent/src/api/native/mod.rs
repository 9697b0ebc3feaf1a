//! The native API, for what Docker has no words for: identity in the kernel,
//! live limits with proof, events with exact loss, the state of each probe.
//!
//! Served on `tenantry.sock`; whoever may open that socket may use it. The
//! OpenAPI document is made from these handlers and from [`model`].

pub mod audit;
pub mod audit_filter;
pub mod blame;
pub mod connections;
pub mod cost;
pub mod decisions;
pub mod events;
pub mod limit_history;
pub mod limits;
pub mod model;
pub mod namespaces;
pub mod profile;
pub mod rules;
pub mod throttle;
pub mod trace;
pub mod view;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use utoipa::OpenApi;

use self::model::{Container, Probe, Stats};
use super::error::{ApiError, ApiResult};
use super::{MAX_BODY_BYTES, Shared};

#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "tenantry", description = "The native API of the tenantry agent"),
    paths(
        containers,
        container,
        container_stats,
        blame::blame,
        connections::connections,
        all_stats,
        probes,
        cost::cost,
        decisions::decisions,
        decisions::stream,
        decisions::policy,
        decisions::reload,
        limits::read,
        limits::change,
        limit_history::read,
        namespaces::namespaces,
        profile::record,
        profile::read,
        profile::end,
        rules::rules,
        rules::reload,
        throttle::set,
        throttle::read,
        throttle::end,
        trace::start,
        trace::read,
        trace::end,
        events::events,
        audit::read,
        audit_filter::read,
        audit_filter::choose,
        audit_filter::end
    )
)]
struct Document;

pub fn router(app: Shared) -> Router {
    Router::new()
        .route("/v1/containers", get(containers))
        .route("/v1/containers/{id}", get(container))
        .route("/v1/containers/{id}/limits", get(limits::read).patch(limits::change))
        .route("/v1/containers/{id}/limits/history", get(limit_history::read))
        .route("/v1/containers/{id}/stats", get(container_stats))
        .route("/v1/containers/{id}/trace", get(trace::read).post(trace::start).delete(trace::end))
        .route(
            "/v1/containers/{id}/throttle",
            get(throttle::read).put(throttle::set).delete(throttle::end),
        )
        .route(
            "/v1/containers/{id}/profile",
            get(profile::read).post(profile::record).delete(profile::end),
        )
        .route(
            "/v1/containers/{id}/audit/filter",
            get(audit_filter::read).put(audit_filter::choose).delete(audit_filter::end),
        )
        .route("/v1/namespaces", get(namespaces::namespaces))
        .route("/v1/containers/{id}/connections", get(connections::connections))
        .route("/v1/decisions", get(decisions::decisions))
        .route("/v1/decisions/events", get(decisions::stream))
        .route("/v1/policy", get(decisions::policy))
        .route("/v1/policy/reload", post(decisions::reload))
        .route("/v1/rules", get(rules::rules))
        .route("/v1/rules/reload", post(rules::reload))
        .route("/v1/stats", get(all_stats))
        .route("/v1/blame", get(blame::blame))
        .route("/v1/events", get(events::events))
        .route("/v1/audit", get(audit::read))
        .route("/v1/probes", get(probes))
        .route("/v1/probes/cost", get(cost::cost))
        .route("/v1/openapi.json", get(openapi))
        .fallback(not_served)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

/// The document as served; also what its golden test compares.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

async fn not_served(request: axum::extract::Request) -> ApiError {
    let what = format!("{} {} is not part of this API", request.method(), request.uri().path());
    ApiError::new(axum::http::StatusCode::NOT_FOUND, what)
}

/// All containers, running or not, and those of other runtimes that run.
#[utoipa::path(get, path = "/v1/containers", responses((status = 200, body = Vec<Container>)))]
async fn containers(State(app): State<Shared>) -> Json<Vec<Container>> {
    let snapshots = app.engine.list();
    let ours = snapshots.iter().map(|container| view::container(&app, container));
    let others = app.registry.foreign().map(|foreign| foreign.list()).unwrap_or_default();
    let mut all: Vec<Container> = ours.chain(others.iter().map(view::foreign)).collect();
    all.sort_by(|a, b| (a.runtime, &a.name).cmp(&(b.runtime, &b.name)));
    Json(all)
}

/// One container, by name, id or the beginning of its id.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = Container), (status = 404, body = ApiError))
)]
async fn container(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<Container>> {
    match app.engine.get(&id) {
        Ok(container) => Ok(Json(view::container(&app, &container))),
        Err(error) => match app.foreign(&id) {
            Some(entry) => Ok(Json(view::foreign(&entry))),
            None => Err(error.into()),
        },
    }
}

/// What one container used: raw counters.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/stats",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = Stats), (status = 404, body = ApiError))
)]
async fn container_stats(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<Stats>> {
    let (id, _, _) = app.metered(&id)?;
    let report = app.collector.collect().await;
    let reason = || ApiError::new(axum::http::StatusCode::NOT_FOUND, "the container is gone");
    let container = report.containers.iter().find(|container| container.id == id);
    Ok(Json(view::stats(container.ok_or_else(reason)?)))
}

/// What each running container used: raw counters.
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = Vec<Stats>)))]
async fn all_stats(State(app): State<Shared>) -> Json<Vec<Stats>> {
    let report = app.collector.collect().await;
    let running = report.containers.iter().filter(|container| container.running);
    Json(running.map(view::stats).collect())
}

/// Each kernel probe and whether it runs.
#[utoipa::path(get, path = "/v1/probes", responses((status = 200, body = Vec<Probe>)))]
async fn probes(State(app): State<Shared>) -> Json<Vec<Probe>> {
    Json(app.meters.probes().iter().map(view::probe).collect())
}

#[cfg(test)]
mod tests {
    /// A change of the interface is a change of this file, seen in review.
    #[test]
    fn the_openapi_document_is_the_golden_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/native/openapi.json");
        let document = super::document().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &document).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        assert!(document == golden, "changed: look at it, then run with UPDATE_GOLDEN=1");
    }
}

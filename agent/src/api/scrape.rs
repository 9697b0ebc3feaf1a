//! The TCP port: `/metrics` for Prometheus, `/live` and `/ready` for whoever
//! watches the agent. Read-only; nothing that changes state is served here.

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tenantry_ebpf::ProbeStatus;

use super::{Shared, pieces};
use crate::metrics::{self, Format};

pub fn router(app: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(scrape))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .with_state(app)
}

async fn index() -> impl IntoResponse {
    let page = "<!doctype html><title>tenantry</title><h1>tenantry</h1>\
        <p><a href=\"/metrics\">/metrics</a> <a href=\"/live\">/live</a> <a href=\"/ready\">/ready</a>";
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page)
}

async fn scrape(State(app): State<Shared>, headers: HeaderMap) -> Response {
    let format = Format::from_accept(headers.get(ACCEPT).and_then(|value| value.to_str().ok()));
    let report = app.collector.collect().await.after_linger(app.config.linger);
    let body = pieces::body(move |take| metrics::encode_in_pieces(&report, format, &app.cap, take));
    ([(CONTENT_TYPE, format.content_type())], body).into_response()
}

/// Ready: the sockets are served, and no probe failed where the kernel supports it.
async fn ready(State(app): State<Shared>) -> Response {
    let failed: Vec<String> = app
        .meters
        .probes()
        .iter()
        .filter(|probe| matches!(probe.status, ProbeStatus::Failed(_)))
        .map(|probe| probe.name.to_string())
        .collect();
    if failed.is_empty() {
        return "ready\n".into_response();
    }
    let reason = format!("probes failed: {}\n", failed.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

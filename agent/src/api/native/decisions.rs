//! `GET /v1/decisions`, as a list and as a stream, and `/v1/policy`.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged;

use super::Shared;
use super::model::{Decision, PolicyAnswer};
use crate::api::error::{ApiError, ApiResult, chain};
use crate::controller::{Controller, Told};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsQuery {
    limit: Option<usize>,
}

/// What the controller decided last and why, the oldest first.
#[utoipa::path(
    get,
    path = "/v1/decisions",
    params(("limit" = Option<usize>, Query, description = "1 to 1024, without it 100")),
    responses((status = 200, body = Vec<Decision>), (status = 400, body = ApiError))
)]
pub async fn decisions(
    State(app): State<Shared>,
    Query(query): Query<DecisionsQuery>,
) -> ApiResult<Json<Vec<Decision>>> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::invalid("limit", limit, format!("1 to {MAX_LIMIT}")));
    }
    Ok(Json(app.controller.decisions(limit).iter().map(Decision::from).collect()))
}

/// The decisions from now on. Who is too slow is told how many were missed.
#[utoipa::path(
    get,
    path = "/v1/decisions/events",
    responses((status = 200, content_type = "text/event-stream", body = Decision))
)]
pub async fn stream(
    State(app): State<Shared>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = BroadcastStream::new(app.controller.subscribe()).map(|told| {
        Ok(match told {
            Ok(told) => data("decision", &Decision::from(&told)),
            Err(Lagged(count)) => data("lost", &serde_json::json!({ "count": count })),
        })
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn data(kind: &str, value: &impl serde::Serialize) -> Event {
    // Plain data always serializes.
    Event::default().event(kind).data(serde_json::to_string(value).unwrap_or_default())
}

/// The policy in force, defaults filled in.
#[utoipa::path(get, path = "/v1/policy", responses((status = 200, body = PolicyAnswer)))]
pub async fn policy(State(app): State<Shared>) -> Json<PolicyAnswer> {
    Json(policy_answer(&app.controller))
}

/// Reads the policy file again, as SIGHUP does. A wrong file changes nothing.
#[utoipa::path(
    post,
    path = "/v1/policy/reload",
    responses((status = 200, body = PolicyAnswer), (status = 400, body = ApiError))
)]
pub async fn reload(State(app): State<Shared>) -> ApiResult<Json<PolicyAnswer>> {
    let refused = |error| ApiError::new(StatusCode::BAD_REQUEST, chain(&error));
    app.controller.reload().map_err(refused)?;
    Ok(Json(policy_answer(&app.controller)))
}

fn policy_answer(controller: &Controller) -> PolicyAnswer {
    PolicyAnswer {
        file: controller.policy_file().map(|path| path.display().to_string()),
        policy: serde_json::to_value(&*controller.policy()).unwrap_or_default(),
    }
}

impl From<&Told> for Decision {
    fn from(told: &Told) -> Self {
        let decision = &told.decision;
        // Words in JSON are strings; what is none stays empty.
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let json = |value| serde_json::to_value(value).unwrap_or_default();
        Self {
            time: told.time.clone(),
            message: told.message.clone(),
            kind: word(serde_json::to_value(decision.kind).unwrap_or_default()),
            mode: decision.mode.as_str().to_owned(),
            container_id: decision.container.clone(),
            container_name: decision.name.clone(),
            resource: decision.resource.as_str().to_owned(),
            actuator: decision.actuator.map(|actuator| actuator.to_string()),
            before: decision.before,
            after: decision.after,
            victim_id: decision.victim.clone(),
            victim_name: decision.victim_name.clone(),
            reason: word(serde_json::to_value(decision.reason).unwrap_or_default()),
            evidence: json(&decision.evidence),
        }
    }
}

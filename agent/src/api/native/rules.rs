//! `/v1/rules`: the audit rules in force, what they matched, and reading them again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use crate::api::error::{ApiError, ApiResult, chain};
use crate::rules::Rules;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RulesAnswer {
    /// Whether the default set is among them.
    pub default: bool,
    pub files: Vec<String>,
    pub rules: Vec<RuleAnswer>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RuleAnswer {
    pub name: String,
    pub description: String,
    /// info, notice, warning or critical.
    pub severity: String,
    /// The kinds of events that it looks at.
    pub kinds: Vec<String>,
    pub condition: String,
    /// Alerts about each container within `rate_window_seconds`; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_window_seconds: Option<u64>,
    pub enabled: bool,
    pub tags: Vec<String>,
    /// That it was read from; `default.toml` is the set that the agent brings.
    pub file: String,
    pub matches: u64,
    /// Of those, how many alerts the rate held back.
    pub suppressed: u64,
}

/// The audit rules in force and what they matched.
#[utoipa::path(get, path = "/v1/rules", responses((status = 200, body = RulesAnswer)))]
pub async fn rules(State(app): State<Shared>) -> Json<RulesAnswer> {
    Json(answer(&app.rules))
}

/// Reads the rule files again, as SIGHUP does. Wrong files change nothing, and the error has
/// a line for each problem: file, line, column, reason.
#[utoipa::path(
    post,
    path = "/v1/rules/reload",
    responses((status = 200, body = RulesAnswer), (status = 400, body = ApiError))
)]
pub async fn reload(State(app): State<Shared>) -> ApiResult<Json<RulesAnswer>> {
    let refused = |error| ApiError::new(StatusCode::BAD_REQUEST, chain(&error));
    app.rules.reload().map_err(refused)?;
    Ok(Json(answer(&app.rules)))
}

fn answer(rules: &Rules) -> RulesAnswer {
    let settings = rules.settings();
    let list = rules.list().into_iter().map(|(rule, count)| RuleAnswer {
        kinds: rule.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
        name: rule.name,
        description: rule.description,
        severity: rule.severity.as_str().to_owned(),
        condition: rule.condition,
        rate: rule.rate.map(|rate| rate.most),
        rate_window_seconds: rule.rate.map(|rate| rate.window_s),
        enabled: rule.enabled,
        tags: rule.tags,
        file: rule.file,
        matches: count.matches,
        suppressed: count.suppressed,
    });
    RulesAnswer {
        default: settings.default,
        files: settings.files.iter().map(|path| path.display().to_string()).collect(),
        rules: list.collect(),
    }
}

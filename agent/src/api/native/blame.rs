//! Who kept whom waiting, within the last seconds.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use crate::api::error::{ApiError, ApiResult, chain};
use crate::blame::{Row, Verdict, Who, Window, verdicts};
use crate::duration;

const ALLOWED: &str = "a time from 1s to 120s, such as 10s";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlameQuery {
    window: Option<String>,
}

/// All rows of a victim and a resource together are its whole wait for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Blame {
    /// The window's real length: less than asked for while the agent is young.
    pub seconds: f64,
    /// Longest wait first.
    pub waits: Vec<Wait>,
    /// Who is to be named, the worst first.
    pub culprits: Vec<CulpritFound>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    pub victim_id: String,
    pub victim: String,
    /// container; self: the victim's own threads or requests; host: what is in no container, or
    /// an idle device; quota: its own limit; steal: the hypervisor; unexplained.
    pub culprit_kind: String,
    /// Of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub culprit_id: Option<String>,
    /// The container's name, or the kind.
    pub culprit: String,
    /// cpu, disk, memory or network.
    pub resource: String,
    /// Within the window; threads that wait side by side add up.
    pub seconds: f64,
    /// Of the window's length.
    pub ratio: f64,
}

/// One container keeps another one waiting: it did more than all other containers together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CulpritFound {
    pub victim_id: String,
    pub victim: String,
    pub culprit_id: String,
    pub culprit: String,
    pub resource: String,
    /// Of the window's length.
    pub ratio: f64,
    /// Of what all other containers together did to the victim.
    pub of_neighbours: f64,
}

/// Who kept whom waiting within the last seconds, and for what.
#[utoipa::path(
    get,
    path = "/v1/blame",
    params(("window" = Option<String>, Query, description = "how far back: 1s to 120s; 10s if absent")),
    responses((status = 200, body = Blame), (status = 400, body = ApiError))
)]
pub async fn blame(
    State(app): State<Shared>,
    Query(query): Query<BlameQuery>,
) -> ApiResult<Json<Blame>> {
    let length = parse_window(query.window.as_deref().unwrap_or("10s"))?;
    let window =
        app.collector.blames.window(length).map_err(|error| ApiError::internal(chain(&error)))?;
    Ok(Json(describe(&window)))
}

fn parse_window(text: &str) -> ApiResult<Duration> {
    duration::parse(text)
        .filter(|length| (Duration::from_secs(1)..=Duration::from_secs(120)).contains(length))
        .ok_or_else(|| ApiError::invalid("window", text, ALLOWED))
}

fn describe(window: &Window) -> Blame {
    let ratio = |seconds: f64| if window.seconds > 0.0 { seconds / window.seconds } else { 0.0 };
    let wait = |Row { victim, culprit, resource, seconds }: &Row| {
        let container = match culprit {
            Who::Container(party) => Some(party),
            _ => None,
        };
        let kind = culprit.kind();
        Wait {
            victim_id: victim.id.clone(),
            victim: victim.name.clone(),
            culprit_kind: kind.into(),
            culprit_id: container.map(|party| party.id.clone()),
            culprit: container.map_or_else(|| kind.into(), |party| party.name.clone()),
            resource: resource.as_str().into(),
            seconds: *seconds,
            ratio: ratio(*seconds),
        }
    };
    let found = |one: Verdict| CulpritFound {
        victim_id: one.victim.id.clone(),
        victim: one.victim.name.clone(),
        culprit_id: one.culprit.id.clone(),
        culprit: one.culprit.name.clone(),
        resource: one.resource.as_str().into(),
        ratio: one.seconds_per_second,
        of_neighbours: one.of_neighbours,
    };
    Blame {
        seconds: window.seconds,
        waits: window.rows.iter().map(wait).collect(),
        culprits: verdicts(window).into_iter().map(found).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blame::{Party, Resource};

    #[test]
    fn windows_are_times_within_what_is_kept() {
        for (text, seconds) in [("10s", Some(10)), ("2m", Some(120)), ("1", Some(1))] {
            let parsed = parse_window(text).ok().map(|length| length.as_secs());
            assert_eq!(parsed, seconds, "{text}");
        }
        for text in ["", "0s", "121s", "-1s", "ten", "1h", "NaN", "inf"] {
            let error = parse_window(text).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("window"), "{text}");
            assert!(error.message.contains("1s to 120s"), "{}", error.message);
        }
    }

    #[test]
    fn shares_are_of_the_real_window() {
        let party = |name: &str| Arc::new(Party { id: format!("{name}1"), name: name.into() });
        let row = |culprit, seconds| Row {
            victim: party("web"),
            culprit,
            resource: Resource::Cpu,
            seconds,
        };
        let rows = vec![row(Who::Container(party("batch")), 2.0), row(Who::Steal, 1.0)];
        let blame = describe(&Window { seconds: 4.0, rows });
        let first = &blame.waits[0];
        assert_eq!((first.culprit_id.as_deref(), first.ratio), (Some("batch1"), 0.5));
        let second = &blame.waits[1];
        assert_eq!((second.culprit.as_str(), &second.culprit_id), ("steal", &None));
        assert_eq!((blame.culprits.len(), blame.culprits[0].culprit.as_str()), (1, "batch"));
        assert_eq!(describe(&Window::default()), Blame::default());
    }
}

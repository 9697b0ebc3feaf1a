//! `GET /v1/events`: lifecycle, exec, exit and limit events as server-sent events.
//!
//! A reader that is too slow for its backlog is told how many events it missed,
//! per stream, before it gets the next one.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::LifecycleEvent;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged;

use super::Shared;
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Name, id or its beginning.
    container: Option<String>,
    /// A comma-separated list of lifecycle, exec, exit, oom, limit, governor.
    kind: Option<String>,
}

const KINDS: [&str; 6] = ["lifecycle", "exec", "exit", "oom", "limit", "governor"];

/// What happens to containers and in them, from now on.
#[utoipa::path(
    get,
    path = "/v1/events",
    params(
        ("container" = Option<String>, Query, description = "name, id or its beginning"),
        ("kind" = Option<String>, Query, description = "lifecycle, exec, exit, oom, limit, governor; comma-separated")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = crate::audit::AuditEvent),
        (status = 400, body = ApiError)
    )
)]
pub async fn events(
    State(app): State<Shared>,
    Query(query): Query<EventsQuery>,
) -> ApiResult<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let filter = Filter::parse(query)?;
    let lifecycle = BroadcastStream::new(app.engine.subscribe()).map(|event| match event {
        Ok(event) => lifecycle(&event),
        Err(Lagged(count)) => lost("lifecycle", count),
    });
    let audit = Arc::clone(&app.audit);
    let kernel = BroadcastStream::new(audit.subscribe()).map(move |event| match event {
        Ok(event) => serde_json::to_value(&*event).unwrap_or_default(),
        Err(Lagged(count)) => {
            audit.count_stream_lost(count);
            lost("exec, exit, oom, limit", count)
        }
    });
    let governor = BroadcastStream::new(app.collector.governor.subscribe());
    let governor = governor.map(|event| match event {
        Ok(event) => own("governor", &now(), json!(event)),
        Err(Lagged(count)) => lost("governor", count),
    });
    let rare = futures_util::stream::select(lifecycle, governor);
    let events = futures_util::stream::select(rare, kernel)
        .filter(move |event| std::future::ready(filter.wants(event)))
        .map(|event| {
            let kind = kind(&event).to_owned();
            Ok(Event::default().event(kind).data(event.to_string()))
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn lifecycle(event: &LifecycleEvent) -> Value {
    let told = json!({ "action": event.action.as_str(), "attributes": event.attributes });
    let mut own = own("lifecycle", &rfc3339(event.unix_ns), told);
    let image = json!({ "name": event.image });
    own["container"] = json!({ "id": event.id, "name": event.name, "image": image });
    own
}

fn lost(stream: &str, count: u64) -> Value {
    own("lost", &now(), json!({ "stream": stream, "count": count }))
}

/// An event that is in no audit file, in the same form.
fn own(kind: &str, time: &str, told: Value) -> Value {
    json!({ "event": { "action": kind }, "@timestamp": time, kind: told })
}

fn kind(event: &Value) -> &str {
    event["event"]["action"].as_str().unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[derive(Debug, Default)]
struct Filter {
    container: Option<String>,
    kinds: Vec<String>,
}

impl Filter {
    fn parse(query: EventsQuery) -> ApiResult<Self> {
        let kinds: Vec<String> = query
            .kind
            .iter()
            .flat_map(|kinds| kinds.split(','))
            .filter(|kind| !kind.is_empty())
            .map(str::to_owned)
            .collect();
        if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(ApiError::invalid("kind", unknown, KINDS.join(", ")));
        }
        Ok(Self { container: query.container, kinds })
    }

    /// What was lost concerns every reader.
    fn wants(&self, event: &Value) -> bool {
        let kind = kind(event);
        let kind_fits = self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
        let text = |name: &str| event["container"][name].as_str().unwrap_or_default();
        let container_fits = self
            .container
            .as_ref()
            .is_none_or(|wanted| text("name") == wanted || text("id").starts_with(wanted.as_str()));
        kind == "lost" || (kind_fits && container_fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lets_losses_through() {
        let query = EventsQuery { container: Some("web".into()), kind: Some("exec".into()) };
        let filter = Filter::parse(query).unwrap();
        let event = |kind: &str, name: &str| json!({ "event": { "action": kind }, "container": { "name": name } });
        assert!(filter.wants(&event("exec", "web")));
        assert!(!filter.wants(&event("exit", "web")));
        assert!(!filter.wants(&event("exec", "db")));
        assert!(filter.wants(&lost("exec, exit", 3)));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let query = EventsQuery { kind: Some("execs".into()), ..EventsQuery::default() };
        assert!(Filter::parse(query).unwrap_err().message.contains("lifecycle, exec, exit"));
    }
}

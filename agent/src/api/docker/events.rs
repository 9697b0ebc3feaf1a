//! `GET /events`: what happens to containers, images and networks, as Docker's clients read it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::LifecycleEvent;
use tokio_stream::wrappers::BroadcastStream;

use super::super::Shared;
use super::filters::{self, Filters};
use super::{networks, volumes};
use crate::api::error::{ApiError, ApiResult};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    filters: Option<String>,
    /// From when on past events come first; of those the last 256 are kept, as by Docker.
    since: Option<String>,
    /// When the stream ends.
    until: Option<String>,
}

pub async fn events(
    State(app): State<Shared>,
    Query(query): Query<EventsQuery>,
) -> ApiResult<Response> {
    let allowed = ["type", "event", "container", "image", "label", "network", "volume"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    let since = moment("since", query.since)?;
    let until = moment("until", query.until)?;
    let (past, live) = app.event_history.read(since);
    let live = match until {
        Some(until) => live.take_until(sleep_until(until)).left_stream(),
        None => live.right_stream(),
    };
    let lines = futures_util::stream::iter(past).chain(live).filter_map(move |event| {
        let is_late = until.is_some_and(|until| event["time"].as_i64().is_some_and(|t| t > until));
        let is_wanted = !is_late && fits(&filters, &event);
        let line = is_wanted.then(|| Bytes::from(event.to_string() + "\n"));
        std::future::ready(line.map(Ok::<_, std::io::Error>))
    });
    Ok(([("content-type", "application/json")], Body::from_stream(lines)).into_response())
}

/// Of everything, as it happens.
pub fn all(app: &Shared) -> impl Stream<Item = Value> + Send + use<> {
    let containers = BroadcastStream::new(app.engine.subscribe());
    let containers =
        containers.filter_map(|event| std::future::ready(event.ok().map(|event| render(&event))));
    let images = BroadcastStream::new(app.image_events.subscribe());
    let images =
        images.filter_map(|event| std::future::ready(event.ok().map(|event| event.render())));
    let networks = BroadcastStream::new(app.engine.networks().subscribe());
    let networks = networks.filter_map(|event| {
        std::future::ready(event.ok().map(|event| networks::render_event(&event)))
    });
    let volumes = BroadcastStream::new(app.engine.volumes().subscribe());
    let volumes = volumes.filter_map(|event| {
        std::future::ready(event.ok().map(|event| volumes::render_event(&event)))
    });
    let objects = futures_util::stream::select(networks, volumes);
    futures_util::stream::select(containers, futures_util::stream::select(images, objects))
}

/// In seconds since 1970.
fn moment(field: &'static str, text: Option<String>) -> ApiResult<Option<i64>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let allowed = "a time, or seconds since 1970";
    let moment = filters::moment(&text, jiff::Timestamp::now());
    moment.map(Some).ok_or_else(|| ApiError::invalid(field, text, allowed))
}

async fn sleep_until(moment: i64) {
    let left = moment - jiff::Timestamp::now().as_second();
    tokio::time::sleep(Duration::from_secs(u64::try_from(left).unwrap_or(0))).await;
}

fn fits(filters: &Filters, event: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, id) = (text(&event["Type"]), text(&event["Actor"]["ID"]));
    let attributes = &event["Actor"]["Attributes"];
    let labels: BTreeMap<String, String> =
        serde_json::from_value(attributes.clone()).unwrap_or_default();
    let name = text(&attributes["name"]);
    let image = if kind == "image" { name.clone() } else { text(&attributes["image"]) };
    let is_of = |wanted: &str| name == wanted || id.starts_with(wanted);
    // A network's events name the container that came or went.
    let is_container = |wanted: &str| match kind.as_str() {
        "container" => is_of(wanted),
        "network" => text(&attributes["container"]).starts_with(wanted),
        _ => false,
    };
    filters.any("type", |wanted| kind == wanted)
        && filters.any("event", |wanted| is_action(&text(&event["Action"]), wanted))
        && filters.any("container", is_container)
        && filters.any("network", |wanted| kind == "network" && is_of(wanted))
        && filters.any("volume", |wanted| kind == "volume" && id == wanted)
        && filters.any("image", |wanted| {
            image == wanted || image.split(':').next() == Some(wanted) || id == wanted
        })
        && filters.labels_fit(&labels)
}

/// `health_status` is every one of them, as in Docker.
fn is_action(action: &str, wanted: &str) -> bool {
    action == wanted || action.split_once(':').is_some_and(|(kind, _)| kind == wanted)
}

fn render(event: &LifecycleEvent) -> Value {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".into(), event.name.clone());
    attributes.insert("image".into(), event.image.clone());
    json!({
        "Type": "container",
        "Action": event.action.as_str(),
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.unix_ns / 1_000_000_000,
        "timeNano": event.unix_ns,
    })
}

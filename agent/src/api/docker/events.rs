//! `GET /events`: lifecycle events as Docker's clients read them.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::json;
use tenantry_container::LifecycleEvent;
use tokio::sync::broadcast::error::RecvError;

use super::super::Shared;

pub async fn events(State(app): State<Shared>) -> Response {
    let receiver = app.engine.subscribe();
    let lines = futures_util::stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((Ok::<_, std::io::Error>(line(&event)), receiver)),
                // Docker's format has no word for a gap; the native stream tells it.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ([("content-type", "application/json")], Body::from_stream(lines)).into_response()
}

fn line(event: &LifecycleEvent) -> Bytes {
    let mut attributes = event.attributes.clone();
    attributes.insert("name".into(), event.name.clone());
    attributes.insert("image".into(), event.image.clone());
    let line = json!({
        "Type": "container",
        "Action": event.action.as_str(),
        "Actor": { "ID": event.id, "Attributes": attributes },
        "scope": "local",
        "time": event.unix_ns / 1_000_000_000,
        "timeNano": event.unix_ns,
    });
    Bytes::from(line.to_string() + "\n")
}

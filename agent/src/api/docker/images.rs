//! Images: what asks for one by name, load and import; the rest is one file per subject. What
//! concerns registries is in [`super::registry`].

pub mod commit;
pub mod events;
mod glob;
mod inspect;
pub mod list;
pub mod remove;
pub mod save;
pub mod usage;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::super::{App, Shared};
use super::{changes, registry};
use crate::api::error::{ApiError, ApiResult};

use events::Action;
use remove::new_name;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateQuery {
    #[serde(rename = "fromImage")]
    from_image: Option<String>,
    #[serde(rename = "fromSrc")]
    from_src: Option<String>,
    repo: Option<String>,
    tag: Option<String>,
    platform: Option<String>,
    message: Option<String>,
}

/// `GET /images/{name}/json`, `/history` and `/get`; the name may hold slashes, and ids a
/// colon.
pub async fn get(State(app): State<Shared>, Path(rest): Path<String>) -> ApiResult<Response> {
    let refused = || ApiError::unsupported("images", &format!("GET /images/{rest}"));
    let (name, verb) = rest.rsplit_once('/').ok_or_else(refused)?;
    let name = name.to_owned();
    let answer: fn(&App, &str) -> ApiResult<Value> = match verb {
        "json" => inspect::inspect,
        "history" => inspect::history,
        "get" => return save::save(app, vec![name]).await,
        _ => return Err(refused()),
    };
    let answer = blocking(&app, move |app| answer(app, &name)).await?;
    Ok(Json(answer).into_response())
}

/// `POST /images/load`: an OCI layout or a `docker save` archive as the body.
pub async fn load(State(app): State<Shared>, body: Body) -> ApiResult<Response> {
    let mut archive = reader(body);
    let loaded = blocking(&app, move |app| Ok(app.images.load(&mut archive)?)).await?;
    let mut answer = String::new();
    for image in loaded {
        let id = image.id.to_string();
        let line = match &image.name {
            Some(name) => format!("Loaded image: {name}\n"),
            None => format!("Loaded image ID: {id}\n"),
        };
        app.image_events.tell(Action::Load, id.clone(), image.name.unwrap_or(id));
        answer.push_str(&json!({ "stream": line }).to_string());
        answer.push('\n');
    }
    Ok(([("content-type", "application/json")], answer).into_response())
}

/// `POST /images/create`: with `fromImage` a pull; with `fromSrc=-` the body is a root filesystem.
pub async fn create(
    State(app): State<Shared>,
    Query(query): Query<CreateQuery>,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    if let Some(image) = query.from_image.filter(|image| !image.is_empty()) {
        let tag = query.tag.unwrap_or_default();
        return registry::pull(&app, &image, &tag, query.platform.as_deref(), &headers).await;
    }
    let source = query.from_src.unwrap_or_default();
    let is_remote = source.starts_with("http://") || source.starts_with("https://");
    if source != "-" && !is_remote {
        let allowed =
            "\"-\", the request's body, or an address that begins with http:// or https://";
        return Err(ApiError::invalid("fromSrc", source, allowed));
    }
    let name = new_name(query.repo, query.tag)?;
    let mut options = changes::parse(&changes::lines(&pairs))?;
    options.comment = query.message.filter(|message| !message.is_empty());
    if is_remote {
        let images = Arc::clone(&app.images);
        let lines = app.registries.import(images, &source, name, options).await?;
        return Ok(registry::lines(ReceiverStream::new(lines)));
    }
    let mut rootfs = reader(body);
    let wanted = name.clone();
    let image =
        blocking(&app, move |app| Ok(app.images.import(&wanted, &mut rootfs, options)?)).await?;
    let id = image.id.to_string();
    app.image_events.tell(Action::Import, id.clone(), image.name.unwrap_or(name));
    let answer = json!({ "status": id }).to_string() + "\n";
    Ok(([("content-type", "application/json")], answer).into_response())
}

pub(super) fn reader(body: Body) -> impl std::io::Read + Send + 'static {
    let stream = body.into_data_stream().map_err(std::io::Error::other);
    SyncIoBridge::new(StreamReader::new(Box::pin(stream)))
}

/// The image store reads and writes files; it does so off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    app: &Shared,
    work: impl FnOnce(&Shared) -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let app = app.clone();
    tokio::task::spawn_blocking(move || work(&app)).await.map_err(ApiError::internal)?
}

//! Images: list, inspect, load, import, remove. What concerns registries is in [`super::registry`].

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_image::Image;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::super::Shared;
use super::system::go_arch;
use super::{changes, registry};
use crate::api::error::{ApiError, ApiResult};

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
    changes: Option<String>,
}

pub async fn list(State(app): State<Shared>) -> ApiResult<Json<Value>> {
    let images = blocking(&app, |app| Ok(app.images.list()?)).await?;
    let containers = app.engine.list();
    let summaries: Vec<Value> = images
        .iter()
        .map(|image| {
            let id = image.id.to_string();
            let users =
                containers.iter().filter(|container| container.record.image.id == id).count();
            json!({
                "Id": id,
                "ParentId": "",
                "RepoTags": image.names,
                "RepoDigests": image.digests,
                "Created": created_seconds(image.created.as_deref()),
                "Size": image.size_bytes,
                "SharedSize": -1,
                "VirtualSize": image.size_bytes,
                "Labels": {},
                "Containers": users,
            })
        })
        .collect();
    Ok(Json(Value::Array(summaries)))
}

/// `GET /images/{name}/json`; the name may hold slashes, and ids a colon.
pub async fn inspect(
    State(app): State<Shared>,
    Path(rest): Path<String>,
) -> ApiResult<Json<Value>> {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(ApiError::unsupported("images", &format!("GET /images/{rest}")));
    };
    let name = name.to_owned();
    let image = blocking(&app, move |app| Ok(app.images.resolve(&name)?)).await?;
    Ok(Json(describe(&image)))
}

/// `POST /images/{name}/push`; the name may hold slashes.
pub async fn act(
    State(app): State<Shared>,
    Path(rest): Path<String>,
    Query(query): Query<registry::PushQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    match rest.rsplit_once('/') {
        Some((name, "push")) => registry::push(&app, name, &query.tag, &headers).await,
        _ => Err(ApiError::unsupported("images", &format!("POST /images/{rest}"))),
    }
}

fn describe(image: &Image) -> Value {
    let config = image.config.config().as_ref().map(|config| {
        json!({
            "User": config.user().as_deref().unwrap_or_default(),
            "Env": config.env(),
            "Cmd": config.cmd(),
            "Entrypoint": config.entrypoint(),
            "WorkingDir": config.working_dir().as_deref().unwrap_or_default(),
            "Labels": config.labels(),
            "StopSignal": config.stop_signal(),
        })
    });
    json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Created": image.config.created(),
        "Architecture": go_arch(),
        "Os": "linux",
        "Config": config,
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs().diff_ids() },
    })
}

/// `POST /images/load`: an OCI layout or a `docker save` archive as the body.
pub async fn load(State(app): State<Shared>, body: Body) -> ApiResult<Response> {
    let mut archive = reader(body);
    let loaded = blocking(&app, move |app| Ok(app.images.load(&mut archive)?)).await?;
    let mut answer = String::new();
    for image in loaded {
        let line = match &image.name {
            Some(name) => format!("Loaded image: {name} {}\n", image.digest),
            None => format!("Loaded image ID: {}\n", image.digest),
        };
        answer.push_str(&json!({ "stream": line }).to_string());
        answer.push('\n');
    }
    Ok(([("content-type", "application/json")], answer).into_response())
}

/// `POST /images/create`: with `fromImage` a pull; with `fromSrc=-` the body is a root filesystem.
pub async fn create(
    State(app): State<Shared>,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    if let Some(image) = query.from_image.filter(|image| !image.is_empty()) {
        let tag = query.tag.unwrap_or_default();
        return registry::pull(&app, &image, &tag, query.platform.as_deref(), &headers).await;
    }
    let source = query.from_src.unwrap_or_default();
    if source != "-" {
        return Err(ApiError::invalid("fromSrc", source, "\"-\", the request's body"));
    }
    let Some(repository) = query.repo.filter(|name| !name.is_empty()) else {
        return Err(ApiError::invalid("repo", "", "the new image's name"));
    };
    let name = match query.tag.filter(|tag| !tag.is_empty()) {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository,
    };
    let changes: Vec<String> =
        query.changes.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let options = changes::parse(&changes)?;
    let mut rootfs = reader(body);
    let image =
        blocking(&app, move |app| Ok(app.images.import(&name, &mut rootfs, options)?)).await?;
    let line = match &image.name {
        Some(name) => format!("{name} {}", image.digest),
        None => image.digest.to_string(),
    };
    let answer = json!({ "status": line }).to_string() + "\n";
    Ok(([("content-type", "application/json")], answer).into_response())
}

pub async fn remove(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult<Json<Value>> {
    let removed = blocking(&app, move |app| {
        let in_use = |id: &tenantry_image::Digest| app.uses_image(&id.to_string());
        Ok(app.images.remove(&name, &in_use)?)
    })
    .await?;
    let untagged = removed.untagged.iter().map(|name| json!({ "Untagged": name }));
    let deleted = removed.deleted.iter().map(|id| json!({ "Deleted": id.to_string() }));
    Ok(Json(untagged.chain(deleted).collect()))
}

fn created_seconds(time: Option<&str>) -> i64 {
    time.and_then(|time| time.parse::<jiff::Timestamp>().ok()).map_or(0, |time| time.as_second())
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

//! Volumes: create, list, inspect, remove, prune. The directories are the engine's.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path as FsPath;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard::models::VolumeCreateRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::volumes::{Volume, VolumeEvent, VolumeView};

use super::attach::is_true;
use super::filters::Filters;
use super::images::blocking;
use super::mounts;
use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;

/// Files that one answer counts the bytes of; a larger volume's size is not told.
const MOST_COUNTED: usize = 200_000;

pub async fn create(
    State(app): State<Shared>,
    Json(request): Json<VolumeCreateRequest>,
) -> ApiResult<Response> {
    mounts::check_driver("Driver", request.driver.as_deref().unwrap_or_default())?;
    mounts::check_driver_options("DriverOpts", request.driver_opts.as_ref())?;
    let name = request.name.filter(|name| !name.is_empty());
    let anonymous = name.is_none();
    let volume = Volume {
        name: name.map_or_else(random_name, Ok)?,
        created_unix_ns: jiff::Timestamp::now().as_nanosecond() as u64,
        labels: request.labels.unwrap_or_default().into_iter().collect(),
        anonymous,
        populated: false,
    };
    let made = blocking(&app, move |app| Ok(app.engine.volumes().create(volume)?)).await?;
    Ok((StatusCode::CREATED, Json(render(&made))).into_response())
}

fn random_name() -> ApiResult<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(ApiError::internal)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    filters: Option<String>,
}

pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Value>> {
    let allowed = ["name", "label", "label!", "dangling", "driver"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    let dangling = filters.flag("dangling")?;
    let fits = |view: &VolumeView| {
        filters.any("name", |name| view.volume.name.contains(name))
            && filters.any("driver", |driver| driver == "local")
            && filters.labels_fit(&view.volume.labels)
            && dangling.is_none_or(|dangling| dangling == view.users.is_empty())
    };
    let volumes = app.engine.volumes().list();
    let volumes: Vec<Value> = volumes.iter().filter(|view| fits(view)).map(render).collect();
    Ok(Json(json!({ "Volumes": volumes, "Warnings": [] })))
}

pub async fn inspect(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(render(&app.engine.volumes().get(&name)?)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RemoveQuery {
    force: Option<String>,
}

pub async fn remove(
    State(app): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<StatusCode> {
    let force = is_true(query.force.as_deref());
    blocking(&app, move |app| match app.engine.volumes().remove(&name) {
        Err(tenantry_container::Error::NoVolume { .. }) if force => Ok(()),
        removed => Ok(removed?),
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Those that nobody uses; named ones only if asked for, as Docker has it since 1.42.
pub async fn prune(
    State(app): State<Shared>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Value>> {
    let filters = Filters::parse(query.filters.as_deref(), &["label", "label!", "all"])?;
    let all = filters.flag("all")?.unwrap_or(false);
    let answer = blocking(&app, move |app| {
        let volumes = app.engine.volumes();
        let (mut deleted, mut reclaimed) = (Vec::new(), 0);
        for view in volumes.list() {
            let wanted = all || view.volume.anonymous;
            if !wanted || !view.users.is_empty() || !filters.labels_fit(&view.volume.labels) {
                continue;
            }
            let bytes = size_bytes(&view.data).unwrap_or(0);
            match volumes.remove(&view.volume.name) {
                Ok(()) => {
                    deleted.push(view.volume.name);
                    reclaimed += bytes;
                }
                // Somebody uses it since.
                Err(tenantry_container::Error::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(json!({ "VolumesDeleted": deleted, "SpaceReclaimed": reclaimed }))
    });
    Ok(Json(answer.await?))
}

/// For `GET /system/df`: each with its size, and how many containers use it.
pub fn usage(app: &Shared) -> Vec<Value> {
    let volumes = app.engine.volumes().list();
    let with_size = |view: &VolumeView| {
        let mut volume = render(view);
        let size = size_bytes(&view.data).map_or(-1, |bytes| bytes as i64);
        volume["UsageData"] = json!({ "RefCount": view.users.len(), "Size": size });
        volume
    };
    volumes.iter().map(with_size).collect()
}

pub fn render(view: &VolumeView) -> Value {
    let labels: HashMap<_, _> = view.volume.labels.iter().collect();
    json!({
        "Name": view.volume.name,
        "Driver": "local",
        "Mountpoint": view.data,
        "CreatedAt": rfc3339(view.volume.created_unix_ns),
        "Labels": labels,
        "Options": {},
        "Scope": "local",
    })
}

pub fn render_event(event: &VolumeEvent) -> Value {
    json!({
        "Type": "volume",
        "Action": event.action.as_str(),
        "Actor": { "ID": event.name, "Attributes": event.attributes },
        "scope": "local",
        "time": event.unix_ns / 1_000_000_000,
        "timeNano": event.unix_ns,
    })
}

/// Blocks on the disk, not on data. `None` if there is too much of it to count.
fn size_bytes(root: &FsPath) -> Option<u64> {
    let (mut bytes, mut counted) = (0, 0);
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        // What a container removes meanwhile is not counted.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            counted += 1;
            if counted > MOST_COUNTED {
                return None;
            }
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Some(bytes)
}

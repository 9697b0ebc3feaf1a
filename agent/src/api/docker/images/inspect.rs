//! `GET /images/{name}/json` and `/history`.

use serde_json::{Value, json};
use tenantry_image::{HistoryStep, Image, ImageSummary};

use super::list::created_seconds;
use crate::api::App;
use crate::api::error::ApiResult;

pub fn inspect(app: &App, name: &str) -> ApiResult<Value> {
    let image = app.images.resolve(name)?;
    let list = app.images.list()?;
    let summary = list.iter().find(|other| other.manifest_digest == image.manifest_digest);
    Ok(describe(&image, summary))
}

/// Docker's clients index into these without looking whether they are there.
fn describe(image: &Image, summary: Option<&ImageSummary>) -> Value {
    let document = &image.document;
    let mut config = json!({
        "Hostname": "", "Domainname": "", "User": "",
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": null, "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "",
        "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    for (name, value) in document["config"].as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    let text = |field: &str| document[field].as_str().unwrap_or_default();
    let last = document["history"].as_array().and_then(|steps| steps.last());
    let size = summary.map_or(0, |summary| summary.size_bytes);
    let mut described = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Parent": image.parent.map_or(String::new(), |parent| parent.to_string()),
        "Comment": last.and_then(|step| step["comment"].as_str()).unwrap_or_default(),
        "Created": image.config.created(),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": config,
        // Of no use since there are layers, but docker-compose 1.29 fails without it.
        "ContainerConfig": config,
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": size,
        "VirtualSize": size,
        "GraphDriver": { "Data": null, "Name": "overlay" },
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs().diff_ids() },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    });
    if let Some(variant) = document["variant"].as_str() {
        described["Variant"] = variant.into();
    }
    described
}

pub fn history(app: &App, name: &str) -> ApiResult<Value> {
    Ok(app.images.history(name)?.iter().map(step).collect())
}

fn step(step: &HistoryStep) -> Value {
    json!({
        "Id": step.id.map_or("<missing>".into(), |id| id.to_string()),
        "Created": created_seconds(step.created.as_deref()),
        "CreatedBy": step.created_by,
        "Tags": if step.names.is_empty() { Value::Null } else { json!(step.names) },
        "Size": step.size_bytes,
        "Comment": step.comment,
    })
}

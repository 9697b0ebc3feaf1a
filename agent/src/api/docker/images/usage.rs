//! `GET /system/df`: what images and containers take on disk.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{blocking, list};
use crate::api::Shared;
use crate::api::docker::filters::Filters;
use crate::api::docker::inspect;
use crate::api::docker::sizes::Sizes;
use crate::api::docker::volumes;
use crate::api::error::ApiResult;

pub async fn usage(State(app): State<Shared>) -> ApiResult<Json<Value>> {
    let (layers, images) = blocking(&app, |app| {
        let images = list::wanted(app, &Filters::default(), true)?;
        let images: Vec<Value> =
            images.iter().map(|(image, labels)| list::summary(app, image, labels, true)).collect();
        Ok((app.images.layers_bytes(), images))
    })
    .await?;
    let sizes = Sizes::new(&app);
    let mut containers = Vec::new();
    for container in app.engine.list() {
        let mut view = inspect::summary(&app, &container);
        sizes.add(&container, &mut view).await;
        containers.push(view);
    }
    let counted = |views: &[Value], active: usize, total: u64, reclaimable: u64| {
        json!({
            "TotalCount": views.len(), "ActiveCount": active,
            "TotalSize": total, "Reclaimable": reclaimable,
        })
    };
    let number = |view: &Value, field: &str| view[field].as_u64().unwrap_or(0);
    let used = images.iter().filter(|image| number(image, "Containers") > 0);
    // What pruning would give back at least: layers that only an unused image has.
    let unused = images.iter().filter(|image| number(image, "Containers") == 0);
    let free = unused.map(|image| number(image, "Size") - number(image, "SharedSize")).sum();
    let image_usage = counted(&images, used.count(), layers, free);
    let runs = |view: &&Value| matches!(view["State"].as_str(), Some("running" | "paused"));
    let running = containers.iter().filter(runs).count();
    let written: u64 = containers.iter().map(|view| number(view, "SizeRw")).sum();
    let stopped = containers.iter().filter(|view| !runs(view));
    let stopped = stopped.map(|view| number(view, "SizeRw")).sum();
    let container_usage = counted(&containers, running, written, stopped);
    let volumes = blocking(&app, |app| Ok(volumes::usage(app))).await?;
    let used = |view: &&Value| number(&view["UsageData"], "RefCount") > 0;
    let size = |view: &Value| number(&view["UsageData"], "Size");
    let volume_bytes = volumes.iter().map(size).sum();
    let unused = volumes.iter().filter(|view| !used(view)).map(size).sum();
    let in_use = volumes.iter().filter(used).count();
    let volume_usage = counted(&volumes, in_use, volume_bytes, unused);
    // Clients since API 1.52 read the sums, those before it the lists.
    Ok(Json(json!({
        "ImageUsage": image_usage,
        "ContainerUsage": container_usage,
        "LayersSize": layers,
        "Images": images,
        "Containers": containers,
        "VolumeUsage": volume_usage,
        "Volumes": volumes,
        "BuildCache": [],
        "BuilderSize": 0,
    })))
}

//! `GET /images/json`, and what lists share: who uses an image, what it is labelled.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_image::{Digest, ImageSummary, Name, User};

use super::{blocking, glob};
use crate::api::docker::attach::is_true;
use crate::api::docker::filters::Filters;
use crate::api::error::ApiResult;
use crate::api::{App, Shared, is_running};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    all: Option<String>,
    filters: Option<String>,
    #[serde(rename = "shared-size")]
    shared_size: Option<String>,
}

pub async fn list(
    State(app): State<Shared>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<Vec<Value>>> {
    let allowed = ["before", "dangling", "label", "label!", "reference", "since", "until"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    let all = is_true(query.all.as_deref());
    let shared = is_true(query.shared_size.as_deref());
    blocking(&app, move |app| {
        let images = wanted(app, &filters, all)?;
        Ok(images.iter().map(|(image, labels)| summary(app, image, labels, shared)).collect())
    })
    .await
    .map(Json)
}

pub type Labels = BTreeMap<String, String>;

/// Images that pass the filters, with their labels; steps of builds only with `all`.
pub fn wanted(app: &App, filters: &Filters, all: bool) -> ApiResult<Vec<(ImageSummary, Labels)>> {
    let dangling = filters.flag("dangling")?;
    let until = filters.until(jiff::Timestamp::now())?;
    let created_of = |name: &String| -> ApiResult<jiff::Timestamp> {
        Ok(created(app.images.resolve(name)?.config.created().as_deref()))
    };
    let before = filters.of("before").first().map(created_of).transpose()?;
    let since = filters.of("since").first().map(created_of).transpose()?;
    let mut wanted = Vec::new();
    for mut image in app.images.list()? {
        let is_dangling = image.names.is_empty() && !image.has_children;
        let is_step = image.names.is_empty() && image.has_children;
        let created = created(image.created.as_deref());
        let fits = (all || !is_step)
            && dangling.is_none_or(|wanted| wanted == is_dangling)
            && until.is_none_or(|until| created.as_second() <= until)
            && before.is_none_or(|before| created < before)
            && since.is_none_or(|since| created > since);
        if !fits {
            continue;
        }
        if !filters.of("reference").is_empty() {
            image.names.retain(|name| filters.any("reference", |pattern| is_named(pattern, name)));
            if image.names.is_empty() {
                continue;
            }
        }
        // One that was removed since has none.
        let labels = app.images.resolve(&image.manifest_digest.to_string());
        let labels = labels.map(|image| labels_of(&image.document)).unwrap_or_default();
        if filters.labels_fit(&labels) {
            wanted.push((image, labels));
        }
    }
    Ok(wanted)
}

/// With its tag or without, as Docker compares.
fn is_named(pattern: &str, name: &str) -> bool {
    let repository = name.parse::<Name>().map(|name| name.repository());
    glob::fits(pattern, name) || repository.is_ok_and(|name| glob::fits(pattern, &name))
}

pub fn labels_of(document: &Value) -> Labels {
    serde_json::from_value(document["config"]["Labels"].clone()).unwrap_or_default()
}

pub fn summary(app: &App, image: &ImageSummary, labels: &Labels, shared: bool) -> Value {
    let id = image.id.to_string();
    let containers = app.engine.list();
    let users = containers.iter().filter(|container| container.record.image.id == id).count();
    json!({
        "Id": id,
        "ParentId": image.parent.map_or(String::new(), |parent| parent.to_string()),
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Created": created_seconds(image.created.as_deref()),
        "Size": image.size_bytes,
        "SharedSize": if shared { json!(image.shared_bytes) } else { json!(-1) },
        "VirtualSize": image.size_bytes,
        "Labels": labels,
        "Containers": users,
    })
}

/// Who keeps an image: a running container before a stopped one, and that before a build.
pub fn user(app: &App, id: &Digest) -> Option<User> {
    let id = id.to_string();
    let containers = app.engine.list();
    let users = containers.iter().filter(|container| container.record.image.id == id);
    let Some(user) = users.max_by_key(|container| is_running(container)) else {
        return app.builds.holds(&id).then_some(User::Build);
    };
    Some(User::Container {
        id: user.record.id.chars().take(12).collect(),
        running: is_running(user),
    })
}

pub fn created_seconds(time: Option<&str>) -> i64 {
    created(time).as_second()
}

/// 1970 for an image that does not say.
fn created(time: Option<&str>) -> jiff::Timestamp {
    time.and_then(|time| time.parse().ok()).unwrap_or_default()
}

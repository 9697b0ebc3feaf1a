//! Names and removal: `POST /images/{name}/tag`, `DELETE /images/{name}`,
//! `POST /images/prune`.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_image::{Digest, Removal, Removed};

use super::events::Action;
use super::{blocking, list};
use crate::api::docker::attach::is_true;
use crate::api::docker::filters::{FilterQuery, Filters};
use crate::api::docker::registry;
use crate::api::error::{ApiError, ApiResult};
use crate::api::{App, Shared};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PostQuery {
    repo: Option<String>,
    tag: Option<String>,
}

/// `POST /images/{name}/tag` and `/push`; the name may hold slashes.
pub async fn post(
    State(app): State<Shared>,
    Path(rest): Path<String>,
    Query(query): Query<PostQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let name = match rest.rsplit_once('/') {
        Some((name, "tag")) => name.to_owned(),
        Some((name, "push")) => {
            return registry::push(&app, name, &query.tag.unwrap_or_default(), &headers).await;
        }
        _ => return Err(ApiError::unsupported("images", &format!("POST /images/{rest}"))),
    };
    let new = new_name(query.repo, query.tag)?;
    blocking(&app, move |app| {
        let id = app.images.resolve(&name)?.id;
        let tagged = app.images.tag(&name, &new)?;
        app.image_events.tell(Action::Tag, id.to_string(), tagged);
        Ok(StatusCode::CREATED.into_response())
    })
    .await
}

/// The name that `repo` and `tag` make.
pub fn new_name(repo: Option<String>, tag: Option<String>) -> ApiResult<String> {
    let Some(repository) = repo.filter(|name| !name.is_empty()) else {
        return Err(ApiError::invalid("repo", "", "the new image's name"));
    };
    Ok(match tag.filter(|tag| !tag.is_empty()) {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository,
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RemoveQuery {
    force: Option<String>,
    noprune: Option<String>,
}

pub async fn remove(
    State(app): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<Json<Value>> {
    let how = Removal {
        force: is_true(query.force.as_deref()),
        keep_parents: is_true(query.noprune.as_deref()),
    };
    blocking(&app, move |app| {
        let id = app.images.resolve(&name)?.id;
        let removed = app.images.remove(&name, how, &|id| list::user(app, id))?;
        Ok(Json(told(app, &removed, Some(&id))))
    })
    .await
}

pub async fn prune(
    State(app): State<Shared>,
    Query(query): Query<FilterQuery>,
) -> ApiResult<Json<Value>> {
    let allowed = ["dangling", "label", "label!", "until"];
    let filters = Filters::parse(query.filters.as_deref(), &allowed)?;
    blocking(&app, move |app| {
        let named = filters.flag("dangling")? == Some(false);
        let until = filters.until(jiff::Timestamp::now())?;
        let labelled = list::wanted(app, &Filters::default(), true)?.into_iter();
        let wanted: BTreeSet<Digest> = labelled
            .filter(|(image, labels)| {
                let created = list::created_seconds(image.created.as_deref());
                filters.labels_fit(labels) && until.is_none_or(|until| created <= until)
            })
            .map(|(image, _)| image.id)
            .collect();
        let users = |id: &Digest| list::user(app, id);
        let removed = app.images.prune(named, &|id| wanted.contains(id), &users)?;
        let deleted = told(app, &removed, None);
        Ok(Json(json!({ "ImagesDeleted": deleted, "SpaceReclaimed": removed.freed_bytes })))
    })
    .await
}

/// Docker's list of what is gone; the events say the same.
fn told(app: &App, removed: &Removed, id: Option<&Digest>) -> Value {
    for name in &removed.untagged {
        let id = id.map_or(name.clone(), Digest::to_string);
        app.image_events.tell(Action::Untag, id, name.clone());
    }
    for id in &removed.deleted {
        app.image_events.tell(Action::Delete, id.to_string(), id.to_string());
    }
    let untagged = removed.untagged.iter().map(|name| json!({ "Untagged": name }));
    let deleted = removed.deleted.iter().map(|id| json!({ "Deleted": id.to_string() }));
    untagged.chain(deleted).collect()
}

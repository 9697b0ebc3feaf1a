//! `POST /commit`: a container's changes become an image.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::process::merge_environment;
use tenantry_container::{ContainerConfig, Record};
use tenantry_image::{Changes, Commit, Error, Name, OwnerMapping, spec};

use super::blocking;
use super::remove::new_name;
use crate::api::Shared;
use crate::api::docker::changes;
use crate::api::error::{ApiError, ApiResult};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CommitQuery {
    container: String,
    repo: Option<String>,
    tag: Option<String>,
    comment: Option<String>,
    author: Option<String>,
    /// Absent is true.
    pause: Option<String>,
}

pub async fn commit(
    State(app): State<Shared>,
    Query(query): Query<CommitQuery>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> ApiResult<Response> {
    let container = app.engine.get(&query.container)?;
    let record = &container.record;
    let names: Vec<String> = match query.repo.as_deref().unwrap_or_default() {
        "" => Vec::new(),
        _ => vec![new_name(query.repo.clone(), query.tag.clone())?],
    };
    for name in &names {
        // Before anything is paused.
        name.parse::<Name>()?;
    }
    let pause = !matches!(query.pause.as_deref(), Some("0" | "false" | "False" | "FALSE"));
    let parent = record.image.id.clone();
    let below = blocking(&app, {
        let parent = parent.clone();
        move |app| Ok(app.images.resolve(&parent)?.document)
    })
    .await?;
    let now = jiff::Timestamp::now().to_string();
    let mut config = configuration(below, record, &now, query.author.as_deref());
    let lines = changes::lines(&pairs);
    changes::apply(&mut config["config"], &lines)?;
    let history = history(&query, record, &now)?;

    let store = app.clone();
    let committed = app.engine.look(&record.id, pause, move |upper, mapping| {
        let owners = mapping.map(|ids| OwnerMapping { host_base: ids.host_base, size: ids.size });
        let changes = Some(Changes { upper, owners });
        store.images.commit(Commit {
            parent: Some(&parent),
            changes,
            config,
            history,
            names: &names,
        })
    });
    let image = committed.await?.map_err(refused)?;
    let attributes = [
        ("comment", query.comment.unwrap_or_default()),
        ("imageID", image.id.to_string()),
        ("imageRef", image.name.unwrap_or_default()),
    ];
    // Who removed the container meanwhile has been told of that.
    let _ = app.engine.tell_commit(&record.id, &attributes);
    let answer = Json(json!({ "Id": image.id.to_string() }));
    Ok((StatusCode::CREATED, answer).into_response())
}

/// Whoever asks cannot mend what the container has made.
fn refused(error: Error) -> ApiError {
    match &error {
        Error::Refused { .. } | Error::Limit { .. } => {
            let message = crate::api::error::chain(&error);
            ApiError::new(StatusCode::CONFLICT, message)
        }
        _ => error.into(),
    }
}

fn history(query: &CommitQuery, record: &Record, now: &str) -> ApiResult<spec::History> {
    let mut history = spec::HistoryBuilder::default()
        .created(now)
        .created_by(record.process.args.join(" "))
        .build()
        .map_err(ApiError::internal)?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    history.set_comment(given(&query.comment));
    history.set_author(given(&query.author));
    Ok(history)
}

/// The image's configuration under what the container was asked to be. Pure.
fn configuration(mut below: Value, record: &Record, now: &str, author: Option<&str>) -> Value {
    let wishes: &ContainerConfig = &record.config;
    below["created"] = now.into();
    match author.filter(|author| !author.is_empty()) {
        Some(author) => below["author"] = author.into(),
        None => {
            if let Some(fields) = below.as_object_mut() {
                fields.remove("author");
            }
        }
    }
    if !below["config"].is_object() {
        below["config"] = json!({});
    }
    let config = &mut below["config"];
    if let Some(entrypoint) = &wishes.entrypoint {
        config["Entrypoint"] = json!(entrypoint);
        config["Cmd"] = json!(wishes.command);
    } else if let Some(command) = &wishes.command {
        config["Cmd"] = json!(command);
    }
    let of_image: Vec<String> = serde_json::from_value(config["Env"].clone()).unwrap_or_default();
    config["Env"] = json!(merge_environment(&of_image, &wishes.env));
    for (name, value) in &wishes.labels {
        config["Labels"][name] = json!(value);
    }
    for (name, wish) in [
        ("User", &wishes.user),
        ("WorkingDir", &wishes.working_dir),
        ("StopSignal", &wishes.stop_signal),
    ] {
        if let Some(wish) = wish {
            config[name] = json!(wish);
        }
    }
    below
}

//! Registries: pull, push, log in, look.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_image::Platform;
use tokio_stream::wrappers::ReceiverStream;

use super::super::Shared;
use crate::api::error::{ApiError, ApiResult};
use crate::registries::auth_header::{self, AuthConfig};
use crate::registries::{PullRequest, Requested, requested};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PushQuery {
    pub tag: String,
}

/// `POST /images/create?fromImage=`: answers in lines while it goes on. A client that goes away
/// ends it.
pub async fn pull(
    app: &Shared,
    image: &str,
    tag: &str,
    platform: Option<&str>,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let platform = platform.filter(|text| !text.is_empty()).map(str::parse::<Platform>);
    let request = PullRequest {
        what: requested(image, tag)?,
        platform: platform.transpose()?,
        credentials: auth_header::credentials(headers)?,
    };
    let (first, rest) = app.registries.pull(Arc::clone(&app.images), request).await?;
    let first = stream::once(std::future::ready(first));
    Ok(lines(first.chain(ReceiverStream::new(rest))))
}

/// `POST /images/{name}/push?tag=`: as a pull.
pub async fn push(app: &Shared, name: &str, tag: &str, headers: &HeaderMap) -> ApiResult<Response> {
    let wanted = match requested(name, tag)? {
        Requested::One(wanted) => wanted,
        Requested::AllTags(_) => {
            return Err(ApiError::unsupported("tag", "pushing all tags of a repository"));
        }
    };
    if wanted.digest.is_some() {
        return Err(ApiError::invalid("name", name, "a name with a tag"));
    }
    let credentials = auth_header::credentials(headers)?;
    let images = Arc::clone(&app.images);
    let name = wanted.name.to_string();
    let outgoing = tokio::task::spawn_blocking(move || images.outgoing(&name));
    let outgoing = outgoing.await.map_err(ApiError::internal)??;
    let rest = app.registries.push(outgoing, credentials).await?;
    Ok(lines(ReceiverStream::new(rest)))
}

/// `GET /distribution/{name}/json`.
pub async fn distribution(
    State(app): State<Shared>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(ApiError::unsupported("distribution", &format!("GET /distribution/{rest}")));
    };
    let credentials = auth_header::credentials(&headers)?;
    Ok(Json(app.registries.describe(&name.parse()?, credentials).await?))
}

/// `POST /auth`: whether a registry takes these credentials. Keeping them is the client's matter.
pub async fn login(
    State(app): State<Shared>,
    Json(config): Json<AuthConfig>,
) -> ApiResult<Json<Value>> {
    let address = config.serveraddress.clone().unwrap_or_default();
    app.registries.login(&address, config.into_credentials()).await?;
    Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": "" })))
}

pub(super) fn lines(lines: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    ([("content-type", "application/json")], body).into_response()
}

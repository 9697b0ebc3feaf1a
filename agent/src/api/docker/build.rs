//! `POST /build`, the classic builder's API: a tar of the context comes, lines of JSON go.
//!
//! Owns the parameters' translation. What is asked for and not there is refused by name; a
//! parameter at its default is let pass, because the stock client sends all of them.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bollard::models::HostConfig;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tenantry_build::Dockerfile;
use tenantry_container::NetworkMode;
use tenantry_image::{Digest, Name, Removal};
use tokio_stream::wrappers::ReceiverStream;

use super::super::Shared;
use super::attach::is_true;
use super::create::limits_of;
use super::images::list::user;
use super::images::{blocking, reader};
use super::system::go_arch;
use crate::api::error::{ApiError, ApiResult, chain};
use crate::build::{self, BuildError, Context, Output, Request};
use crate::registries::auth_header;

/// Names may come several times.
type Parameters = Query<Vec<(String, String)>>;

pub async fn build(
    State(app): State<Shared>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let mut request = request_of(&parameters)?;
    request.credentials = auth_header::of_build(&headers)?;
    let turn = app.builds.turn().await;
    let (path, archive) = (request.dockerfile.clone(), reader(body));
    let received = blocking(&app, move |app| {
        let scratch = app.builds.scratch().map_err(ApiError::internal)?;
        let context = Context::receive(archive, &scratch, &path).map_err(refused)?;
        let file = Dockerfile::parse(context.dockerfile());
        let file = file.map_err(|error| refused(error.into()))?;
        Ok((scratch, context, file))
    });
    let (scratch, context, file) = received.await?;
    let (output, lines) = Output::new(request.quiet);
    // A task of its own: whoever goes away is noticed by the output's end.
    tokio::spawn(async move {
        build::build(app, request, file, context, scratch, output).await;
        drop(turn);
    });
    let lines = ReceiverStream::new(lines).map(Ok::<_, std::convert::Infallible>);
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// Forgets the cache, and removes the images that only it knew.
pub async fn prune(State(app): State<Shared>) -> ApiResult<Json<Value>> {
    let deleted = blocking(&app, |app| {
        let known = app.builds.forget();
        let mut deleted = Vec::new();
        // The newest first: those below become free by it.
        for image in app.images.list()? {
            let id = image.id.to_string();
            if !image.names.is_empty() || !known.contains(&id) {
                continue;
            }
            let users = |id: &Digest| user(app, id);
            match app.images.remove(&id, Removal::default(), &users) {
                Ok(removed) => deleted.extend(removed.deleted.iter().map(ToString::to_string)),
                // A container runs on it, or another image stands on it: it stays.
                Err(error) => tracing::debug!(image = id, error = chain(&error), "kept"),
            }
        }
        Ok(deleted)
    });
    Ok(Json(json!({ "CachesDeleted": deleted.await?, "SpaceReclaimed": 0 })))
}

fn refused(error: BuildError) -> ApiError {
    let message = error.message();
    match error {
        BuildError::Image(error) => error.into(),
        BuildError::Io { .. } | BuildError::Internal(_) => ApiError::internal(message),
        _ => ApiError::new(StatusCode::BAD_REQUEST, message),
    }
}

fn request_of(parameters: &[(String, String)]) -> ApiResult<Request> {
    let mut request = Request { dockerfile: "Dockerfile".into(), ..Request::default() };
    let mut host = HostConfig::default();
    for (name, value) in parameters {
        let number = || {
            let parsed = value.parse::<i64>();
            parsed.map(Some).map_err(|_| ApiError::invalid(name, value, "a whole number"))
        };
        // What the client sends for "nothing" differs from field to field.
        let is_default = matches!(value.as_str(), "" | "0" | "null" | "[]" | "{}" | "false");
        match name.as_str() {
            "dockerfile" if !value.is_empty() => request.dockerfile.clone_from(value),
            "t" if !value.is_empty() => {
                let name = value.parse::<Name>().map_err(ApiError::from)?;
                request.names.push(name.to_string());
            }
            "q" => request.quiet = is_true(Some(value)),
            "nocache" => request.no_cache = is_true(Some(value)),
            "target" => request.target = Some(value.clone()).filter(|target| !target.is_empty()),
            "buildargs" if !is_default => request.arguments = object(name, value)?,
            "labels" if !is_default => request.labels = object(name, value)?,
            "networkmode" => request.network = network(value)?,
            "memory" => host.memory = number()?,
            "memswap" => host.memory_swap = number()?,
            "cpushares" => host.cpu_shares = number()?,
            "cpuperiod" => host.cpu_period = number()?,
            "cpuquota" => host.cpu_quota = number()?,
            "cpusetcpus" => host.cpuset_cpus = Some(value.clone()),
            "platform" if !is_default => check_platform(value)?,
            "rm" if !is_true(Some(value)) => {
                return Err(ApiError::unsupported("rm", "keeping the containers of steps"));
            }
            "version" if value == "2" => {
                let reason = "BuildKit is not supported: set DOCKER_BUILDKIT=0";
                return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, reason));
            }
            "remote" | "squash" | "extrahosts" | "ulimits" | "cgroupparent" | "shmsize"
            | "outputs" | "securityopt" | "cpusetmems" | "isolation"
                if !is_default && value != "default" =>
            {
                return Err(ApiError::unsupported(name, "this parameter of a build"));
            }
            "pull" if is_true(Some(value)) => request.pull = true,
            // At its default, or without a meaning here (`cachefrom` is a hint).
            _ => {}
        }
    }
    request.limits = limits_of(&host)?;
    Ok(request)
}

fn object<V: serde::de::DeserializeOwned>(
    name: &str,
    value: &str,
) -> ApiResult<BTreeMap<String, V>> {
    serde_json::from_str(value)
        .map_err(|_| ApiError::invalid(name, value, "a JSON object of names and texts"))
}

fn network(value: &str) -> ApiResult<NetworkMode> {
    match value {
        "" | "default" | "bridge" => Ok(NetworkMode::Bridge),
        "host" => Ok(NetworkMode::Host),
        "none" => Ok(NetworkMode::None),
        other => Err(ApiError::invalid("networkmode", other, "default, bridge, host or none")),
    }
}

fn check_platform(value: &str) -> ApiResult<()> {
    let own = format!("linux/{}", go_arch());
    match value == own || value == "linux" || value.starts_with(&format!("{own}/")) {
        true => Ok(()),
        false => Err(ApiError::invalid("platform", value, own)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[(&str, &str)]) -> ApiResult<Request> {
        let list: Vec<(String, String)> =
            list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        request_of(&list)
    }

    #[test]
    fn what_the_stock_client_sends_by_default_is_let_pass() {
        let defaults = [
            ("buildargs", "{}"),
            ("cachefrom", "[]"),
            ("cgroupparent", ""),
            ("cpuperiod", "0"),
            ("cpuquota", "0"),
            ("cpusetcpus", ""),
            ("cpusetmems", ""),
            ("cpushares", "0"),
            ("dockerfile", "Dockerfile"),
            ("labels", "{}"),
            ("memory", "0"),
            ("memswap", "0"),
            ("networkmode", "default"),
            ("rm", "1"),
            ("shmsize", "0"),
            ("t", "a:1"),
            ("t", "b"),
            ("target", ""),
            ("ulimits", "null"),
            ("version", "1"),
        ];
        let request = parse(&defaults).unwrap();
        assert_eq!(request.names, ["a:1", "b:latest"]);
        assert_eq!(request.dockerfile, "Dockerfile");
        assert_eq!(request.limits, tenantry_container::LimitsPatch::default());
    }

    #[test]
    fn parameters_have_their_meaning() {
        let request = parse(&[
            ("buildargs", r#"{"A":"1","B":null}"#),
            ("labels", r#"{"l":"x"}"#),
            ("networkmode", "none"),
            ("nocache", "1"),
            ("target", "build"),
            ("memory", "67108864"),
        ])
        .unwrap();
        assert_eq!(request.arguments["A"], Some("1".into()));
        assert_eq!(request.arguments["B"], None);
        assert_eq!(request.labels["l"], "x");
        assert!(request.no_cache && request.network == NetworkMode::None);
        assert_eq!(request.target.as_deref(), Some("build"));
        assert!(request.limits.memory_bytes.is_some());
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (name, value) in [
            ("remote", "https://example.com/x.git"),
            ("squash", "1"),
            ("ulimits", r#"[{"Name":"nofile"}]"#),
            ("rm", "0"),
            ("version", "2"),
            ("networkmode", "container:x"),
            ("platform", "linux/riscv64"),
            ("t", "UPPER"),
            ("memory", "much"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            let named = error.message.contains(name) || error.message.contains(value);
            assert!(named || name == "version", "{name}: {}", error.message);
        }
    }
}

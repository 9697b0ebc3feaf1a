//! The Docker Engine API, as far as the lifecycle needs it: what the stock
//! `docker` client and its libraries ask for to run, watch, exec into, stop and
//! remove containers, and to load and list images.
//!
//! A request for something that is not served yet is answered with 501 and the
//! name of what is missing, never with a guess.

pub mod archive;
pub mod attach;
pub mod build;
pub mod changes;
pub mod containers;
pub mod create;
pub mod differences;
pub mod event_history;
pub mod events;
pub mod exec;
pub mod filters;
pub mod images;
pub mod inspect;
pub mod log_config;
mod logs;
mod mounts;
mod networking;
pub mod networks;
mod ports;
pub mod registry;
mod sizes;
pub mod stats;
mod surroundings;
pub mod system;
pub mod terminal;
pub mod top;
pub mod volumes;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, Uri, header, header::HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};

use super::error::ApiError;
use super::{MAX_BODY_BYTES, Shared};

pub const API_VERSION: &str = "1.43";
pub const MIN_API_VERSION: &str = "1.24";

/// The framework's own are one line.
const MOST_COMPLAINT: usize = 4096;

pub fn router(app: Shared) -> Router {
    Router::new()
        .route("/_ping", get(system::ping).head(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(events::events))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(create::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/top", get(top::top))
        .route("/containers/{id}/changes", get(differences::changes))
        .route("/containers/{id}/stats", get(stats::stats))
        .route(
            "/containers/{id}/archive",
            get(archive::get)
                .head(archive::stat)
                .put(archive::put)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/containers/{id}/export", get(archive::export))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/attach", post(attach::attach))
        .route("/containers/{id}/resize", post(terminal::resize))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/containers/{id}", delete(containers::remove))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/commit", post(images::commit::commit))
        .route("/system/df", get(images::usage::usage))
        .route("/images/json", get(images::list::list))
        .route("/images/get", get(images::save::save_several))
        .route("/images/prune", post(images::remove::prune))
        .route("/images/load", post(images::load).layer(DefaultBodyLimit::disable()))
        .route("/images/create", post(images::create).layer(DefaultBodyLimit::disable()))
        .route(
            "/images/{*rest}",
            get(images::get).post(images::remove::post).delete(images::remove::remove),
        )
        .route("/build", post(build::build).layer(DefaultBodyLimit::disable()))
        .route("/build/prune", post(build::prune))
        .route("/auth", post(registry::login))
        .route("/plugins/{name}/json", get(system::plugin))
        .route("/distribution/{*rest}", get(registry::distribution))
        .fallback(any(not_served))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(app.clone(), say_who_runs_it))
        .layer(axum::middleware::map_response(in_dockers_form))
        .layer(axum::middleware::map_response(announce_version))
        .with_state(app)
}

/// `/v1.43/containers/json` is `/containers/json`: every version that a client
/// may ask for is served alike. A path with another one is nobody's: see [`not_served`].
pub fn strip_version(mut request: Request) -> Request {
    let path_and_query = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Some((version, rest)) = versioned(path_and_query)
        && version_problem(version).is_none()
        && let Ok(uri) = rest.parse::<Uri>()
    {
        *request.uri_mut() = uri;
    }
    request
}

/// The version that a path begins with, and the rest.
fn versioned(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v")?;
    let (version, rest) = rest.split_at(rest.find('/')?);
    let is_version = version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (is_version && !version.is_empty()).then_some((version, rest))
}

/// Docker's own words for a version that is not served.
fn version_problem(version: &str) -> Option<String> {
    if numbers(version) < numbers(MIN_API_VERSION) {
        return Some(format!(
            "client version {version} is too old. Minimum supported API version is \
             {MIN_API_VERSION}, please upgrade your client to a newer version"
        ));
    }
    (numbers(version) > numbers(API_VERSION)).then(|| {
        format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )
    })
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap_or(u32::MAX)).collect()
}

async fn announce_version(mut response: Response) -> Response {
    response.headers_mut().insert("Api-Version", HeaderValue::from_static(API_VERSION));
    response
}

/// What the framework itself refuses, a body or a query that is not of the right form, is text;
/// Docker's clients look for a message in JSON, and know 400 for all of it.
async fn in_dockers_form(mut response: Response) -> Response {
    let status = match response.status() {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            StatusCode::BAD_REQUEST
        }
        status => status,
    };
    *response.status_mut() = status;
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !status.is_client_error() || !is_text {
        return response;
    }
    let text = axum::body::to_bytes(response.into_body(), MOST_COMPLAINT).await.unwrap_or_default();
    let text = match text.is_empty() {
        true => status.canonical_reason().unwrap_or_default().to_owned(),
        false => String::from_utf8_lossy(&text).into_owned(),
    };
    ApiError::new(status, text).into_response()
}

/// A container of another runtime is not unknown: whoever asks for it here is told whose it
/// is, in Docker's own words for a refusal.
async fn say_who_runs_it(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let id = container_in(request.uri().path()).map(str::to_owned);
    let response = next.run(request).await;
    match id {
        Some(id) if response.status() == StatusCode::NOT_FOUND => {
            app.refuse_foreign(&id).map_or_else(IntoResponse::into_response, |()| response)
        }
        _ => response,
    }
}

/// The container that a path names.
fn container_in(path: &str) -> Option<&str> {
    let id = path.strip_prefix("/containers/")?.split('/').next()?;
    (!id.is_empty() && id != "json" && id != "create").then_some(id)
}

/// `registry/demo` in `/containers/registry/demo/json`.
fn container_with_slash(path: &str) -> Option<&str> {
    let name = path.strip_prefix("/containers/")?.strip_suffix("/json")?;
    name.contains('/').then_some(name)
}

async fn not_served(request: Request) -> ApiError {
    let path = request.uri().path();
    if let Some(problem) = versioned(path).and_then(|(version, _)| version_problem(version)) {
        return ApiError::new(StatusCode::BAD_REQUEST, problem);
    }
    // No container's name has a slash: `docker inspect` asks whether an image's is one, and goes on
    // to images if not.
    if let Some(name) = container_with_slash(request.uri().path()) {
        return ApiError::new(StatusCode::NOT_FOUND, format!("No such container: {name}"));
    }
    let what = format!("{} {} is not served by tenantry", request.method(), request.uri().path());
    ApiError::new(StatusCode::NOT_IMPLEMENTED, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_container_or_none() {
        let check = |path, expected| assert_eq!(container_in(path), expected, "{path}");
        check("/containers/web/stop", Some("web"));
        check("/containers/web", Some("web"));
        check("/containers/json", None);
        check("/containers/create", None);
        check("/exec/1/start", None);
    }

    #[test]
    fn an_images_name_is_no_container() {
        let check = |path, expected| assert_eq!(container_with_slash(path), expected, "{path}");
        check("/containers/127.0.0.1:5000/demo:v1/json", Some("127.0.0.1:5000/demo:v1"));
        check("/containers/web/json", None);
        check("/containers/web/stats", None);
        check("/images/a/b/json", None);
    }

    /// Status and body of what a request gets here.
    async fn answer(method: &str, path: &str, kind: &str, body: &str) -> (u16, serde_json::Value) {
        use tower::ServiceExt as _;
        let make = |axum::Json(_): axum::Json<Vec<u32>>| async { "made" };
        let router = Router::new()
            .route("/things", post(make))
            .fallback(any(not_served))
            .layer(axum::middleware::map_response(in_dockers_form));
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, kind).body(body.to_owned().into());
        let response = router.oneshot(strip_version(request.unwrap())).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), MOST_COMPLAINT).await.unwrap();
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text().into()))
    }

    #[tokio::test]
    async fn what_is_refused_has_dockers_status_and_a_message() {
        const JSON: &str = "application/json";
        assert_eq!(answer("POST", "/v1.43/things", JSON, "[1]").await, (200, "made".into()));
        assert_eq!(answer("POST", "/v1.24/things", JSON, "[1]").await.0, 200);
        for (method, path, kind, body, status, word) in [
            ("POST", "/v1.99/things", JSON, "[1]", 400, "client version 1.99 is too new."),
            ("POST", "/v1.12/things", JSON, "[1]", 400, "client version 1.12 is too old."),
            ("POST", "/things", JSON, "[", 400, "EOF"),
            ("POST", "/things", JSON, "[\"a\"]", 400, "invalid type: string"),
            ("POST", "/things", "text/plain", "[1]", 400, "Content-Type"),
            ("GET", "/things", JSON, "", 405, "Method Not Allowed"),
            ("GET", "/nothing", JSON, "", 501, "GET /nothing is not served"),
        ] {
            let (got, said) = answer(method, path, kind, body).await;
            let message = said["message"].as_str().unwrap_or_default();
            assert!(got == status && message.contains(word), "{method} {path}: {got} {said}");
        }
    }

    #[test]
    fn a_version_prefix_is_taken_off_and_nothing_else() {
        let check = |path, expected| assert_eq!(versioned(path), expected, "{path}");
        check("/v1.43/containers/json?all=1", Some(("1.43", "/containers/json?all=1")));
        check("/v1/events", Some(("1", "/events")));
        check("/version", None);
        check("/volumes/x", None);
        check("/v/x", None);
        check("/containers/v1.2/json", None);
    }

    #[test]
    fn a_version_is_served_or_refused_in_dockers_words() {
        let check = |version, expected: &str| {
            let problem = version_problem(version).unwrap_or_default();
            assert_eq!(problem.split(". ").next().unwrap(), expected, "{version}");
        };
        check(API_VERSION, "");
        check(MIN_API_VERSION, "");
        check("1.30", "");
        check("1.23", "client version 1.23 is too old");
        check("1.9", "client version 1.9 is too old");
        check("1", "client version 1 is too old");
        check("1.44", "client version 1.44 is too new");
        check("1.100", "client version 1.100 is too new");
        check("2.0", "client version 2.0 is too new");
        check("1.99999999999", "client version 1.99999999999 is too new");
    }
}

//! `/_ping`, `/version`, `/info`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::HeaderValue;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tenantry_cgroupfs::Layout;

use super::super::{Shared, is_running};
use super::{API_VERSION, MIN_API_VERSION};
use crate::api::error::{ApiError, ApiResult};

/// The last place in which `docker inspect NAME` looks for what it has not found elsewhere.
pub async fn plugin(Path(name): Path<String>) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("plugin {name:?} not found"))
}

pub async fn ping() -> (HeaderMap, &'static str) {
    let headers = [
        ("OSType", "linux"),
        ("Docker-Experimental", "false"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Builder-Version", "1"),
    ];
    let headers = headers.map(|(name, value)| {
        (name.parse().expect("a header's name"), HeaderValue::from_static(value))
    });
    (HeaderMap::from_iter(headers), "OK")
}

pub async fn version() -> Json<Value> {
    let uname = rustix::system::uname();
    Json(json!({
        "Platform": { "Name": "tenantry" },
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MIN_API_VERSION,
        "Os": "linux",
        "Arch": go_arch(),
        "KernelVersion": uname.release().to_string_lossy(),
        "Components": [{ "Name": "Engine", "Version": env!("CARGO_PKG_VERSION"), "Details": {} }],
    }))
}

pub async fn info(State(app): State<Shared>) -> ApiResult<Json<Value>> {
    let uname = rustix::system::uname();
    let containers = app.engine.list();
    let running = containers.iter().filter(|container| is_running(container)).count();
    let images = app.images.list().map_err(crate::api::error::ApiError::internal)?.len();
    Ok(Json(json!({
        "ID": "tenantry",
        "Name": uname.nodename().to_string_lossy(),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": containers.iter().filter(|container| container.record.paused).count(),
        "ContainersStopped": containers.len() - running,
        "Images": images,
        "Driver": "overlay",
        // Where nothing else is said.
        "LoggingDriver": "json-file",
        "Plugins": {
            "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null,
            "Log": ["json-file", "none"],
        },
        "DockerRootDir": app.config.data_dir,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": if app.hierarchy.layout() == Layout::Unified { "2" } else { "1" },
        "KernelVersion": uname.release().to_string_lossy(),
        "OperatingSystem": "Linux",
        "OSType": "linux",
        "Architecture": uname.machine().to_string_lossy(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "MemTotal": rustix::system::sysinfo().totalram * u64::from(rustix::system::sysinfo().mem_unit),
        "DefaultRuntime": "tenantry",
        "Runtimes": { "tenantry": { "path": "tenantry-shim" } },
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "LiveRestoreEnabled": true,
        "Warnings": [],
    })))
}

/// What Go, and so every image index, calls this machine.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! `POST`, `GET` and `DELETE /v1/containers/{id}/profile`.

use axum::Json;
use axum::extract::{Path, State};
use tenantry_container::Snapshot;
use tenantry_ebpf::SwitchError;

use super::model::{ProfileAnswer, RefusedSyscall};
use crate::api::error::{ApiError, ApiResult, chain};
use crate::api::{App, Shared};
use crate::profile::{is_idle, seen, subjects};

/// Records every system call that one container asks for, from now on; one that never ran,
/// from its first instruction on. Goes on over its restarts and the agent's until it is ended.
/// Fine if it is recorded already.
#[utoipa::path(
    post,
    path = "/v1/containers/{id}/profile",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = ProfileAnswer), (status = 404, body = ApiError))
)]
pub async fn record(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<ProfileAnswer>> {
    let container = app.engine.get(&id)?;
    let record = &container.record;
    app.registry.record(&record.id, subjects(record), is_idle(record)).map_err(failed)?;
    answer(&app, &container)
}

/// What one container was seen to ask for, and the seccomp profile made of it.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/profile",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = ProfileAnswer), (status = 404, body = ApiError))
)]
pub async fn read(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<ProfileAnswer>> {
    answer(&app, &*app.engine.get(&id)?)
}

/// Ends the recording; what it saw stays as long as the container does.
#[utoipa::path(
    delete,
    path = "/v1/containers/{id}/profile",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = ProfileAnswer), (status = 404, body = ApiError))
)]
pub async fn end(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<ProfileAnswer>> {
    let container = app.engine.get(&id)?;
    app.registry.end_recording(&container.record.id).map_err(failed)?;
    answer(&app, &container)
}

fn answer(app: &App, container: &Snapshot) -> ApiResult<Json<ProfileAnswer>> {
    let record = &container.record;
    let internal = |error| ApiError::internal(chain(&error));
    let slot = app.registry.slot(&record.id);
    let recording = slot.map(|slot| app.meters.read_recording(slot)).transpose();
    let recording = recording.map_err(internal)?.flatten();
    let is_all = recording.as_ref().is_some_and(|recording| recording.from_start);
    // All counters are read only where some of them are needed.
    let (counted, errors) = match slot.filter(|_| !is_all) {
        Some(slot) => {
            let counters = app.meters.read(slot).map_err(internal)?;
            (counters.syscalls, counters.syscall_errors)
        }
        None => Default::default(),
    };
    let will_record = app.registry.will_record(&record.id);
    let mut seen = seen(recording.as_ref(), &counted, &errors);
    if slot.is_none() {
        seen.warnings = vec!["it never ran".into()];
    }
    let no_new_privileges = record.config.no_new_privileges;
    let refused = seen.refusals.iter().map(|(name, (calls, error))| RefusedSyscall {
        name: name.clone(),
        calls: *calls,
        error: error.map(error_name),
    });
    Ok(Json(ProfileAnswer {
        id: record.id.clone(),
        name: record.name.clone(),
        recording: will_record || recording.is_some_and(|recording| recording.running),
        complete: seen.complete,
        refused: refused.collect(),
        syscalls: seen.names(no_new_privileges).into_iter().map(str::to_owned).collect(),
        profile: seen.observed.profile(no_new_privileges),
        warnings: seen.warnings,
    }))
}

/// `EPERM` of 1; a number where the kernel has no name for it.
fn error_name(error: u32) -> String {
    match nix::errno::Errno::from_raw(error as i32) {
        nix::errno::Errno::UnknownErrno => error.to_string(),
        known => format!("{known:?}"),
    }
}

fn failed(error: SwitchError) -> ApiError {
    ApiError::internal(chain(&error))
}

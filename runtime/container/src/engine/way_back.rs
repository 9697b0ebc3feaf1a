//! Who keeps a throttled container's way back, and how it is gone.
//!
//! Owns the conversation with the shim that holds it, the note in the run file, and what the
//! next agent does with such a note.

use std::{sync::Arc, time::Duration};

use tenantry_cgroupfs::Restore;
use tenantry_network::{Bandwidth, Endpoint};
use tenantry_shim::protocol::{Lapse, Reply, Request};

use super::{Shared, blocking, cell::Cell, unix_ns, world};
use crate::{
    error::Error,
    held,
    limit_changes::{self, Act},
    limits::{Applied, Limits},
    record::{self, RunFile, ThrottleNote},
    shim::connection,
};

const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// First thing for a container that an agent left throttled when it died.
pub(super) async fn restore_noted(shared: &Arc<Shared>, cell: &Arc<Cell>, run: &RunFile) {
    let Some(noted) = &run.throttled else { return };
    let (_, mut failed) = run_all(&cell.id, noted.restore.clone()).await;
    if noted.bandwidth
        && let Some(endpoint) = &run.endpoint
    {
        let operator = cell.lock().record.limits.bandwidth;
        if let Err(error) = set_bandwidth(shared, endpoint, &operator).await {
            tracing::error!(container_id = cell.id, error = error.chain(), "not restored");
            failed += 1;
        }
    }
    tracing::info!(container_id = cell.id, failed, "an earlier agent's throttle taken back");
    if failed > 0 {
        return;
    }
    // A shim that is gone held nothing.
    match tell(shared, cell, &Request::LetGo).await {
        Ok(Some(lapse)) => {
            let failures = lapse.failures.len();
            let first = lapse.failures.first();
            tracing::warn!(container_id = cell.id, failures, ?first, "the lease had lapsed");
            shared.record(cell, Act::LAPSED, limit_changes::noted(&noted.restore));
        }
        told => {
            if let Err(error) = told {
                tracing::debug!(container_id = cell.id, error = error.chain(), "no shim");
            }
            shared.record(cell, Act::TAKEN_OVER, limit_changes::noted(&noted.restore));
        }
    }
    if let Err(error) = persist(shared, cell, None).await {
        tracing::warn!(container_id = cell.id, error = error.chain(), "note stays");
    }
}

pub(super) fn note(restores: &[Restore], force: &Limits) -> ThrottleNote {
    let bandwidth = force.bandwidth != Bandwidth::default();
    ThrottleNote { since_unix_ns: unix_ns(), restore: restores.to_vec(), bandwidth }
}

pub(super) async fn set_bandwidth(
    shared: &Shared,
    endpoint: &Endpoint,
    wanted: &Bandwidth,
) -> Result<Vec<Applied>, Error> {
    let written = shared.networks.set_bandwidth(endpoint, wanted).await;
    let written = written.map_err(|e| Error::failed("limit bandwidth", e))?;
    Ok(written.into_iter().map(Applied::from).collect())
}

pub(super) async fn run_all(id: &str, restores: Vec<Restore>) -> (Vec<Applied>, usize) {
    let id = id.to_owned();
    let work = move || Ok(held::restore_all(&id, &restores));
    blocking("restore limits", work).await.unwrap_or_else(|_| (vec![], 1))
}

pub(super) async fn tell(
    shared: &Shared,
    cell: &Cell,
    request: &Request,
) -> Result<Option<Lapse>, Error> {
    const WHAT: &str = "tell the shim of a throttle";
    let socket = world::socket_path(shared, cell);
    let asked = connection::ask(&socket, request);
    match tokio::time::timeout(ANSWER_PATIENCE, asked).await {
        Ok(Ok(Some(Reply::Held { lapse }))) => Ok(lapse),
        Ok(Ok(None)) => Err(Error::Unsupported {
            what: "a throttle".to_owned(),
            why: "the container's shim is an older version's; start the container anew".to_owned(),
        }),
        Ok(Ok(Some(other))) => Err(Error::failed(WHAT, format!("it answered {other:?}"))),
        Ok(Err(error)) => Err(Error::failed(WHAT, error)),
        Err(_) => Err(Error::failed(WHAT, "it does not answer")),
    }
}

/// The run file with another note.
pub(super) async fn persist(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    note: Option<ThrottleNote>,
) -> Result<(), Error> {
    let path = world::run_file_path(shared, cell);
    blocking("write the run file", move || {
        let failed = |e| Error::failed(format!("write {}", path.display()), e);
        let mut run: RunFile = record::read_json(&path).map_err(failed)?;
        run.throttled = note;
        record::write_json(&path, &run, false).map_err(failed)
    })
    .await
}

//! `pause` and `unpause`: a container's processes stand still, and go on.
//!
//! Owns the record's word on it, which is written before anybody hears that it is done: the
//! next agent leaves those alone that were paused on request, and lets all others go on.

use std::sync::Arc;

use super::{Engine, Shared, blocking, cell::Cell, detached, start};
use crate::{error::Error, events::Action, state::State};

impl Engine {
    /// Stops every process of a running container where it is.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it does not run, or is paused; [`Error::Failed`] if a process did
    /// not stop within two seconds, in which case all go on.
    pub async fn pause(&self, reference: &str) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let _op = cell.op.lock().await;
            freeze(&shared, &cell).await
        })
        .await
    }

    /// # Errors
    /// [`Error::Conflict`] if it is not paused.
    pub async fn unpause(&self, reference: &str) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let _op = cell.op.lock().await;
            let record = cell.snapshot().record.clone();
            if !record.paused {
                return Err(Error::Conflict(format!("Container {} is not paused", record.name)));
            }
            thaw(&shared, &cell).await
        })
        .await
    }
}

async fn freeze(shared: &Arc<Shared>, cell: &Arc<Cell>) -> Result<(), Error> {
    let (record, running) = {
        let inner = cell.lock();
        (inner.record.clone(), inner.running.clone())
    };
    let refused = |what: &str| Error::Conflict(format!("Container {} {what}", record.name));
    let running = running.filter(|_| record.state == State::Running);
    let running = running.ok_or_else(|| refused("is not running"))?;
    if record.paused {
        return Err(refused("is already paused"));
    }
    let group = running.group.clone();
    blocking("pause the container", move || {
        group.freeze().map_err(|error| Error::failed("pause the container", error))
    })
    .await?;
    cell.update(|inner| inner.record.paused = true);
    let writer = cell.clone();
    if let Err(error) = blocking("write the record", move || writer.persist()).await {
        // Not on disk, so not at all.
        thaw(shared, cell).await?;
        return Err(error);
    }
    shared.tell(cell, Action::Pause, &[]);
    Ok(())
}

/// Whoever is meant to end must go on first. Nothing if it is not paused.
pub(super) async fn thaw(shared: &Arc<Shared>, cell: &Arc<Cell>) -> Result<(), Error> {
    let (paused, running) = {
        let inner = cell.lock();
        (inner.record.paused, inner.running.clone())
    };
    let Some(running) = running.filter(|_| paused) else { return Ok(()) };
    let group = running.group.clone();
    blocking("unpause the container", move || match group.thaw() {
        // It ended meanwhile.
        Err(_) if !group.exists() => Ok(()),
        other => other.map_err(|error| Error::failed("unpause the container", error)),
    })
    .await?;
    cell.update(|inner| inner.record.paused = false);
    start::persist_later(cell);
    shared.tell(cell, Action::Unpause, &[]);
    Ok(())
}

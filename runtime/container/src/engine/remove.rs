//! `remove`: nothing of a container is left.
//!
//! Owns the order: the directory leaves its name by one rename, so that a crash
//! in the middle leaves either a whole container or rubbish that
//! [`super::adopt`] clears.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tenantry_image::remove_tree;

use super::{Engine, Shared, blocking, cell::Cell, detached, stop};
use crate::{
    error::Error,
    events::Action,
    signals::SIGKILL,
    state::{Happening, State},
};

/// What a removal renames a container's directory to begins so.
pub(super) const RUBBISH: &str = ".removed-";

impl Engine {
    /// Removes a container that does not run; with `force` it is killed first.
    pub async fn remove(&self, reference: &str, force: bool) -> Result<(), Error> {
        self.remove_with(reference, force, false).await
    }

    /// As [`Engine::remove`]; with `volumes` those go, too, that nobody named and nobody else
    /// uses. They always do with a container that removes itself.
    pub async fn remove_with(
        &self,
        reference: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move { remove(&shared, &cell, force, volumes).await }).await
    }
}

async fn remove(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    force: bool,
    volumes: bool,
) -> Result<(), Error> {
    loop {
        let op = cell.op.lock().await;
        let snapshot = cell.snapshot();
        if snapshot.removed {
            // Auto-removed while we waited.
            return Ok(());
        }
        let (name, state) = (&snapshot.record.name, snapshot.record.state);
        if matches!(state, State::Running | State::Restarting) && !force {
            let state = state.as_str();
            return Err(Error::Conflict(format!(
                "container {name} is {state}; stop it first or use force"
            )));
        }
        if state != State::Running {
            return locked(shared, cell, volumes).await;
        }
        cell.update(|inner| inner.record.stopped_by_user = true);
        drop(op);
        stop::end(shared, cell, SIGKILL, Duration::ZERO).await?;
    }
}

/// The caller holds `op`, and the container does not run.
pub(super) async fn locked(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    volumes: bool,
) -> Result<(), Error> {
    cell.update(|inner| {
        inner.cancel_restart.take().inspect(|waiting| waiting.notify_one());
    });
    let rubbish = shared.containers_dir().join(format!("{RUBBISH}{}", cell.id));
    let leaving = cell.clone();
    let removed = blocking("remove", move || {
        let begun = Instant::now();
        leaving
            .leave_disk(&rubbish)
            .map_err(|e| Error::failed(format!("rename {}", leaving.dir.display()), e))?;
        let renamed = begun.elapsed().as_micros() as u64;
        let removed = remove_tree(&rubbish);
        let micros = begun.elapsed().as_micros() as u64 - renamed;
        tracing::debug!(container_id = leaving.id, renamed, removed = micros, "directory gone");
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::failed(format!("remove {}", rubbish.display()), error))
            }
            _ => Ok(()),
        }
    })
    .await;
    if let Err(error) = removed {
        cell.update(|inner| {
            inner.transition(Happening::RemovalFailed);
            if let Some(ended) = &mut inner.record.ended {
                ended.error = Some(error.chain());
            }
        });
        return Err(error);
    }
    let (owner, volumes) = (cell.id.clone(), volumes || cell.lock().record.config.auto_remove);
    let releasing = shared.clone();
    blocking("release volumes", move || {
        releasing.volumes.release(&owner, volumes);
        Ok(())
    })
    .await?;
    let name = cell.snapshot().record.name.clone();
    shared.registry().remove(&name, &cell.id);
    shared.identity.forget(&cell.id);
    shared.config.limit_history.forget(&cell.id);
    shared.tell(cell, Action::Destroy, &[]);
    cell.update(|inner| inner.removed = true);
    Ok(())
}

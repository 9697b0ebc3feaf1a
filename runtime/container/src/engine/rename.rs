//! `rename` and changes of a restart policy: what of a container may change while it is there.
//!
//! Owns that a name is one container's at every moment: the new one is taken before the old one
//! is given back, and neither is if the record cannot be written.

use std::sync::Arc;

use super::{Engine, Shared, blocking, cell::Cell, detached, naming};
use crate::{config, error::Error, events::Action, restart::RestartPolicy, state::State};

impl Engine {
    /// # Errors
    /// [`Error::Invalid`] for what is no name, or its own; [`Error::Conflict`] for another's.
    pub async fn rename(&self, reference: &str, name: &str) -> Result<(), Error> {
        config::check_name(name)?;
        let (shared, cell) = self.target(reference)?;
        let name = name.to_owned();
        detached(async move { rename(&shared, &cell, &name).await }).await
    }

    /// For the next end, and for ends before the agent's next start.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the container is removed at its end.
    pub async fn update_restart(
        &self,
        reference: &str,
        policy: RestartPolicy,
    ) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let _op = cell.op.lock().await;
            let before = cell.snapshot().record.config.restart;
            if cell.snapshot().record.config.auto_remove && policy != RestartPolicy::No {
                let allowed = "no, when the container is to be removed at its end";
                return Err(Error::invalid("restart policy", policy, allowed));
            }
            cell.update(|inner| inner.record.config.restart = policy);
            let writer = cell.clone();
            let written = blocking("write the record", move || writer.persist()).await;
            if written.is_err() {
                cell.update(|inner| inner.record.config.restart = before);
            }
            written?;
            shared.tell(&cell, Action::Update, &[("restart", policy.to_string())]);
            Ok(())
        })
        .await
    }
}

async fn rename(shared: &Arc<Shared>, cell: &Arc<Cell>, name: &str) -> Result<(), Error> {
    let _op = cell.op.lock().await;
    let record = cell.snapshot().record.clone();
    let old = record.name.clone();
    if old == name {
        let allowed = "another name than it has";
        return Err(Error::invalid("name", name, allowed));
    }
    if record.state == State::Dead || cell.snapshot().removed {
        return Err(Error::Conflict(format!("container {old} is dead")));
    }
    shared.registry().take_name(name, &cell.id)?;
    cell.update(|inner| inner.record.name = name.to_owned());
    let writer = cell.clone();
    if let Err(error) = blocking("write the record", move || writer.persist()).await {
        cell.update(|inner| inner.record.name.clone_from(&old));
        shared.registry().give_name_back(name, &cell.id);
        return Err(error);
    }
    shared.registry().give_name_back(&old, &cell.id);
    let renamed = cell.snapshot();
    if let Some(live) = &renamed.live {
        naming::introduce(shared, &renamed.record, live.endpoints());
    }
    shared.tell(cell, Action::Rename, &[("oldName", format!("/{old}"))]);
    Ok(())
}

//! `start`: the plan of [`crate::plan`], carried out by [`super::world`].
//!
//! Owns who may start when, and what a start's success or failure changes.

use std::{sync::Arc, time::Instant};

use super::{
    Engine, Shared,
    cell::Cell,
    detached, ended, health, unix_ns, volumes,
    world::{StartWorld, Started},
};
use crate::{
    config::NetworkMode,
    error::Error,
    events::Action,
    plan::{self, StartFacts},
    record::Ended,
    shim::connection::{Replies, Requests},
    state::{self, Happening},
    volumes::VolumeAction,
};

impl Engine {
    /// Runs the container's program; returns once it has been executed.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it runs already, [`Error::Program`] if its program
    /// cannot be executed. A start that fails has left nothing behind.
    pub async fn start(&self, reference: &str) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let _op = cell.op.lock().await;
            by_user(&shared, &cell).await
        })
        .await
    }
}

/// A start that somebody asked for: the history of restarts begins anew.
/// The caller holds `op`.
pub(super) async fn by_user(shared: &Arc<Shared>, cell: &Arc<Cell>) -> Result<(), Error> {
    let state = cell.snapshot().record.state;
    if state::next(state, Happening::Started).is_none() {
        let name = &cell.snapshot().record.name;
        if cell.snapshot().record.paused {
            let why = "cannot start a paused container, try unpause instead";
            return Err(Error::Conflict(why.to_owned()));
        }
        return Err(Error::Conflict(format!("container {name} is {}", state.as_str())));
    }
    cell.update(|inner| {
        inner.cancel_restart.take().inspect(|waiting| waiting.notify_one());
        inner.record.stopped_by_user = false;
        inner.record.restarts = 0;
        inner.record.last_back_off_ms = 0;
    });
    let started = run(shared, cell).await;
    if let Err(error) = &started {
        cell.update(|inner| {
            inner.transition(Happening::StartFailed);
            inner.record.ended = Some(failed_start(error));
        });
        persist_later(cell);
    }
    started
}

/// Carries the plan out. The caller holds `op` and judges a failure.
pub(super) async fn run(shared: &Arc<Shared>, cell: &Arc<Cell>) -> Result<(), Error> {
    if shared.is_closing() {
        return Err(Error::Conflict("the agent is shutting down".to_owned()));
    }
    let begun = Instant::now();
    let world = StartWorld::new(shared, cell);
    let stages = plan::plan(world.facts());
    match plan::execute(&stages, &world).await {
        Ok(mut timings) => {
            timings.append(&mut world.details());
            timings.push(("total".to_owned(), begun.elapsed().as_micros() as u64));
            let Started { running, started_unix_ns, requests, replies } = world.finish()?;
            cell.update(|inner| {
                inner.transition(Happening::Started);
                let endpoint = running.live.endpoint.as_ref();
                inner.record.address = endpoint.map(|e| e.address).or(inner.record.address);
                inner.record.started_unix_ns = Some(started_unix_ns);
                inner.running = Some(running);
                inner.start_timings = timings;
            });
            persist_later(cell);
            volumes::tell(shared, &cell.snapshot().record, VolumeAction::Mount);
            shared.tell(cell, Action::Start, &[]);
            health::begin(shared, cell);
            watch(shared, cell, requests, replies);
            Ok(())
        }
        Err((step, error)) => {
            tracing::info!(
                container_id = cell.id,
                step = step.as_str(),
                error = error.chain(),
                "start failed and was undone"
            );
            Err(error)
        }
    }
}

/// Follows the program until it ends.
pub(super) fn watch(shared: &Arc<Shared>, cell: &Arc<Cell>, requests: Requests, replies: Replies) {
    tokio::spawn(ended::watch(shared.clone(), cell.clone(), requests, replies));
}

/// Durability is not worth a millisecond of anybody's start: what the next agent
/// needs is in the run file already.
pub(super) fn persist_later(cell: &Arc<Cell>) {
    let cell = cell.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = cell.persist() {
            tracing::error!(container_id = cell.id, error = error.chain(), "record not written");
        }
    });
}

pub(super) fn failed_start(error: &Error) -> Ended {
    /// Docker's for a container that could not be started for other reasons.
    const NOT_STARTED: i32 = 128;
    Ended {
        code: error.exit_code().unwrap_or(NOT_STARTED),
        signal: None,
        oom_killed: false,
        finished_unix_ns: unix_ns(),
        error: Some(error.chain()),
        lost_output_bytes: 0,
    }
}

/// What of a container a plan depends on.
pub(super) fn facts(cell: &Cell) -> StartFacts {
    let inner = cell.lock();
    let record = &inner.record;
    StartFacts {
        own_network: matches!(record.config.network, NetworkMode::Bridge | NetworkMode::None),
        limited: record.limits.resources != tenantry_cgroupfs::Resources::default(),
    }
}

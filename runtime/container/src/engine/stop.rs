//! `stop`, `kill`, `restart` and `wait`.
//!
//! Owns the escalation from the stop signal over SIGKILL to the cgroup's kill
//! file. None of these holds a container's lock while it waits.

use std::{sync::Arc, time::Duration};

use tenantry_shim::protocol::{ExitStatus, Reply, Request};
use tokio::time::timeout;

use super::{Engine, Shared, WaitCondition, blocking, cell::Cell, detached, pause, start, world};
use crate::{
    error::Error,
    events::Action,
    shim::connection,
    signals::{SIGKILL, SIGTERM},
    snapshot::Snapshot,
    state::{Happening, State},
};

const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Between SIGKILL and the last resort: time for a process in an uninterruptible
/// wait, and for the shim to write down the exit.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Asks the program to end by its stop signal, and makes it end after
    /// `grace` (`None`: the container's own, else 10 s). A container that does
    /// not run is left alone, one that waits for a restart stays down.
    pub async fn stop(&self, reference: &str, grace: Option<Duration>) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move { stop(&shared, &cell, grace).await }).await
    }

    /// Sends a signal to the program. One that is meant to end it (SIGKILL,
    /// SIGTERM, its stop signal) counts as a user's stop for restart policies.
    pub async fn kill(&self, reference: &str, signal: i32) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move { kill(&shared, &cell, signal).await }).await
    }

    /// [`Engine::stop`], then [`Engine::start`].
    pub async fn restart(&self, reference: &str, grace: Option<Duration>) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            stop(&shared, &cell, grace).await?;
            let _op = cell.op.lock().await;
            start::by_user(&shared, &cell).await?;
            shared.tell(&cell, Action::Restart, &[]);
            Ok(())
        })
        .await
    }

    /// Waits for `condition` and tells how the last run ended; code 0 for a
    /// container that never ran.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Failed`] if the container was removed before
    /// a condition other than `Removed` came true.
    pub async fn wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<ExitStatus, Error> {
        let cell = self.shared.find(reference)?;
        let mut snapshots = cell.watch();
        let endings = snapshots.borrow().endings;
        let fulfilled = move |snapshot: &Arc<Snapshot>| match condition {
            _ if snapshot.removed => true,
            WaitCondition::NotRunning => {
                !matches!(snapshot.record.state, State::Running | State::Restarting)
            }
            WaitCondition::NextExit => snapshot.endings > endings,
            WaitCondition::Removed => false,
        };
        let snapshot = match snapshots.wait_for(fulfilled).await {
            Ok(snapshot) => snapshot.clone(),
            Err(_) => cell.snapshot(),
        };
        Ok(exit_status(&snapshot))
    }
}

fn exit_status(snapshot: &Snapshot) -> ExitStatus {
    let ended = snapshot.record.ended.as_ref();
    ExitStatus {
        code: ended.map_or(0, |ended| ended.code),
        signal: ended.and_then(|ended| ended.signal),
        finished_unix_ns: ended.map_or(0, |ended| ended.finished_unix_ns),
    }
}

pub(super) async fn stop(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    grace: Option<Duration>,
) -> Result<(), Error> {
    let (was_running, signal, own_grace) = {
        // A start in progress ends first.
        let _op = cell.op.lock().await;
        let cancelled = cell.update(|inner| {
            inner.record.stopped_by_user = true;
            let waiting = inner.record.state == State::Restarting;
            if waiting {
                inner.cancel_restart.take().inspect(|waiting| waiting.notify_one());
                inner.transition(Happening::RestartCancelled);
            }
            waiting
        });
        if cancelled {
            shared.tell(cell, Action::Stop, &[]);
        }
        start::persist_later(cell);
        let record = &cell.snapshot().record;
        let grace = record.config.stop_timeout_s.map(Duration::from_secs);
        (record.state == State::Running, record.stop_signal, grace)
    };
    if !was_running {
        return Ok(());
    }
    let grace = grace.or(own_grace).unwrap_or(DEFAULT_GRACE);
    end(shared, cell, signal, grace).await?;
    shared.tell(cell, Action::Stop, &[]);
    Ok(())
}

/// Makes a running program end: `signal`, after `grace` SIGKILL, then the cgroup's
/// kill file. Returns when its end has been noted.
pub(super) async fn end(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    signal: i32,
    grace: Duration,
) -> Result<(), Error> {
    let mut snapshots = cell.watch();
    let mut down = async |patience: Duration| {
        let is_down = |snapshot: &Arc<Snapshot>| snapshot.record.state != State::Running;
        matches!(timeout(patience, snapshots.wait_for(is_down)).await, Ok(Ok(_)))
    };
    if !grace.is_zero() && signal != SIGKILL {
        send(shared, cell, signal).await?;
        pause::thaw(shared, cell).await?;
        if down(grace).await {
            return Ok(());
        }
    }
    send(shared, cell, SIGKILL).await?;
    pause::thaw(shared, cell).await?;
    if down(KILL_PATIENCE).await {
        return Ok(());
    }
    tracing::warn!(container_id = cell.id, "SIGKILL was not enough; killing the cgroup");
    let group = world::group_of(shared, &cell.id);
    blocking("kill the cgroup", move || {
        group.kill().map_err(|e| Error::failed("kill the cgroup", e))
    })
    .await?;
    if down(KILL_PATIENCE).await {
        return Ok(());
    }
    Err(Error::failed("stop", "the program did not end after SIGKILL"))
}

async fn kill(shared: &Arc<Shared>, cell: &Arc<Cell>, signal: i32) -> Result<(), Error> {
    if !(1..=64).contains(&signal) {
        return Err(Error::invalid("signal", signal, "1 to 64"));
    }
    let record = cell.snapshot().record.clone();
    if record.state != State::Running {
        let state = record.state.as_str();
        return Err(Error::Conflict(format!("container {} is {state}", record.name)));
    }
    if signal == SIGKILL || signal == SIGTERM || signal == record.stop_signal {
        cell.update(|inner| inner.record.stopped_by_user = true);
        start::persist_later(cell);
    }
    send(shared, cell, signal).await?;
    if signal == SIGKILL || signal == SIGTERM || signal == record.stop_signal {
        pause::thaw(shared, cell).await?;
    }
    shared.tell(cell, Action::Kill, &[("signal", signal.to_string())]);
    Ok(())
}

/// Through the shim, which knows its child's pid to be its child's. A program
/// that has ended already is no error: its end is on its way.
async fn send(shared: &Arc<Shared>, cell: &Arc<Cell>, signal: i32) -> Result<(), Error> {
    const ESRCH: i32 = 3;
    let socket = world::socket_path(shared, cell);
    match connection::ask(&socket, &Request::Signal { signal }).await {
        Ok(Some(Reply::Signalled { errno: 0 | ESRCH })) | Ok(None) => Ok(()),
        Ok(Some(Reply::Signalled { errno })) => {
            let source = std::io::Error::from_raw_os_error(errno);
            Err(Error::failed(format!("send signal {signal}"), source))
        }
        Ok(Some(other)) => {
            let what = format!("it answered {other:?}");
            Err(Error::failed(format!("send signal {signal}"), what))
        }
        Err(error) => {
            use std::io::ErrorKind as K;
            match error.kind() {
                // The shim is gone: so is the program, or the watch ends it now.
                K::ConnectionRefused | K::NotFound | K::ConnectionReset | K::BrokenPipe => Ok(()),
                _ => Err(Error::failed(format!("send signal {signal}"), error)),
            }
        }
    }
}

//! What happens when a container's program ends, however it ends.
//!
//! Owns the watch over a running container, the verdict (exit status, OOM, lost
//! shim), the clean-up after a run and the wait before a restart. Waiters hear of
//! an end as soon as it is known; the clean-up goes on under the container's
//! lock, so that a start or removal waits for it.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use tenantry_shim::protocol::{ExitRecord, ExitStatus, Reply};
use tokio::sync::Notify;

use super::{
    Shared, adopt, blocking,
    cell::{Cell, Running},
    launch, log_readers, remove, start, unix_ns, volumes, world,
};
use crate::{
    error::Error,
    events::Action,
    limit_changes::{self, Act},
    limits::Limits,
    record::{self, Ended},
    restart::{Ending, History, RestartDecision, decide_restart},
    shim::connection::{Replies, Requests},
    state::{Happening, State},
    volumes::VolumeAction,
};

/// A shim that has told the exit status has nothing left to do but exit.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);
/// Nobody can say how a program ended whose shim was killed.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// Follows a running container until it ends or the engine lets go of it.
pub(super) async fn watch(
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    requests: Requests,
    replies: Replies,
) {
    let mut closing = shared.closing.subscribe();
    let mut conversation = (requests, replies);
    let told = loop {
        let reply = tokio::select! {
            reply = conversation.1.receive() => reply,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        match reply {
            Ok(Some(Reply::Exited(status))) => break Some(status),
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => tracing::warn!(container_id = cell.id, %error, "lost the shim"),
        }
        // A shim that lives has its reasons to hang up; one that is gone cannot answer.
        match adopt::ask(&shared, &cell).await {
            Some((Reply::Exited(status), ..)) => break Some(status),
            Some((Reply::Running { .. }, requests, replies)) => conversation = (requests, replies),
            Some(_) | None => break None,
        }
    };
    drop(conversation);
    let _op = cell.op.lock().await;
    let Some(running) = cell.lock().running.clone() else { return };
    let status = match told {
        Some(status) => Verdict::Told(status),
        None => without_shim(&cell, &running).await,
    };
    ended(&shared, &cell, running, status).await;
}

/// How an end became known.
pub(super) enum Verdict {
    Told(ExitStatus),
    Unknown(&'static str),
}

/// The shim is gone without a word: what it wrote counts, and if it wrote
/// nothing, its container is ended too, since nobody holds its output any more.
async fn without_shim(cell: &Cell, running: &Running) -> Verdict {
    if let Some(shim) = &running.shim {
        shim.end(EXIT_PATIENCE).await;
    }
    if let Ok(left) = record::read_json::<ExitRecord>(&cell.dir.join(launch::EXIT_FILE)) {
        return Verdict::Told(left.status);
    }
    let group = running.group.clone();
    let killed = blocking("kill the cgroup", move || {
        group.kill().map_err(|e| Error::failed("kill the cgroup", e))
    });
    if let Err(error) = killed.await {
        tracing::error!(container_id = cell.id, error = error.chain(), "container not killed");
    }
    Verdict::Unknown("the shim was killed, and the container with it")
}

/// The end of one run. The caller holds `op`.
pub(super) async fn ended(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    running: Running,
    verdict: Verdict,
) {
    let begun = Instant::now();
    let oom_kills = read_oom_kills(&running).await;
    let micros = begun.elapsed().as_micros() as u64;
    tracing::debug!(container_id = cell.id, oom_kills, micros, "looked for OOM kills");
    cell.update(|inner| inner.record.oom_kills += oom_kills);
    let mut outcome = outcome(verdict, oom_kills > 0);
    match record::read_json::<ExitRecord>(&cell.dir.join(launch::EXIT_FILE)) {
        Ok(left) => outcome.lost_output_bytes = left.lost_output_bytes,
        Err(error) => {
            tracing::warn!(container_id = cell.id, %error, "what output was lost is not known");
        }
    }
    if outcome.lost_output_bytes > 0 {
        let bytes = outcome.lost_output_bytes;
        tracing::warn!(container_id = cell.id, bytes, "output lost: its log was not written");
    }
    let decision = judge(shared, cell, outcome, running.since.elapsed());
    if let Some(throttled) = &running.throttled {
        let operator = cell.lock().record.limits.clone();
        let changed = limit_changes::forced(&operator, &throttled.force, &Limits::default());
        shared.record(cell, Act::CONTAINER_ENDED, changed);
    }
    clean_up(shared, cell, running).await;
    follow(shared, cell, decision).await;
}

/// How a run ended, for the record.
pub(super) fn outcome(verdict: Verdict, oom_killed: bool) -> Ended {
    match verdict {
        Verdict::Told(status) => Ended {
            code: status.code,
            signal: status.signal,
            oom_killed,
            finished_unix_ns: status.finished_unix_ns,
            error: None,
            lost_output_bytes: 0,
        },
        Verdict::Unknown(why) => Ended {
            code: UNKNOWN_EXIT_CODE,
            signal: None,
            oom_killed,
            finished_unix_ns: unix_ns(),
            error: Some(why.to_owned()),
            lost_output_bytes: 0,
        },
    }
}

/// Decides, records and tells what comes after an end.
pub(super) fn judge(
    shared: &Shared,
    cell: &Cell,
    outcome: Ended,
    ran_for: Duration,
) -> RestartDecision {
    let ending = Ending { code: outcome.code, oom_killed: outcome.oom_killed };
    let decision = cell.update(|inner| {
        let record = &mut inner.record;
        let last_back_off = Duration::from_millis(record.last_back_off_ms);
        let history = History { restarts: record.restarts, last_back_off, ran_for };
        let decision =
            decide_restart(record.config.restart, history, ending, record.stopped_by_user);
        record.ended = Some(outcome.clone());
        record.paused = false;
        inner.running = None;
        inner.endings += 1;
        note(inner, decision);
        decision
    });
    cell.reset_stdin();
    if outcome.oom_killed {
        shared.tell(cell, Action::Oom, &[]);
    }
    let mut attributes = vec![("exitCode", outcome.code.to_string())];
    attributes.extend(outcome.signal.map(|signal| ("signal", signal.to_string())));
    attributes.push(("execDuration", ran_for.as_secs().to_string()));
    shared.tell(cell, Action::Die, &attributes);
    volumes::tell(shared, &cell.snapshot().record, VolumeAction::Unmount);
    decision
}

fn note(inner: &mut super::cell::Inner, decision: RestartDecision) {
    match decision {
        RestartDecision::Stay if inner.record.state == State::Restarting => {
            inner.transition(Happening::StartFailed);
        }
        RestartDecision::Stay => inner.transition(Happening::Ended),
        RestartDecision::Restart { after } => {
            inner.transition(Happening::EndedToRestart);
            inner.record.restarts += 1;
            inner.record.last_back_off_ms = after.as_millis() as u64;
        }
    }
}

/// Takes away what the start made; whatever fails is told and the rest goes on.
pub(super) async fn clean_up(shared: &Arc<Shared>, cell: &Arc<Cell>, running: Running) {
    let begun = Instant::now();
    shared.identity.unregister(&cell.id, &running.live.cgroup);
    let network = async {
        shared.networks.stop_names(&cell.id);
        for endpoint in running.live.endpoints() {
            world::disconnect(shared, &cell.id, endpoint).await;
        }
    };
    let cgroup = async {
        let begun = Instant::now();
        if let Some(shim) = &running.shim {
            shim.end(EXIT_PATIENCE).await;
        }
        let reaped = begun.elapsed().as_micros() as u64;
        world::remove_cgroup(&cell.id, &running.group).await;
        let removed = begun.elapsed().as_micros() as u64 - reaped;
        tracing::debug!(container_id = cell.id, reaped, removed, "shim and cgroup gone");
    };
    tokio::join!(network, cgroup);
    remove_run_files(shared, cell);
    tracing::debug!(
        container_id = cell.id,
        micros = begun.elapsed().as_micros() as u64,
        "cleaned up after a run"
    );
}

pub(super) fn remove_run_files(shared: &Shared, cell: &Cell) {
    let _ = fs::remove_file(world::socket_path(shared, cell));
    let _ = fs::remove_file(world::run_file_path(shared, cell));
}

/// Removal, restart or rest, as decided. The caller holds `op`.
pub(super) async fn follow(shared: &Arc<Shared>, cell: &Arc<Cell>, decision: RestartDecision) {
    match decision {
        RestartDecision::Restart { after } => {
            start::persist_later(cell);
            restart_after(shared, cell, after);
        }
        RestartDecision::Stay if cell.snapshot().record.config.auto_remove => {
            log_readers::wait(cell).await;
            if let Err(error) = remove::locked(shared, cell, true).await {
                tracing::error!(container_id = cell.id, error = error.chain(), "not removed");
            }
        }
        RestartDecision::Stay => start::persist_later(cell),
    }
}

/// Waits in a task of its own and starts the container again, unless somebody
/// stopped, started or removed it meanwhile.
pub(super) fn restart_after(shared: &Arc<Shared>, cell: &Arc<Cell>, after: Duration) {
    let cancelled = Arc::new(Notify::new());
    cell.update(|inner| inner.cancel_restart = Some(cancelled.clone()));
    let (shared, cell) = (shared.clone(), cell.clone());
    tokio::spawn(async move {
        let mut closing = shared.closing.subscribe();
        tokio::select! {
            () = tokio::time::sleep(after) => {}
            () = cancelled.notified() => return,
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let _op = cell.op.lock().await;
        let is_ours = cell.update(|inner| {
            let ours = inner.cancel_restart.as_ref().is_some_and(|c| Arc::ptr_eq(c, &cancelled));
            if ours {
                inner.cancel_restart = None;
            }
            ours && inner.record.state == State::Restarting
        });
        if !is_ours || shared.is_closing() {
            return;
        }
        match start::run(&shared, &cell).await {
            Ok(()) => shared.tell(&cell, Action::Restart, &[]),
            Err(error) => {
                let outcome = start::failed_start(&error);
                let decision = judge(&shared, &cell, outcome, Duration::ZERO);
                Box::pin(follow(&shared, &cell, decision)).await;
            }
        }
    });
}

/// An OOM kill anywhere in the container counts, not only that of its first process.
async fn read_oom_kills(running: &Running) -> u64 {
    let group = running.group.clone();
    let sample = tokio::task::spawn_blocking(move || group.read_sample());
    match sample.await {
        Ok(Ok(sample)) => sample.memory.oom_kills.unwrap_or(0),
        _ => 0,
    }
}

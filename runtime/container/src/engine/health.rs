//! Runs a container's health check while it runs.
//!
//! Owns the clock and the probes, which are processes as of `exec`; what a result means is
//! [`crate::health`]'s. One task for each running container that has a check. It ends with the
//! run, or with the engine; a run that the next agent adopts begins anew with `starting`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    time::{Instant, sleep, timeout},
};

use super::{Engine, ExecRequest, ExecStdio, Shared, cell::Cell, unix_ns};
use crate::{
    error::Error,
    events::Action,
    health::{Health, HealthCheck, HealthStatus, MOST_OUTPUT_BYTES, Probe},
    signals::SIGKILL,
    snapshot::Snapshot,
};

/// For output that is on its way when a probe has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// What a probe's code is that did not end by itself.
const NO_CODE: i32 = -1;

/// Begins the checks of a run that has begun.
pub(super) fn begin(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let check = cell.lock().record.health.clone();
    let health = check.is_some().then(Health::default);
    cell.update(|inner| inner.health = health);
    if let Some(check) = check {
        tokio::spawn(follow(shared.clone(), cell.clone(), check));
    }
}

async fn follow(shared: Arc<Shared>, cell: Arc<Cell>, check: HealthCheck) {
    let began = match cell.lock().running.as_ref() {
        Some(running) => running.since,
        None => return,
    };
    let mut closing = shared.closing.subscribe();
    let mut snapshots = cell.watch();
    let endings = cell.snapshot().endings;
    let is_over = |snapshot: &Arc<Snapshot>| {
        snapshot.removed || snapshot.endings != endings || snapshot.live.is_none()
    };
    loop {
        let health = cell.lock().health.clone().unwrap_or_default();
        let wait = health.pause(&check, began.elapsed());
        tokio::select! {
            () = sleep(wait) => {}
            _ = closing.wait_for(|closing| *closing) => return,
            _ = snapshots.wait_for(is_over) => return,
        }
        if cell.lock().record.paused {
            continue;
        }
        let since_start = began.elapsed();
        let probe = tokio::select! {
            probe = run(&shared, &cell, &check) => probe,
            _ = closing.wait_for(|closing| *closing) => return,
            _ = snapshots.wait_for(is_over) => return,
        };
        let Some(probe) = probe else { continue };
        let changed = cell.update(|inner| {
            if inner.endings != endings {
                // The run that this is about is over.
                return None;
            }
            inner.health.as_mut()?.take(&check, probe, since_start)
        });
        match changed {
            Some(HealthStatus::Healthy) => shared.tell(&cell, Action::Healthy, &[]),
            Some(HealthStatus::Unhealthy) => shared.tell(&cell, Action::Unhealthy, &[]),
            Some(HealthStatus::Starting) | None => {}
        }
    }
}

/// `None` if the container has ended meanwhile: that is no result.
async fn run(shared: &Arc<Shared>, cell: &Arc<Cell>, check: &HealthCheck) -> Option<Probe> {
    let started_unix_ns = unix_ns();
    let output = Output::default();
    let code = match execute(shared, cell, check, &output).await {
        Ok(code) => code,
        Err(Error::Conflict(_)) => return None,
        Err(error) => {
            output.set(error.chain());
            error.exit_code().unwrap_or(NO_CODE)
        }
    };
    let output = output.text();
    Some(Probe { started_unix_ns, ended_unix_ns: unix_ns(), code, output })
}

async fn execute(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    check: &HealthCheck,
    output: &Output,
) -> Result<i32, Error> {
    let failed = |error: std::io::Error| Error::failed("run the health check", error);
    let null = std::fs::File::open("/dev/null").map_err(failed)?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Error::failed("run the health check", error))?;
    let stderr = write.try_clone().map_err(failed)?;
    let stdio = ExecStdio::Pipes { stdin: null.into(), stdout: write, stderr };
    let request = ExecRequest { args: check.args.clone(), ..ExecRequest::default() };
    let engine = Engine { shared: shared.clone() };
    let deadline = Instant::now() + check.timeout;
    let handle = engine.exec(&cell.id, request, stdio).await?;
    let receiver = pipe::Receiver::from_owned_fd(read).map_err(failed)?;
    // Read while it runs, or a talkative one would wait for its pipe.
    let mut reading = tokio::spawn(output.clone().read(receiver));
    let left = deadline.saturating_duration_since(Instant::now());
    let code = match timeout(left, handle.wait()).await {
        Ok(status) => {
            let code = status?.code;
            // Whoever it left behind may hold the pipe open for ever.
            let _ = timeout(LAST_WORDS, &mut reading).await;
            code
        }
        Err(_) => {
            let killed = handle.signal(SIGKILL).await;
            if let Err(error) = killed {
                tracing::warn!(container_id = cell.id, error = error.chain(), "probe not ended");
            }
            output.set(format!("Health check exceeded timeout ({:?})", check.timeout));
            NO_CODE
        }
    };
    reading.abort();
    Ok(code)
}

/// The first bytes of what a probe says.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text.into_bytes();
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn read(self, mut receiver: pipe::Receiver) {
        let mut piece = [0; 1024];
        while let Ok(length @ 1..) = receiver.read(&mut piece).await {
            let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MOST_OUTPUT_BYTES.saturating_sub(bytes.len()).min(length);
            bytes.extend_from_slice(&piece[..room]);
        }
    }
}

//! Opening: what earlier agents left is read, adopted, concluded or cleared.
//!
//! Owns the reading of records and the three cases of each: its shim lives (watch
//! it again: same pid, counters and log go on), its run ended while nobody looked
//! (the shim's exit file says how; the restart policy decides as it would have),
//! or it did not run. Never fatal for one container's sake.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tenantry_image::remove_tree;
use tenantry_shim::protocol::{ExitRecord, Reply, Request};

use super::{
    Shared, blocking,
    cell::{Cell, Running},
    ended::{self, Verdict},
    health, launch, lending, naming,
    remove::RUBBISH,
    start, unix_ns, volumes, way_back, world,
};
use crate::{
    config,
    error::Error,
    events::Action,
    record::{self, Record, RunFile, VERSION},
    restart::{RestartDecision, decide_at_open},
    shim::{
        connection::{self, Replies, Requests},
        spawn::Shim,
    },
    snapshot::{Live, read_namespaces},
    state::{Happening, State},
};

/// A living shim answers at once; a stopped one must not hold the agent up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Where records go that cannot be read.
const UNREADABLE: &str = "unreadable";

pub(super) async fn open(shared: &Arc<Shared>) -> Result<(), Error> {
    let reader = shared.clone();
    let cells = blocking("read records", move || read_records(&reader)).await?;
    for cell in &cells {
        let name = cell.snapshot().record.name.clone();
        shared.registry().insert(&name, cell.clone());
    }
    futures_util::future::join_all(cells.iter().map(|cell| settle(shared, cell))).await;
    futures_util::future::join_all(cells.iter().map(|cell| naming::serve_again(shared, cell)))
        .await;
    let cleaner = shared.clone();
    blocking("clear rubbish", move || {
        clear_rubbish(&cleaner);
        Ok(())
    })
    .await
}

fn read_records(shared: &Shared) -> Result<Vec<Arc<Cell>>, Error> {
    let dir = shared.containers_dir();
    let failed = |e| Error::failed(format!("read {}", dir.display()), e);
    let mut cells = vec![];
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(RUBBISH) {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "rubbish not removed");
            }
        } else if config::is_id(&name) {
            match read_record(&path, &name) {
                Ok(record) => {
                    if let Err(error) = volumes::claim(shared, &record) {
                        let error = error.chain();
                        tracing::error!(container_id = name, error, "a volume cannot be had");
                    }
                    cells.push(Arc::new(Cell::new(record, path)));
                }
                Err(error) => set_aside(shared, &path, &name, &error),
            }
        }
    }
    Ok(cells)
}

fn read_record(dir: &Path, id: &str) -> io::Result<Record> {
    let record: Record = record::read_json(&dir.join(record::FILE))?;
    if record.version != VERSION {
        let found = record.version;
        return Err(io::Error::other(format!("version {found}, this agent writes {VERSION}")));
    }
    if record.id != id {
        return Err(io::Error::other(format!("it says its id is {}", record.id)));
    }
    Ok(record)
}

fn set_aside(shared: &Shared, path: &Path, name: &str, error: &io::Error) {
    let aside = shared.config.data_dir.join(UNREADABLE);
    let moved = fs::create_dir_all(&aside)
        .and_then(|()| fs::rename(path, aside.join(format!("{name}-{}", unix_ns()))));
    tracing::error!(
        path = %path.display(),
        %error,
        aside = %aside.display(),
        moved = moved.is_ok(),
        "container's record is unreadable; set aside"
    );
}

/// One container's case.
async fn settle(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let _op = cell.op.lock().await;
    let run_file: Option<RunFile> = record::read_json(&world::run_file_path(shared, cell)).ok();
    if let Some(run_file) = &run_file {
        way_back::restore_noted(shared, cell, run_file).await;
    }
    let verdict = match ask(shared, cell).await {
        Some((Reply::Running { pid, started_unix_ns }, requests, replies)) => {
            match adopt(shared, cell, run_file, pid, started_unix_ns) {
                Ok(()) => start::watch(shared, cell, requests, replies),
                Err(error) => {
                    let error = error.chain();
                    tracing::error!(container_id = cell.id, error, "not adopted");
                }
            }
            return;
        }
        Some((Reply::Exited(status), ..)) => Some(Verdict::Told(status)),
        // A gate that was never opened: our hanging up makes the shim undo it all.
        Some(_) | None => match record::read_json(&cell.dir.join(launch::EXIT_FILE)) {
            Ok(ExitRecord { status, .. }) => Some(Verdict::Told(status)),
            Err(_) => None,
        },
    };
    let was_running = cell.snapshot().record.state == State::Running;
    let verdict = match verdict {
        // A told exit that the record already holds was handled before.
        Some(Verdict::Told(status)) if !was_running && run_file.is_none() => {
            tracing::debug!(container_id = cell.id, ?status, "exit known already");
            None
        }
        None if was_running => {
            Some(Verdict::Unknown("the shim or the host was ended while no agent ran"))
        }
        other => other,
    };
    match verdict {
        Some(verdict) => conclude(shared, cell, run_file, verdict).await,
        None => {
            clear_failed_start(shared, cell, run_file).await;
            revive(shared, cell);
        }
    }
}

/// What a living shim says first; `None` if there is none, or it does not answer.
pub(super) async fn ask(shared: &Shared, cell: &Cell) -> Option<(Reply, Requests, Replies)> {
    let socket = world::socket_path(shared, cell);
    let asked = async {
        let (requests, mut replies) = connection::open(&socket, &Request::Watch).await.ok()?;
        let reply = replies.receive().await.ok()??;
        Some((reply, requests, replies))
    };
    tokio::time::timeout(ANSWER_PATIENCE, asked).await.ok().flatten()
}

fn adopt(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    run_file: Option<RunFile>,
    pid: i32,
    started_unix_ns: u64,
) -> Result<(), Error> {
    let group = world::group_of(shared, &cell.id);
    let cgroup = group.ids().map_err(|e| Error::failed("read the cgroup's ids", e))?;
    // An agent that was killed in the middle of a look left it paused; so may a user have.
    if !cell.snapshot().record.paused
        && let Err(error) = group.thaw()
    {
        tracing::error!(container_id = cell.id, %error, "its processes may be paused");
    }
    let endpoint = run_file.as_ref().and_then(|run| run.endpoint.clone());
    let further = run_file.as_ref().map(|run| run.further.clone()).unwrap_or_default();
    for endpoint in endpoint.iter().chain(&further) {
        shared.networks.adopt(endpoint);
    }
    naming::introduce(shared, &cell.snapshot().record, endpoint.iter().chain(&further));
    if let Err(why) = shared.identity.register(&cell.id, &cgroup) {
        tracing::error!(container_id = cell.id, why, "adopted without an identity");
    }
    // It answered a moment ago, so the number is still its own.
    let shim = run_file.and_then(|run| Shim::watch(run.shim_pid).ok()).map(Arc::new);
    let ran_for = Duration::from_nanos(unix_ns().saturating_sub(started_unix_ns));
    let since = Instant::now().checked_sub(ran_for).unwrap_or_else(Instant::now);
    let live = Live {
        pid,
        shim_pid: shim.as_ref().map_or(0, |shim| shim.pid),
        cgroup,
        cgroup_dir: group.unified_dir().to_owned(),
        namespaces: read_namespaces(pid),
        endpoint,
        further,
    };
    cell.update(|inner| {
        // The record may be older than the start.
        inner.record.state = State::Running;
        inner.record.started_unix_ns = Some(started_unix_ns);
        inner.running = Some(Running { live, group, shim, since, throttled: None });
    });
    health::begin(shared, cell);
    tracing::info!(container_id = cell.id, pid, "adopted");
    Ok(())
}

/// A run that ended while no agent looked: as if it had ended now.
async fn conclude(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    run_file: Option<RunFile>,
    verdict: Verdict,
) {
    let group = world::group_of(shared, &cell.id);
    let started = cell.snapshot().record.started_unix_ns;
    let finished = match &verdict {
        Verdict::Told(status) => status.finished_unix_ns,
        Verdict::Unknown(_) => unix_ns(),
    };
    let ran_for = Duration::from_nanos(finished.saturating_sub(started.unwrap_or(finished)));
    let since = Instant::now().checked_sub(ran_for).unwrap_or_else(Instant::now);
    cell.update(|inner| inner.record.state = State::Running);
    let Some(run) = run_file else {
        // The host was restarted: cgroup, network and processes went with it.
        let outcome = ended::outcome(verdict, false);
        let decision = ended::judge(shared, cell, outcome, ran_for);
        clear_failed_start(shared, cell, None).await;
        ended::follow(shared, cell, decision).await;
        return;
    };
    for endpoint in run.endpoints() {
        shared.networks.adopt(endpoint);
    }
    let live = Live {
        pid: run.pid,
        shim_pid: run.shim_pid,
        cgroup: run.cgroup,
        cgroup_dir: group.unified_dir().to_owned(),
        namespaces: Default::default(),
        endpoint: run.endpoint,
        further: run.further,
    };
    let running = Running { live, group, shim: None, since, throttled: None };
    ended::ended(shared, cell, running, verdict).await;
}

/// What an agent that died during a start left behind.
async fn clear_failed_start(shared: &Arc<Shared>, cell: &Arc<Cell>, run_file: Option<RunFile>) {
    let group = world::group_of(shared, &cell.id);
    if group.unified_dir().exists() {
        if let Ok(ids) = group.ids() {
            shared.identity.unregister(&cell.id, &ids);
        }
        world::remove_cgroup(&cell.id, &group).await;
    }
    for endpoint in run_file.iter().flat_map(RunFile::endpoints) {
        shared.networks.adopt(endpoint);
        world::disconnect(shared, &cell.id, endpoint).await;
    }
    ended::remove_run_files(shared, cell);
}

/// Starts what should run but does not.
fn revive(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let record = &cell.snapshot().record;
    let policy = record.config.restart;
    let decision = decide_at_open(policy, record.state, record.restarts, record.stopped_by_user);
    match (decision, record.state) {
        (RestartDecision::Restart { after }, State::Restarting) => {
            ended::restart_after(shared, cell, after);
        }
        (RestartDecision::Restart { .. }, _) => {
            let (shared, cell, config) = (shared.clone(), cell.clone(), record.config.clone());
            tokio::spawn(async move {
                lending::wait_for_lenders(&shared, &config).await;
                let _op = cell.op.lock().await;
                // Somebody else was quicker.
                if cell.lock().running.is_some() || cell.snapshot().removed {
                    return;
                }
                match start::run(&shared, &cell).await {
                    Ok(()) => shared.tell(&cell, Action::Restart, &[]),
                    Err(error) => cell.update(|inner| {
                        inner.transition(Happening::StartFailed);
                        inner.record.ended = Some(start::failed_start(&error));
                    }),
                }
            });
        }
        (RestartDecision::Stay, State::Restarting) => {
            cell.update(|inner| inner.transition(Happening::RestartCancelled));
            start::persist_later(cell);
        }
        (RestartDecision::Stay, State::Exited) if record.config.auto_remove => {
            let (shared, cell) = (shared.clone(), cell.clone());
            tokio::spawn(async move {
                let _op = cell.op.lock().await;
                if let Err(error) = super::remove::locked(&shared, &cell, true).await {
                    tracing::error!(container_id = cell.id, error = error.chain(), "not removed");
                }
            });
        }
        (RestartDecision::Stay, _) => {}
    }
}

/// Files of shims, and empty cgroups, of containers that exist no more.
fn clear_rubbish(shared: &Shared) {
    let cells = shared.cells();
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    for name in names(&shared.sockets.dir) {
        let short = name.split('.').next().unwrap_or_default();
        if !cells.iter().any(|cell| cell.short() == short) {
            let _ = fs::remove_file(shared.sockets.dir.join(&name));
        }
    }
    let parent = shared.hierarchy.group(&shared.config.cgroup_parent);
    for id in names(parent.unified_dir()).iter().filter(|name| config::is_id(name)) {
        if !cells.iter().any(|cell| cell.id == **id)
            && let Err(error) = world::group_of(shared, id).remove()
        {
            // A process in it: not ours to judge without a record.
            tracing::warn!(container_id = id, %error, "cgroup of an unknown container");
        }
    }
}

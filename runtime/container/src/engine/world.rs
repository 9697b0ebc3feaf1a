//! What the steps of a start do to this host, and how each is undone.
//!
//! Owns the hands of [`crate::plan`]: no step chooses whether to run, every undo
//! copes with a step that got only half-way.

use std::{
    fs, io,
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tenantry_cgroupfs::{CgroupIds, Group};
use tenantry_network::{Bandwidth, Endpoint};
use tenantry_shim::protocol::{Reply, Request};

use super::{
    Shared, blocking,
    cell::{Cell, Running},
    launch, lending, limits, naming, networking, start, unix_ns, volumes,
};
use crate::{
    config::NetworkMode,
    error::Error,
    plan::{StartFacts, Step, Timings, World},
    record::{self, Record, RunFile},
    shim::{
        connection::{self, Replies, Requests},
        spawn::{self, Birth, Shim},
    },
    snapshot::{Live, read_namespaces},
};

/// How long a shim may take to undo a start before it is killed.
const UNDO_PATIENCE: Duration = Duration::from_secs(5);

pub struct StartWorld {
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    record: Record,
    group: Group,
    made: Mutex<Made>,
}

/// What the steps have made so far.
#[derive(Default)]
struct Made {
    cgroup: Option<CgroupIds>,
    shim: Option<Arc<Shim>>,
    conversation: Option<(Requests, Replies)>,
    pid: Option<i32>,
    /// In the order of its networks.
    endpoints: Vec<Endpoint>,
    started_unix_ns: Option<u64>,
    details: Timings,
}

pub struct Started {
    pub running: Running,
    pub started_unix_ns: u64,
    pub requests: Requests,
    pub replies: Replies,
}

impl StartWorld {
    pub fn new(shared: &Arc<Shared>, cell: &Arc<Cell>) -> Self {
        let record = cell.lock().record.clone();
        let group = group_of(shared, &record.id);
        let (shared, cell) = (shared.clone(), cell.clone());
        Self { shared, cell, record, group, made: Mutex::default() }
    }

    pub fn facts(&self) -> StartFacts {
        start::facts(&self.cell)
    }

    /// Parts of steps, in microseconds.
    pub fn details(&self) -> Timings {
        std::mem::take(&mut self.made().details)
    }

    fn note(&self, part: &str, begun: Instant) {
        let micros = begun.elapsed().as_micros() as u64;
        tracing::debug!(container_id = self.record.id, part, micros, "part of a start step");
        self.made().details.push((part.to_owned(), micros));
    }

    /// What a whole plan has made.
    pub fn finish(self) -> Result<Started, Error> {
        let pid = self.pid()?;
        let cgroup = self.ids()?;
        let mut made = self.made();
        let missing = || Error::failed("start", "a step of the plan left nothing behind");
        let shim = made.shim.take().ok_or_else(missing)?;
        let (requests, replies) = made.conversation.take().ok_or_else(missing)?;
        let mut endpoints = std::mem::take(&mut made.endpoints).into_iter();
        let live = Live {
            pid,
            shim_pid: shim.pid,
            cgroup,
            cgroup_dir: self.group.unified_dir().to_owned(),
            namespaces: read_namespaces(pid),
            endpoint: endpoints.next(),
            further: endpoints.collect(),
        };
        let started_unix_ns = made.started_unix_ns.unwrap_or_else(unix_ns);
        let group = self.group.clone();
        let since = Instant::now();
        let running = Running { live, group, shim: Some(shim), since, throttled: None };
        Ok(Started { running, started_unix_ns, requests, replies })
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pid(&self) -> Result<i32, Error> {
        self.made().pid.ok_or_else(|| Error::failed("start", "no process yet"))
    }

    fn ids(&self) -> Result<CgroupIds, Error> {
        self.made().cgroup.ok_or_else(|| Error::failed("start", "no cgroup yet"))
    }

    /// The next reply of the shim, or why there is none.
    async fn reply(&self, replies: &mut Replies) -> Result<Reply, Error> {
        match replies.receive().await {
            Ok(Some(Reply::Failed(failure))) => Err(failure.into()),
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(Error::failed("start the container", "the shim ended without a word")),
            Err(error) => Err(Error::failed("read from the shim", error)),
        }
    }

    async fn spawn_shim(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let loan = lending::borrow(&self.shared, &self.record.config)?;
        let config = &self.record.config;
        let host = if config.privileged || !config.devices.is_empty() {
            let (shared, record) = (self.shared.clone(), self.record.clone());
            blocking("look at the host's devices", move || launch::from_host(&shared, &record))
                .await?
        } else {
            launch::from_host(&self.shared, &self.record)?
        };
        let spec = launch::spec(
            &self.shared.config,
            &self.record,
            &self.cell.dir,
            loan.as_ref().map(|loan| loan.dir.as_path()),
            &self.group,
            volumes::sources(&self.shared, &self.record),
            host,
        );
        let (program, name) = (self.shared.shim_program.clone(), self.cell.short().to_owned());
        let socket = socket_path(&self.shared, &self.cell);
        let seccomp = self
            .shared
            .seccomp
            .program(&self.record.config.seccomp, self.record.process.capabilities)?;
        let stdin = self.cell.stdin_for_start();
        let stdin = stdin.map_err(|e| Error::failed("make a pipe for standard input", e))?;
        let pid = {
            let socket = socket.clone();
            blocking("spawn the shim", move || {
                let failed = |what: String| move |error: io::Error| Error::failed(what, error);
                let bind = failed(format!("bind {}", socket.display()));
                let birth = Birth {
                    spec: spawn::seal_spec(&spec).map_err(failed("seal the spec".into()))?,
                    listener: UnixListener::bind(&socket).map_err(bind)?,
                    seccomp: seccomp.map(|program| program.reopen()).transpose()?,
                    stdin,
                    network: loan.map(|loan| loan.namespace),
                };
                spawn::spawn(&program, &name, birth).map_err(failed("execute the shim".into()))
            })
            .await?
        };
        self.note("spawn_shim: executed", begun);
        let shim = Shim::watch(pid).map_err(|e| Error::failed("pidfd_open", e))?;
        self.made().shim = Some(Arc::new(shim));
        // The listener's backlog takes us even before the shim looks at it.
        let conversation = connection::open(&socket, &Request::Watch).await;
        let (requests, mut replies) =
            conversation.map_err(|e| Error::failed("connect to the shim", e))?;
        let reply = self.reply(&mut replies).await?;
        self.note("spawn_shim: created", begun);
        let mut made = self.made();
        made.conversation = Some((requests, replies));
        match reply {
            Reply::Created { pid } => made.pid = Some(pid),
            other => return Err(out_of_turn(&other)),
        }
        Ok(())
    }

    async fn setup_network(&self) -> Result<(), Error> {
        let begun = Instant::now();
        let pid = self.pid()? as u32;
        let wishes = self.record.config.wishes();
        if wishes.is_empty() {
            let raised = self.shared.networks.raise_loopback(pid).await;
            return raised.map_err(|e| Error::failed("set up the loopback interface", e));
        }
        for (index, wish) in wishes.iter().enumerate() {
            // A fixed address is a wish; the last one is only what is best kept.
            let kept = self.record.address.filter(|_| index == 0 && wish.address.is_none());
            let gone_through = self.made().endpoints.iter().any(|made| made.default_route);
            let endpoint = networking::connect(
                &self.shared,
                &self.record.id,
                pid,
                wish,
                kept,
                index,
                !gone_through,
            )
            .await?;
            self.made().endpoints.push(endpoint);
        }
        self.note("setup_network: connected", begun);
        let mut endpoints = self.made().endpoints.clone();
        networking::publish(&self.shared, &self.record.config, &mut endpoints).await?;
        self.made().endpoints.clone_from(&endpoints);
        naming::name(&self.shared, &self.record, pid, &endpoints).await?;
        if let Some(first) = endpoints.first()
            && self.record.limits.bandwidth != Bandwidth::default()
        {
            let wanted = &self.record.limits.bandwidth;
            let limited = self.shared.networks.set_bandwidth(first, wanted).await;
            limited.map_err(|e| Error::failed("limit bandwidth", e))?;
        }
        networking::append_hosts(&self.cell, &endpoints)
    }

    fn persist_state(&self) -> Result<(), Error> {
        let (pid, cgroup) = (self.pid()?, self.ids()?);
        let run_file = {
            let made = self.made();
            let shim_pid = made.shim.as_ref().map_or(0, |shim| shim.pid);
            let endpoint = made.endpoints.first().cloned();
            let further = made.endpoints.iter().skip(1).cloned().collect();
            let id = self.record.id.clone();
            RunFile { id, shim_pid, pid, cgroup, endpoint, further, throttled: None }
        };
        let path = run_file_path(&self.shared, &self.cell);
        record::write_json(&path, &run_file, false)
            .map_err(|e| Error::failed(format!("write {}", path.display()), e))
    }

    async fn open_gate(&self) -> Result<(), Error> {
        let taken = self.made().conversation.take();
        let Some((mut requests, mut replies)) = taken else {
            return Err(Error::failed("start", "no conversation with the shim"));
        };
        let sent = requests.send(&Request::Start).await;
        sent.map_err(|e| Error::failed("ask the shim to open the gate", e))?;
        let reply = self.reply(&mut replies).await?;
        let mut made = self.made();
        made.conversation = Some((requests, replies));
        match reply {
            Reply::Running { pid, started_unix_ns } => {
                made.pid = Some(pid);
                made.started_unix_ns = Some(started_unix_ns);
                Ok(())
            }
            other => Err(out_of_turn(&other)),
        }
    }
}

impl World for StartWorld {
    type Error = Error;

    async fn apply(&self, step: Step) -> Result<(), Error> {
        match step {
            Step::PrepareRootfs => {
                let (record, cell) = (self.record.clone(), self.cell.clone());
                // Every bridge's containers reach the host there.
                let gateway = (record.config.network == NetworkMode::Bridge)
                    .then(|| self.shared.networks.default_network().config().gateway());
                blocking("prepare the root filesystem", move || {
                    launch::prepare(&record, &cell.dir, gateway)
                })
                .await
            }
            Step::CreateCgroup => {
                let group = self.group.clone();
                let ids = blocking("create the cgroup", move || {
                    group.create().map_err(|e| Error::failed("create the cgroup", e))?;
                    group.ids().map_err(|e| Error::failed("read the cgroup's ids", e))
                });
                let ids = ids.await?;
                self.made().cgroup = Some(ids);
                Ok(())
            }
            Step::RegisterIdentity => {
                let registered = self.shared.identity.register(&self.record.id, &self.ids()?);
                registered.map_err(|why| Error::failed("register the container's identity", why))
            }
            Step::SpawnShim => self.spawn_shim().await,
            Step::WriteLimits => {
                let (group, wanted) = (self.group.clone(), self.record.limits.resources.clone());
                blocking("write limits", move || {
                    group.apply(&wanted).map(|_| ()).map_err(limits::refused)
                })
                .await
            }
            Step::SetupNetwork => self.setup_network().await,
            Step::PersistState => self.persist_state(),
            Step::OpenGate => self.open_gate().await,
        }
    }

    async fn undo(&self, step: Step) {
        match step {
            // The cgroup takes its limits with it; the gate's shim undoes itself.
            Step::WriteLimits | Step::OpenGate => {}
            Step::PrepareRootfs => {
                for file in launch::files(&self.cell.dir) {
                    let _ = fs::remove_file(file);
                }
                let _ = fs::remove_file(self.cell.dir.join(launch::EXIT_FILE));
            }
            Step::CreateCgroup => remove_cgroup(&self.record.id, &self.group).await,
            Step::RegisterIdentity => {
                if let Ok(ids) = self.ids() {
                    self.shared.identity.unregister(&self.record.id, &ids);
                }
            }
            Step::SpawnShim => {
                // The end of the last watch makes the shim undo its part and exit.
                drop(self.made().conversation.take());
                let shim = self.made().shim.take();
                if let Some(shim) = shim {
                    shim.end(UNDO_PATIENCE).await;
                }
                let _ = fs::remove_file(socket_path(&self.shared, &self.cell));
            }
            Step::SetupNetwork => {
                self.shared.networks.stop_names(&self.record.id);
                let endpoints = std::mem::take(&mut self.made().endpoints);
                for endpoint in &endpoints {
                    disconnect(&self.shared, &self.record.id, endpoint).await;
                }
            }
            Step::PersistState => {
                let _ = fs::remove_file(run_file_path(&self.shared, &self.cell));
            }
        }
    }
}

pub(super) fn socket_path(shared: &Shared, cell: &Cell) -> PathBuf {
    shared.sockets.address.join(format!("{}.sock", cell.short()))
}

pub(super) fn run_file_path(shared: &Shared, cell: &Cell) -> PathBuf {
    shared.sockets.dir.join(format!("{}.json", cell.short()))
}

pub(super) fn group_of(shared: &Shared, id: &str) -> Group {
    shared.hierarchy.group(&format!("{}/{id}", shared.config.cgroup_parent))
}

/// Kills what is still in it (a start that failed half-way) and removes it.
pub(super) async fn remove_cgroup(id: &str, group: &Group) {
    let owned = group.clone();
    let removed = blocking("remove the cgroup", move || {
        owned.remove().or_else(|_| {
            // Whoever is still in there missed the end of its container.
            let _ = owned.kill();
            owned.remove().map_err(|e| Error::failed("remove the cgroup", e))
        })
    });
    if let Err(error) = removed.await {
        tracing::error!(container_id = id, error = error.chain(), "cgroup left behind");
    }
}

pub(super) async fn disconnect(shared: &Shared, id: &str, endpoint: &Endpoint) {
    if let Err(error) = shared.networks.disconnect(id, endpoint).await {
        tracing::error!(container_id = id, %error, "network endpoint left behind");
    }
}

fn out_of_turn(reply: &Reply) -> Error {
    Error::failed("speak with the shim", format!("it answered out of turn: {reply:?}"))
}

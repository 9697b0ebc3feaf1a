//! The lifecycle engine: every verb that acts on containers.
//!
//! Owns the set of containers and serialises what happens to each of them. One
//! file per verb; this one holds what they share. Each container has one lock
//! (`Cell::op`): start, the handling of an end, limits and removal take it, so
//! they never overlap for one container and always may for two. Whoever waits
//! for an end does so without the lock, on the snapshot channel.
//!
//! Work that must not stop half-way runs in a task of its own: a caller that
//! goes away (a closed HTTP connection) never leaves a container half started.

mod adopt;
mod cell;
mod create;
mod ended;
mod exec;
mod files;
mod health;
mod launch;
mod lending;
mod limits;
mod log_readers;
mod look;
mod naming;
mod networking;
mod pause;
mod recorded;
mod registry;
mod remove;
mod rename;
mod start;
mod stop;
mod terminal;
mod throttle;
mod volumes;
mod way_back;
mod world;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{Mode, OFlags};
use tenantry_cgroupfs::{CgroupIds, Hierarchy};
use tenantry_image::Store;
use tenantry_network::Networks;
use tokio::sync::{broadcast, watch};

use crate::{
    capabilities,
    error::Error,
    events::{Action, CHANNEL_EVENTS, LifecycleEvent},
    limit_changes::Act,
    limit_history::LimitHistory,
    limits::{Applied, LimitsPatch},
    log_config::LogConfig,
    seccomp,
    shim::program::ShimProgram,
    snapshot::Snapshot,
    volumes::Volumes,
};
use cell::Cell;
pub use exec::{ExecHandle, ExecRequest, ExecStdio};
pub use files::Files;
pub(crate) use limits::refused;
use registry::Registry;
pub use terminal::set_size;
pub use throttle::Throttled;

/// Whoever gives cgroups a meaning beyond this crate. Called with the
/// container's cgroup in place and before a process exists in it.
pub trait Identity: Send + Sync + 'static {
    /// Also called for containers that an earlier agent started, whose counters
    /// must go on. An error fails the start.
    fn register(&self, id: &str, cgroup: &CgroupIds) -> Result<(), String>;
    /// The cgroup is about to vanish; the container may start again in another.
    fn unregister(&self, id: &str, cgroup: &CgroupIds);
    /// The container is gone for good.
    fn forget(&self, id: &str);
}

#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// `containers/<id>` appears in it.
    pub data_dir: PathBuf,
    /// Sockets and run files; on a tmpfs.
    pub run_dir: PathBuf,
    /// The cgroup, below every hierarchy's root, in which containers get theirs.
    pub cgroup_parent: String,
    pub shim_path: PathBuf,
    pub max_containers: usize,
    /// Where user namespaces are mapped to: 65,536 ids from here for all that share them, and
    /// as many behind for each container that has its own.
    pub user_namespace_base: u32,
    /// A program and its first arguments that a shim runs when an agent that throttled
    /// bandwidth is gone: bridge, host interface, egress and ingress (bits a second,
    /// `BITS:BYTES` with a burst, or `max`) are appended, and of who was to send last the
    /// nftables table and its address. Empty: bandwidth cannot be throttled.
    pub restore_bandwidth: Vec<String>,
    /// What of a container's output is kept where it does not say.
    pub log: LogConfig,
    /// Where each change of a limit is told.
    pub limit_history: Arc<LimitHistory>,
}

impl EngineConfig {
    pub const DEFAULT_MAX_CONTAINERS: usize = 255;
    /// The last 4,096 ranges below 2³¹, which nobody gives away: `useradd` ends at 600,100,000
    /// (`SUB_UID_MAX`), systemd before this one ("Users, Groups, UIDs and GIDs on systemd Systems").
    pub const DEFAULT_USER_NAMESPACE_BASE: u32 = 0x7000_0000;
    pub const USER_NAMESPACE_SIZE: u32 = 65_536;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    /// At once if it does not run and will not start again by itself.
    NotRunning,
    /// The next end from now on, whether or not it is restarted.
    NextExit,
    Removed,
}

/// A handle; clones share one engine.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: EngineConfig,
    hierarchy: Hierarchy,
    networks: Networks,
    images: Arc<Store>,
    volumes: Arc<Volumes>,
    identity: Arc<dyn Identity>,
    sockets: Sockets,
    registry: Mutex<Registry>,
    shim_program: Arc<ShimProgram>,
    seccomp: seccomp::Cache,
    bounding: capabilities::Set,
    host_cpus: usize,
    events: broadcast::Sender<LifecycleEvent>,
    /// Turns true when this engine is to let go of its containers.
    closing: watch::Sender<bool>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads the records, adopts what runs, applies restart policies to what
    /// ended meanwhile and clears what a dead agent left half-done.
    ///
    /// # Errors
    /// No usable cgroup hierarchy, or a directory that cannot be made. A damaged
    /// record is logged and set aside.
    pub async fn open(
        config: EngineConfig,
        networks: Networks,
        images: Arc<Store>,
        identity: Arc<dyn Identity>,
    ) -> Result<Engine, Error> {
        let parent = config.cgroup_parent.clone();
        let hierarchy = blocking("detect cgroups", move || {
            let hierarchy = Hierarchy::detect().map_err(|e| Error::failed("detect cgroups", e))?;
            let prepare = hierarchy.prepare_parent(&parent);
            prepare.map_err(|e| Error::failed("prepare the cgroup parent", e))?;
            Ok(hierarchy)
        });
        make_directory(&config.data_dir.join("containers"), 0o711)?;
        let volumes = Arc::new(Volumes::open(config.data_dir.join("volumes"))?);
        let sockets = Sockets::open(config.run_dir.join("shims"))?;
        let shared = Arc::new(Shared {
            hierarchy: hierarchy.await?,
            shim_program: Arc::new(ShimProgram::open(&config.shim_path)?),
            config,
            networks,
            images,
            volumes,
            identity,
            sockets,
            registry: Mutex::default(),
            seccomp: seccomp::Cache::default(),
            bounding: read_bounding_set()?,
            host_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            events: broadcast::channel(CHANNEL_EVENTS).0,
            closing: watch::channel(false).0,
        });
        adopt::open(&shared).await?;
        Ok(Engine { shared })
    }

    /// Lets go: containers run on, and nothing of this engine touches them any
    /// more. For an agent that ends; the next [`Engine::open`] takes over.
    pub async fn close(&self) {
        self.shared.closing.send_replace(true);
        for cell in self.shared.cells() {
            // Whatever is in the middle of something ends first.
            let _op = cell.op.lock().await;
            let running = cell.lock().running.clone();
            if let Some(running) = running
                && let Err(error) =
                    throttle::release(&self.shared, &cell, &running, Act::AGENT_ENDS).await
            {
                tracing::error!(container_id = cell.id, error = error.chain(), "not released");
            }
        }
    }

    pub fn networks(&self) -> &Networks {
        &self.shared.networks
    }

    pub fn volumes(&self) -> &Arc<Volumes> {
        &self.shared.volumes
    }

    pub fn hierarchy(&self) -> &Hierarchy {
        &self.shared.hierarchy
    }

    /// All containers, the oldest first.
    pub fn list(&self) -> Vec<Arc<Snapshot>> {
        let mut all: Vec<_> = self.shared.cells().iter().map(|cell| cell.snapshot()).collect();
        all.sort_by_key(|snapshot| snapshot.record.created_unix_ns);
        all
    }

    /// By name, id, or the beginning of an id that fits only one.
    pub fn get(&self, reference: &str) -> Result<Arc<Snapshot>, Error> {
        Ok(self.shared.find(reference)?.snapshot())
    }

    /// Lifecycle events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.shared.events.subscribe()
    }

    /// The writing end of the program's standard input, once, if the container
    /// was created with `open_stdin`. Dropping it is the program's end of file.
    pub fn stdin(&self, reference: &str) -> Result<Option<OwnedFd>, Error> {
        self.shared.find(reference)?.take_stdin()
    }

    /// Tells whoever listens what a client did that changed nothing here.
    pub fn note(
        &self,
        reference: &str,
        action: Action,
        attributes: &[(&str, String)],
    ) -> Result<(), Error> {
        let cell = self.shared.find(reference)?;
        self.shared.tell(&cell, action, attributes);
        Ok(())
    }

    /// Where the container's output is appended, in frames of `tenantry_shim::log`.
    pub fn log_path(&self, reference: &str) -> Result<PathBuf, Error> {
        Ok(self.get(reference)?.log_path())
    }

    /// Changes limits, all or none of them, now if it runs and for later starts.
    pub async fn update_limits(
        &self,
        reference: &str,
        patch: LimitsPatch,
    ) -> Result<Vec<Applied>, Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move { limits::update(&shared, &cell, &patch).await }).await
    }

    fn target(&self, reference: &str) -> Result<(Arc<Shared>, Arc<Cell>), Error> {
        Ok((self.shared.clone(), self.shared.find(reference)?))
    }
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, reference: &str) -> Result<Arc<Cell>, Error> {
        self.registry().find(reference)
    }

    fn cells(&self) -> Vec<Arc<Cell>> {
        self.registry().all()
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    fn containers_dir(&self) -> PathBuf {
        self.config.data_dir.join("containers")
    }

    fn tell(&self, cell: &Cell, action: Action, attributes: &[(&str, String)]) {
        let snapshot = cell.snapshot();
        let attributes: BTreeMap<_, _> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        tracing::info!(container_id = cell.id, action = action.as_str(), ?attributes);
        // Nobody may be listening.
        let _ = self.events.send(LifecycleEvent {
            unix_ns: unix_ns(),
            action,
            id: cell.id.clone(),
            name: snapshot.record.name.clone(),
            image: snapshot.record.image.name.clone(),
            attributes,
        });
    }
}

/// The directory of the shims' sockets and run files.
struct Sockets {
    dir: PathBuf,
    /// `dir`, or a short way to it.
    address: PathBuf,
    _opened: OwnedFd,
}

impl Sockets {
    /// A socket's address holds 107 bytes; a name in here takes 17 with its slash.
    const LONGEST_DIR: usize = 90;

    fn open(dir: PathBuf) -> Result<Self, Error> {
        make_directory(&dir, 0o700)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&dir, flags, Mode::empty())
            .map_err(|e| Error::failed(format!("open {}", dir.display()), e))?;
        let address = if dir.as_os_str().len() <= Self::LONGEST_DIR {
            dir.clone()
        } else {
            PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()))
        };
        Ok(Self { dir, address, _opened: opened })
    }
}

fn make_directory(dir: &Path, mode: u32) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
    made.map_err(|e| Error::failed(format!("make directory {}", dir.display()), e))
}

fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    now.as_nanos() as u64
}

/// Runs to its end even if nobody waits for it any more.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::failed("internal task", panic)),
    }
}

/// Runs on a thread that may block.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::failed(what, panic)),
    }
}

/// What this process may give at most: `CapBnd` of `/proc/self/status`.
fn read_bounding_set() -> Result<capabilities::Set, Error> {
    const STEP: &str = "read the capability bounding set";
    let status =
        std::fs::read_to_string("/proc/self/status").map_err(|e| Error::failed(STEP, e))?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| Error::failed(STEP, "/proc/self/status has no CapBnd line"))
}

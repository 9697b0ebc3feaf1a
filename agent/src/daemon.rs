//! The agent's life: check, assemble, serve, leave.
//!
//! Containers outlive the agent. With containers running it leaves everything as
//! it is, kernel meters included; the last one out removes what the agent made:
//! pins, bridge, firewall table, cgroups, sockets.

use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use tenantry_cgroupfs::{Hierarchy, Layout};
use tenantry_container::{Engine, EngineConfig, LimitHistory};
use tenantry_control::Policy;
use tenantry_ebpf::{ForeignOptions, LoadOptions, Meters, SYSCALL_LATENCY_PROBE};
use tenantry_image::Store;
use tenantry_network::{Network, NetworkConfig, default_candidates, pick_subnet};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::docker::exec::Execs;
use crate::api::{self, App};
use crate::audit::{Audit, FileLimits};
use crate::blame::Blames;
use crate::collect::{self, Collector, Errors};
use crate::config::{Config, ConfigError, RawConfig, read_file};
use crate::controller::{Controller, Looker, PolicyFileError, Reach, read_policy};
use crate::delivered::Ledger;
use crate::foreign::throttle::Throttles;
use crate::foreign::{Foreign, Settings, Sources};
use crate::fs_usage::FsUsage;
use crate::governor::Governor;
use crate::guard;
use crate::metrics::Cap;
use crate::oom::Groups;
use crate::registry::Registry;
use crate::samplers::Samplers;
use crate::trace::Traces;

/// How long an agent that ends waits for the audit to read what is still in the ring.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// What the command line says about the agent; it wins over the file.
#[derive(Debug)]
pub struct Options {
    pub config: Option<PathBuf>,
    pub check_config: bool,
    pub data_dir: Option<PathBuf>,
    pub run_dir: PathBuf,
    pub listen: Option<std::net::SocketAddr>,
    pub cgroup_parent: Option<String>,
    pub shim: Option<PathBuf>,
}

/// Why the agent did not start: one sentence each, and a code that a unit file
/// or a script can tell apart.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Policy(#[from] PolicyFileError),
    #[error("the agent must run as root: it makes namespaces, cgroups and kernel probes")]
    NotRoot,
    #[error("this kernel has no BTF (/sys/kernel/btf/vmlinux), which the kernel probes need")]
    NoBtf,
    #[error("no usable cgroup hierarchy: {0}")]
    NoCgroup(String),
    #[error("another agent is running with {0}")]
    Taken(String),
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
}

impl Refusal {
    fn code(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Config(_) | Self::Policy(_) => 2,
            Self::NotRoot => 3,
            Self::NoBtf => 4,
            Self::NoCgroup(_) => 5,
            Self::Taken(_) => 6,
        }
    }

    fn failed<E: std::error::Error + 'static>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Failed { what, why: api::error::chain(&error) }
    }
}

pub fn main(options: Options) -> ExitCode {
    let checking = options.check_config;
    let shim = options.shim.clone();
    let outcome = configure(options).and_then(|config| {
        if checking {
            println!("configuration is right");
            return Ok(());
        }
        start(config, shim)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("tenantry: {refusal}");
            ExitCode::from(refusal.code())
        }
    }
}

fn configure(options: Options) -> Result<Config, Refusal> {
    let mut raw = match &options.config {
        Some(path) => read_file(path)?,
        None => RawConfig::default(),
    };
    raw.data_dir = options.data_dir.or(raw.data_dir);
    // The flag has a default of its own; the file wins over that, not over a wish.
    let default = Path::new("/run/tenantry");
    if options.run_dir != default || raw.run_dir.is_none() {
        raw.run_dir = Some(options.run_dir);
    }
    raw.listen = options.listen.or(raw.listen);
    raw.cgroup_parent = options.cgroup_parent.or(raw.cgroup_parent);
    let config = raw.validate()?;
    if let Some(path) = &config.control.policy {
        read_policy(path)?;
    }
    Ok(config)
}

fn start(config: Config, shim: Option<PathBuf>) -> Result<(), Refusal> {
    if !rustix::process::geteuid().is_root() {
        return Err(Refusal::NotRoot);
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Refusal::NoBtf);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("TENANTRY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // Two workers: the agent must not be the noisy neighbour.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tenantry")
        .enable_all()
        .build()
        .map_err(Refusal::failed("cannot start threads"))?;
    runtime.block_on(run(config, shim))
}

async fn run(config: Config, shim: Option<PathBuf>) -> Result<(), Refusal> {
    let _held = hold(&config)?;
    for directory in [&config.data_dir, &config.run_dir] {
        make_private(directory).map_err(Refusal::failed(directory.display().to_string()))?;
    }
    let hierarchy =
        Hierarchy::detect().map_err(|error| Refusal::NoCgroup(api::error::chain(&error)))?;
    hierarchy
        .prepare_parent(&config.cgroup_parent)
        .map_err(|error| Refusal::NoCgroup(api::error::chain(&error)))?;
    let app = match assemble(config, hierarchy.clone(), shim).await {
        Ok(app) => app,
        Err((refusal, config)) => {
            // Nothing runs below it yet, unless an earlier agent left containers.
            let _ = hierarchy.remove_parent(&config.cgroup_parent);
            return Err(refusal);
        }
    };
    let served = serve(Arc::clone(&app)).await;
    leave(&app).await;
    served
}

/// Makes every part, in the order in which they need each other. On failure the
/// parts already made are unmade, unless an earlier agent's containers use them.
async fn assemble(
    config: Config,
    hierarchy: Hierarchy,
    shim: Option<PathBuf>,
) -> Result<Arc<App>, (Refusal, Config)> {
    let own_slots = config.max_containers + 1;
    let slots = own_slots + config.foreign.as_ref().map_or(0, |foreign| foreign.max);
    let parent = hierarchy.group(&config.cgroup_parent);
    let load = LoadOptions {
        pin_dir: Path::new("/sys/fs/bpf").join(pin_name(&config.cgroup_parent)),
        // Other runtimes' sockets can be anywhere below the root.
        cgroup_dir: match config.foreign {
            Some(_) => hierarchy.unified_mount().to_path_buf(),
            None => parent.unified_dir().to_path_buf(),
        },
        blkio_v1: hierarchy.layout() == Layout::Hybrid,
        slots,
        ring_bytes: config.ring_bytes,
        syscall_latency: config.syscall_latency,
        foreign: config
            .foreign
            .as_ref()
            .map(|foreign| ForeignOptions { first_slot: own_slots, services: foreign.systemd }),
    };
    let (meters, reader) = match Meters::load(&load) {
        Ok(loaded) => loaded,
        Err(error) => {
            return Err((Refusal::failed("cannot load the kernel meters")(error), config));
        }
    };
    let meters = Arc::new(meters);
    let network = match open_network(&config).await {
        Ok(network) => network,
        Err(refusal) => {
            if !has_containers(&config) {
                let _ = meters.unpin();
            }
            return Err((refusal, config));
        }
    };
    // First thing: what an earlier agent left throttled. Ours are the engine's matter.
    let guard = guard::client::Guard::open(&config.run_dir);
    let limit_history = Arc::new(LimitHistory::default());
    let foreign_throttles = Throttles::open(hierarchy.clone(), guard, Arc::clone(&limit_history));
    let parts = async {
        let images =
            Store::open(&config.data_dir.join("images")).map_err(Refusal::failed("image store"))?;
        let images = Arc::new(images);
        let foreign = open_foreign(&config, &meters, &hierarchy, own_slots..slots)?;
        let registry = Registry::open(
            Arc::clone(&meters),
            own_slots,
            config.run_dir.join(SLOTS_STATE),
            foreign,
        )
        .map_err(Refusal::failed("slot table"))?
        .with_linger(config.linger);
        let registry = Arc::new(registry);
        let engine_config = EngineConfig {
            data_dir: config.data_dir.clone(),
            run_dir: config.run_dir.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            shim_path: shim.map_or_else(shim_beside_us, Ok)?,
            max_containers: config.max_containers as usize,
            user_namespace_base: EngineConfig::DEFAULT_USER_NAMESPACE_BASE,
            restore_bandwidth: guard::restore_bandwidth_command()
                .map_err(Refusal::failed("own path"))?,
            limit_history: Arc::clone(&limit_history),
        };
        let engine = Engine::open(
            engine_config,
            network,
            Arc::clone(&images),
            Arc::<Registry>::clone(&registry),
        )
        .await
        .map_err(Refusal::failed("container engine"))?;
        let limits = FileLimits {
            path: config.audit_path.clone(),
            max_bytes: config.audit_max_bytes,
            keep_files: config.audit_keep_files,
        };
        let groups = Groups { hierarchy: hierarchy.clone(), parent: config.cgroup_parent.clone() };
        let policy = match &config.control.policy {
            Some(path) => read_policy(path)?,
            None => Policy::default(),
        };
        let audit = Audit::start(reader, Arc::clone(&registry), limits, groups)
            .map_err(Refusal::failed(config.audit_path.display().to_string()))?;
        limit_history.attach(Box::new({
            let audit = Arc::clone(&audit);
            move |change| audit.record_limit(change)
        }));
        Ok::<_, Refusal>((images, registry, engine, audit, policy))
    };
    match parts.await {
        Ok((images, registry, engine, audit, policy)) => {
            let known: std::collections::HashSet<String> =
                engine.list().iter().map(|container| container.record.id.clone()).collect();
            registry.opened(|id| known.contains(id));
            let samplers = Arc::new(Samplers::new(collect::max_descriptors()));
            let blames = Arc::new(Blames::new(
                Arc::clone(&meters),
                Arc::clone(&registry),
                config.blame_pairs,
            ));
            let looker = Looker {
                engine: engine.clone(),
                reach: Reach::new(
                    engine.clone(),
                    Arc::clone(&registry),
                    Arc::clone(&foreign_throttles),
                ),
                meters: Arc::clone(&meters),
                blames: Arc::clone(&blames),
                registry: Arc::clone(&registry),
                hierarchy: hierarchy.clone(),
                samplers: Arc::clone(&samplers),
                cgroup_parent: config.cgroup_parent.clone(),
                cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
                known: Default::default(),
            };
            let controller = Arc::new(Controller::new(config.control.clone(), policy, looker));
            let collector = Collector {
                engine: engine.clone(),
                meters: Arc::clone(&meters),
                registry: Arc::clone(&registry),
                audit: Arc::clone(&audit),
                hierarchy: hierarchy.clone(),
                samplers,
                controller: Arc::clone(&controller),
                limit_history: Arc::clone(&limit_history),
                governor: Arc::new(Governor::new(config.governor, Arc::clone(&meters))),
                blames,
                cgroup_parent: config.cgroup_parent.clone(),
                destinations: config.destinations,
                turn: tokio::sync::Mutex::default(),
                seats: std::sync::Mutex::default(),
                domains: config.domains,
                domain_seats: std::sync::Mutex::default(),
                oom_shown: std::sync::Mutex::default(),
                started_unix_s: collect::unix_seconds(),
                kernel_memory: std::sync::OnceLock::new(),
                fs_usage: FsUsage::start(config.fs_usage_interval),
                errors: Errors::default(),
            };
            if meters.adopted() && config.syscall_latency {
                // An agent that is gone may have shed it, and nobody else would take it back.
                let _ = meters
                    .switch(SYSCALL_LATENCY_PROBE, true)
                    .inspect_err(|error| tracing::warn!(%error, "latency sampling stays off"));
            }
            tokio::spawn({
                let governor = Arc::clone(&collector.governor);
                async move { governor.run().await }
            });
            tokio::spawn({
                let blames = Arc::clone(&collector.blames);
                async move { blames.run().await }
            });
            tokio::spawn({
                let controller = Arc::clone(&controller);
                async move { controller.run().await }
            });
            let cap = Arc::new(Cap::new(config.max_series));
            let traces = Traces::new(Arc::clone(&meters));
            let app = Arc::new(App {
                config,
                engine,
                images,
                meters,
                registry,
                audit,
                hierarchy,
                execs: Execs::default(),
                collector,
                controller,
                traces,
                cap,
                foreign_throttles,
                limit_history,
            });
            for container in app.engine.list() {
                app.introduce(&container);
            }
            Ok(app)
        }
        Err(refusal) => {
            if !has_containers(&config) {
                // The engine took the network with it: adopted once more, to be removed.
                if let Ok(network) = open_network(&config).await {
                    let _ = network.close().await;
                }
                let _ = meters.unpin();
            }
            Err((refusal, config))
        }
    }
}

/// Whether an earlier agent left containers, as its run files say.
fn has_containers(config: &Config) -> bool {
    let files = std::fs::read_dir(config.run_dir.join("shims"));
    files.is_ok_and(|mut files| files.next().is_some())
}

async fn serve(app: Arc<App>) -> Result<(), Refusal> {
    let docker = bind(&app.config.run_dir.join("docker.sock"))?;
    let native = bind(&app.config.run_dir.join("tenantry.sock"))?;
    let listen = app.config.listen;
    let scrape = TcpListener::bind(listen).await.map_err(Refusal::failed(listen.to_string()))?;
    let address = scrape.local_addr().map_err(Refusal::failed(listen.to_string()))?;
    let signals = Refusal::failed::<std::io::Error>;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals("signals"))?;
    let docker_service =
        tower::util::MapRequest::new(api::docker::router(app.clone()), api::docker::strip_version);
    let docker_service = <_ as axum::ServiceExt<Request>>::into_make_service(docker_service);
    let native_service = api::native::router(app.clone()).into_make_service();
    let scrape_service = api::scrape::router(app.clone()).into_make_service();
    tracing::info!(
        run_dir = %app.config.run_dir.display(),
        metrics = %format!("http://{address}/metrics"),
        adopted = app.meters.adopted(),
        containers = app.engine.list().len(),
        "ready"
    );
    let mut hang_up = signal(SignalKind::hangup()).map_err(signals("signals"))?;
    let reloads = async {
        while hang_up.recv().await.is_some() {
            match app.controller.reload() {
                Ok(policy) => tracing::info!(mode = %policy.mode, "policy read again"),
                Err(error) => {
                    tracing::error!(error = api::error::chain(&error), "the old policy stays");
                }
            }
        }
    };
    // Streams may stay open for ever: at the end they are cut, not waited for.
    let ended = tokio::select! {
        ended = async { axum::serve(docker, docker_service).await } => ended,
        ended = async { axum::serve(native, native_service).await } => ended,
        ended = async { axum::serve(scrape, scrape_service).await } => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = reloads => Ok(()),
    };
    ended.map_err(Refusal::failed("server"))
}

async fn leave(app: &App) {
    for socket in ["docker.sock", "tenantry.sock"] {
        let _ = std::fs::remove_file(app.config.run_dir.join(socket));
    }
    app.traces.end_all();
    // First the one that would throttle again.
    app.controller.let_go().await;
    app.foreign_throttles.end_all();
    app.engine.close().await;
    let running = app.engine.list().iter().filter(|container| api::is_running(container)).count();
    if running > 0 {
        tracing::info!(running, "containers go on without the agent");
        return;
    }
    if let Err(error) = app.engine.network().close().await {
        tracing::warn!(%error, "network not removed");
    }
    // The ring goes with the meters: its last events belong into the audit file.
    let patience = tokio::time::Instant::now() + LAST_EVENTS;
    while !app.registry.has_read_all() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Err(error) = app.meters.unpin() {
        tracing::warn!(%error, "kernel meters not removed");
    }
    if let Err(error) = app.hierarchy.remove_parent(&app.config.cgroup_parent) {
        tracing::warn!(%error, "cgroups not removed");
    }
    for file in [SLOTS_STATE, "slots.delivered", FOREIGN_STATE] {
        let _ = std::fs::remove_file(app.config.run_dir.join(file));
    }
}

/// Below the run directory.
const SLOTS_STATE: &str = "slots.json";
const FOREIGN_STATE: &str = "foreign.delivered";

/// Finds other runtimes' containers, before anybody asks, and follows them from then on.
fn open_foreign(
    config: &Config,
    meters: &Arc<Meters>,
    hierarchy: &Hierarchy,
    slots: std::ops::Range<u32>,
) -> Result<Option<Arc<Foreign>>, Refusal> {
    let Some(wanted) = &config.foreign else { return Ok(None) };
    let settings = Settings {
        first_slot: slots.start,
        end_slot: slots.end,
        services: wanted.systemd,
        max_wholes: wanted.max_slices,
        sources: Sources {
            docker_socket: wanted.docker_socket.clone(),
            own_socket: config.run_dir.join("docker.sock"),
            containerd_state: wanted.containerd_state.clone(),
            storages: wanted.storages.clone(),
        },
    };
    let ledger = Ledger::open(&config.run_dir.join(FOREIGN_STATE), meters.adopted())
        .map_err(Refusal::failed(FOREIGN_STATE))?;
    let (foreign, reader) = Foreign::open(Arc::clone(meters), hierarchy.clone(), settings, ledger)
        .map_err(Refusal::failed("foreign containers"))?;
    foreign.start(reader).map_err(Refusal::failed("foreign containers"))?;
    Ok(Some(foreign))
}

async fn open_network(config: &Config) -> Result<Network, Refusal> {
    let subnet = match config.subnet {
        Some(subnet) => subnet,
        None => pick_subnet(&config.bridge, &default_candidates())
            .await
            .map_err(Refusal::failed("network"))?,
    };
    let table = config.bridge.replace('-', "_");
    Network::open(NetworkConfig { bridge: config.bridge.clone(), subnet, table })
        .await
        .map_err(Refusal::failed("network"))
}

/// Held for the agent's life: no other agent may use the same cgroups or directories.
#[derive(Debug)]
struct Held {
    _name: StdUnixListener,
    _directories: [std::fs::File; 2],
}

fn hold(config: &Config) -> Result<Held, Refusal> {
    use std::os::linux::net::SocketAddrExt as _;
    // An abstract socket is a lock that the kernel removes with its holder.
    let name = format!("tenantry/{}", config.cgroup_parent);
    let taken = |_| Refusal::Taken(format!("cgroup_parent {}", config.cgroup_parent));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)
        .map_err(Refusal::failed("lock"))?;
    let listener = StdUnixListener::bind_addr(&address).map_err(taken)?;
    let lock = |directory: &Path| -> Result<std::fs::File, Refusal> {
        make_private(directory).map_err(Refusal::failed(directory.display().to_string()))?;
        let path = directory.join("lock");
        let file =
            std::fs::File::create(&path).map_err(Refusal::failed(path.display().to_string()))?;
        file.try_lock().map_err(|_| Refusal::Taken(directory.display().to_string()))?;
        Ok(file)
    };
    Ok(Held { _name: listener, _directories: [lock(&config.data_dir)?, lock(&config.run_dir)?] })
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    // Others may pass through to a container's files, and not look around.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))
}

fn bind(path: &Path) -> Result<UnixListener, Refusal> {
    let failed = || Refusal::failed::<std::io::Error>(path.display().to_string());
    // The lock says that no other agent serves it: it is a dead one's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed())?;
    Ok(listener)
}

fn shim_beside_us() -> Result<PathBuf, Refusal> {
    let beside = std::env::current_exe()
        .map(|program| program.with_file_name("tenantry-shim"))
        .map_err(Refusal::failed("own path"))?;
    match beside.exists() {
        true => Ok(beside),
        false => Err(Refusal::Failed {
            what: beside.display().to_string(),
            why: "not there: install it beside this program, or name it with --shim".into(),
        }),
    }
}

/// A bpffs name may hold no dots; a cgroup parent's name has none.
fn pin_name(cgroup_parent: &str) -> String {
    match cgroup_parent {
        "tenantry" => "tenantry".into(),
        other => format!("tenantry-{other}"),
    }
}

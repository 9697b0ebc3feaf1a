//! The agent's life: check, assemble, serve, leave.
//!
//! Containers outlive the agent. With containers running it leaves everything as
//! it is, kernel meters included; the last one out removes what the agent made:
//! pins, bridge, firewall table, cgroups, sockets.

mod assemble;
mod held;

use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use tenantry_cgroupfs::Hierarchy;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use self::assemble::assemble;
use self::held::{hold, make_private};
use crate::api::{self, App};
use crate::build;
use crate::config::{Config, ConfigError, RawConfig, read_file};
use crate::controller::{PolicyFileError, read_policy};
use crate::rules::{RuleFilesError, read_rules};

/// How long an agent that ends waits for the audit to read what is still in the ring.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// And for the collector to take the last log records.
const LAST_LOGS: Duration = Duration::from_secs(2);

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
    #[error("{}", api::error::chain(.0))]
    Rules(RuleFilesError),
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
            Self::Config(_) | Self::Policy(_) | Self::Rules(_) => 2,
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
    read_rules(&config.rules).map_err(Refusal::Rules)?;
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
    let _held = hold(&config).await?;
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

async fn serve(app: Arc<App>) -> Result<(), Refusal> {
    let group = app.config.socket_group;
    let docker = bind(&app.config.run_dir.join("docker.sock"), group)?;
    let native = bind(&app.config.run_dir.join("tenantry.sock"), group)?;
    let listen = app.config.listen;
    let scrape = TcpListener::bind(listen).await.map_err(Refusal::failed(listen.to_string()))?;
    let address = scrape.local_addr().map_err(Refusal::failed(listen.to_string()))?;
    let signals = Refusal::failed::<std::io::Error>;
    let mut terminate = signal(SignalKind::terminate()).map_err(signals("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals("signals"))?;
    let (events, keeper) = (api::docker::events::all(&app), Arc::clone(&app));
    tokio::spawn(async move { keeper.event_history.keep(events).await });
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
            match app.rules.reload() {
                Ok(()) => tracing::info!("rules read again"),
                Err(error) => {
                    tracing::error!(error = api::error::chain(&error), "the old rules stay");
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

/// What the collector has not taken by then, the next agent sends.
async fn end_logs(app: &App) {
    if let Some(otlp) = &app.collector.otlp
        && !otlp.end(LAST_LOGS).await
    {
        tracing::warn!(lines = otlp.report().behind, "log records are left to the next agent");
    }
}

async fn leave(app: &App) {
    for socket in ["docker.sock", "tenantry.sock"] {
        let _ = std::fs::remove_file(app.config.run_dir.join(socket));
    }
    app.traces.end_all();
    // First the one that would throttle again.
    app.controller.let_go().await;
    app.foreign_throttles.end_all();
    // Nobody waits for their steps any more.
    build::remove_left(&app.engine).await;
    app.engine.close().await;
    let running = app.engine.list().iter().filter(|container| api::is_running(container)).count();
    if running > 0 {
        tracing::info!(running, "containers go on without the agent");
        app.audit.flush();
        end_logs(app).await;
        return;
    }
    if let Err(error) = app.engine.networks().close().await {
        tracing::warn!(%error, "network not removed");
    }
    // The ring goes with the meters: its last events belong into the audit file.
    let patience = tokio::time::Instant::now() + LAST_EVENTS;
    while !app.registry.has_read_all() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.audit.flush();
    end_logs(app).await;
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

fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, Refusal> {
    let failed = || Refusal::failed::<std::io::Error>(path.display().to_string());
    // The lock says that no other agent serves it: it is a dead one's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed())?;
    // Until its mode is set, nobody but root can write to it, and so connect.
    std::os::unix::fs::chown(path, None, group).map_err(failed())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed())?;
    Ok(listener)
}

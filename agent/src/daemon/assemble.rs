//! Makes the agent's parts, in the order in which they need each other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tenantry_cgroupfs::{Hierarchy, Layout};
use tenantry_container::{Engine, EngineConfig, LimitHistory};
use tenantry_control::Policy;
use tenantry_ebpf::{ForeignOptions, LoadOptions, Meters, SYSCALL_LATENCY_PROBE};
use tenantry_image::Store;
use tenantry_network::{
    NetworkConfig, Networks, NetworksConfig, Shape, default_candidates, kept_subnets, pick_subnet,
};

use super::{FOREIGN_STATE, Refusal, SLOTS_STATE};
use crate::api::App;
use crate::api::docker::event_history::EventHistory;
use crate::api::docker::exec::Execs;
use crate::api::docker::images::events::ImageEvents;
use crate::audit::{Audit, FileLimits};
use crate::blame::Blames;
use crate::build::{self, Builds};
use crate::collect::{self, Collector, Errors};
use crate::config::Config;
use crate::controller::{Controller, Looker, Queues, Reach, read_policy};
use crate::delivered::Ledger;
use crate::foreign::throttle::Throttles;
use crate::foreign::{Foreign, Settings, Sources};
use crate::fs_usage::FsUsage;
use crate::governor::Governor;
use crate::guard;
use crate::metrics::Cap;
use crate::oom::Groups;
use crate::otlp::Otlp;
use crate::registries::Registries;
use crate::registry::Registry;
use crate::rules::Rules;
use crate::samplers::Samplers;
use crate::trace::Traces;

/// On failure the parts already made are unmade, unless an earlier agent's containers use them.
pub(super) async fn assemble(
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
    // Before the first container: events of those that run already had an earlier agent's.
    if let Err(error) = meters.set_audit_filter(&config.audit_filter) {
        return Err((Refusal::failed("cannot set the audit's filter")(error), config));
    }
    let meters = Arc::new(meters);
    let networks = match open_networks(&config).await {
        Ok(networks) => networks,
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
        let build_dir = config.data_dir.join("build");
        let builds = Builds::open(build_dir.clone())
            .map_err(Refusal::failed(build_dir.display().to_string()))?;
        let foreign = open_foreign(&config, &meters, &hierarchy, own_slots..slots)?;
        let registry = Registry::open(
            Arc::clone(&meters),
            own_slots,
            config.run_dir.join(SLOTS_STATE),
            foreign,
        )
        .map_err(Refusal::failed("slot table"))?
        .with_linger(config.linger);
        registry.restore_events(&config.audit_filter);
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
            log: config.log.clone(),
            limit_history: Arc::clone(&limit_history),
        };
        let engine = Engine::open(
            engine_config,
            networks,
            Arc::clone(&images),
            Arc::<Registry>::clone(&registry),
        )
        .await
        .map_err(Refusal::failed("container engine"))?;
        build::remove_left(&engine).await;
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
        let rules = Arc::new(Rules::open(config.rules.clone()).map_err(Refusal::Rules)?);
        let audit = Audit::start(
            reader,
            Arc::clone(&registry),
            limits,
            groups,
            Arc::clone(&rules),
            config.exec_hash,
        )
        .map_err(Refusal::failed(config.audit_path.display().to_string()))?;
        limit_history.attach(Box::new({
            let audit = Arc::clone(&audit);
            move |change| audit.record_limit(change)
        }));
        let otlp = config.otlp_endpoint.clone().map(|endpoint| {
            let place = config.data_dir.join("otlp.place");
            Otlp::start(Arc::clone(&audit), endpoint, place).map_err(Refusal::failed("log export"))
        });
        let otlp = otlp.transpose()?;
        Ok::<_, Refusal>((images, builds, registry, engine, audit, policy, rules, otlp))
    };
    match parts.await {
        Ok((images, builds, registry, engine, audit, policy, rules, otlp)) => {
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
                queues: Mutex::new(Queues::of_host(&hierarchy)),
            };
            let controller = Arc::new(Controller::new(config.control.clone(), policy, looker));
            let image_events = Arc::new(ImageEvents::default());
            let registries =
                Arc::new(Registries::new(config.registries.clone(), Arc::clone(&image_events)));
            let collector = Collector {
                images: Arc::clone(&images),
                registries: Arc::clone(&registries),
                engine: engine.clone(),
                meters: Arc::clone(&meters),
                registry: Arc::clone(&registry),
                audit: Arc::clone(&audit),
                otlp,
                rules: Arc::clone(&rules),
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
                registries,
                config,
                engine,
                images,
                builds,
                meters,
                registry,
                audit,
                hierarchy,
                execs: Execs::default(),
                image_events,
                event_history: EventHistory::default(),
                collector,
                controller,
                rules,
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
                if let Ok(networks) = open_networks(&config).await {
                    let _ = networks.close().await;
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

async fn open_networks(config: &Config) -> Result<Networks, Refusal> {
    let dir = config.data_dir.join("networks");
    let subnet = match config.subnet {
        Some(subnet) => subnet,
        None => {
            let kept = kept_subnets(dir.clone()).map_err(Refusal::failed("network"))?;
            let mut candidates = default_candidates();
            candidates.retain(|candidate| !kept.iter().any(|kept| kept.overlaps(candidate)));
            pick_subnet(&config.bridge, &candidates).await.map_err(Refusal::failed("network"))?
        }
    };
    let table = config.bridge.replace('-', "_");
    let bridge = config.bridge.clone();
    let default = NetworkConfig { bridge, subnet, table, shape: Shape::default() };
    let max = NetworksConfig::DEFAULT_MAX;
    let name_servers = config.name_servers.clone();
    Networks::open(NetworksConfig { default, dir, max, name_servers })
        .await
        .map_err(Refusal::failed("network"))
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

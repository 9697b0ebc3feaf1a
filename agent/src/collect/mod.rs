//! One look at everything: cgroup files, kernel maps, link counters, ourselves.
//!
//! Work is done when somebody asks, never on a timer: an agent that nobody
//! scrapes costs nothing. What cannot be read leaves its field empty and is
//! counted; a scrape never fails as a whole.

mod container;
mod seats;
mod threads;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use procfs::WithCurrentSystemInfo as _;
use tenantry_cgroupfs::Hierarchy;
use tenantry_container::{Engine, LimitHistory};
use tenantry_ebpf::Meters;
use tenantry_image::Store;
use tenantry_network::LinkCounters;

use crate::audit::Audit;
use crate::blame::Blames;
use crate::controller::Controller;
use crate::destinations::Seats;
use crate::domains::DomainSeats;
use crate::fs_usage::FsUsage;
use crate::governor::Governor;
use crate::otlp::Otlp;
use crate::registries::Registries;
use crate::registry::Registry;
use crate::report::{AgentReport, ContainerReport, HostReport, Machine};
use crate::rules::Rules;
use crate::samplers::Samplers;
pub use container::value;
use container::{Round, Subject, by_slot};

/// Everything that a look needs.
#[derive(Debug)]
pub struct Collector {
    pub engine: Engine,
    pub meters: Arc<Meters>,
    pub registry: Arc<Registry>,
    pub audit: Arc<Audit>,
    pub otlp: Option<Arc<Otlp>>,
    pub rules: Arc<Rules>,
    pub images: Arc<Store>,
    pub registries: Arc<Registries>,
    pub hierarchy: Hierarchy,
    pub samplers: Arc<Samplers>,
    pub controller: Arc<Controller>,
    pub limit_history: Arc<LimitHistory>,
    pub governor: Arc<Governor>,
    pub cgroup_parent: String,
    pub blames: Arc<Blames>,
    /// Destinations of a container that have series of their own, and who they are by
    /// container id.
    pub destinations: usize,
    pub seats: Mutex<HashMap<String, Seats>>,
    /// The same of the domains that a container asks name servers for.
    pub domains: usize,
    pub domain_seats: Mutex<HashMap<String, DomainSeats>>,
    /// OOM kills as they were last shown, by container id: what a record knew of is not
    /// forgotten with it while its container's series linger.
    pub oom_shown: Mutex<HashMap<String, u64>>,
    pub started_unix_s: f64,
    /// What programs and maps hold, read once: it is allocated when they are loaded.
    pub kernel_memory: OnceLock<Vec<(&'static str, u64)>>,
    pub fs_usage: FsUsage,
    /// One collection at a time.
    pub turn: tokio::sync::Mutex<()>,
    pub errors: Errors,
}

/// Failures by stage since the agent started.
#[derive(Debug, Default)]
pub struct Errors {
    cgroups: AtomicU64,
    maps: AtomicU64,
    links: AtomicU64,
}

impl Errors {
    fn all(&self) -> Vec<(&'static str, u64)> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("cgroups", load(&self.cgroups)),
            ("maps", load(&self.maps)),
            ("links", load(&self.links)),
        ]
    }
}

fn counted<T, E: std::fmt::Display>(outcome: Result<T, E>, errors: &AtomicU64) -> Option<T> {
    outcome
        .inspect_err(|error| {
            errors.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "left out of a scrape");
        })
        .ok()
}

impl Collector {
    pub async fn collect(&self) -> HostReport {
        // Two at once would take every processor, and neither would be quicker for it.
        let _turn = self.turn.lock().await;
        let time_unix_s = unix_seconds();
        let began = Instant::now();
        let links = counted(self.engine.networks().counters().await, &self.errors.links);
        let links_took = began.elapsed();
        // Thousands of system calls: meanwhile this thread serves nobody else.
        tokio::task::block_in_place(|| self.look(time_unix_s, links, links_took))
    }

    fn look(
        &self,
        time_unix_s: f64,
        links: Option<HashMap<String, LinkCounters>>,
        links_took: Duration,
    ) -> HostReport {
        let began = Instant::now();
        let mut round = Round { links, ..Round::default() };
        let read = counted(self.meters.read_disks(), &self.errors.maps).unwrap_or_default();
        let (disks, unattributed) = by_slot(read, &round.names);
        round.disks = disks;
        let read_disks = began.elapsed();

        let (subjects, wholes_left_out) = self.subjects();
        let workers = threads::how_many(subjects.len());
        let reports = threads::share(subjects, workers, |subject| {
            let is_whole = matches!(subject, Subject::Whole(_));
            self.subject(subject, &round).map(|report| (is_whole, report))
        });
        let (wholes, containers): (Vec<_>, Vec<_>) =
            reports.into_iter().flatten().partition(|(is_whole, _)| *is_whole);
        let wholes: Vec<ContainerReport> = wholes.into_iter().map(|(_, whole)| whole).collect();
        let mut containers: Vec<ContainerReport> =
            containers.into_iter().map(|(_, container)| container).collect();

        self.seat(&mut containers);
        self.seat_domains(&mut containers);
        self.keep_ooms(&mut containers);
        containers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.cgroup.cmp(&b.cgroup)));
        let running: HashSet<&str> = containers
            .iter()
            .chain(&wholes)
            .filter(|container| container.running)
            .map(|container| &container.cgroup[1..])
            .collect();
        self.samplers.keep_only(|path| running.contains(path));
        let known: HashSet<&str> = containers.iter().map(|one| one.id.as_str()).collect();
        let blame = self.blames.shown(|id| known.contains(id));
        HostReport {
            time_unix_s,
            machine: machine(),
            host: crate::host::read_sample(),
            agent: AgentReport {
                wholes_left_out,
                ..self.about_itself(vec![
                    ("links", links_took.as_secs_f64()),
                    ("maps", read_disks.as_secs_f64() + round.took.maps_s()),
                    ("cgroups", round.took.cgroups_s()),
                ])
            },
            probes: self.meters.probes(),
            unattributed,
            walks: self.fs_usage.totals(),
            blame,
            containers,
            wholes,
        }
    }

    /// Everybody, and how many slices and pods are not among them.
    fn subjects(&self) -> (Vec<Subject>, Option<u64>) {
        let snapshots = self.engine.list();
        let foreign = self.registry.foreign();
        let entries = foreign.map(|foreign| foreign.list()).unwrap_or_default();
        let known: HashSet<&str> = snapshots
            .iter()
            .map(|snapshot| snapshot.record.id.as_str())
            .chain(entries.iter().map(|entry| entry.subject.id.as_str()))
            .collect();
        self.fs_usage.keep(|id| known.contains(id));
        let wholes = foreign.map(|all| all.wholes(&entries));
        let wholes_left_out = wholes.as_ref().map(|wholes| wholes.left_out as u64);
        let mut links = foreign.map(|all| all.links(&entries)).unwrap_or_default();
        let departed = self.registry.departed();
        let subjects = snapshots.into_iter().map(Subject::Ours);
        let subjects = subjects.chain(departed.into_iter().map(Subject::Departed));
        let subjects = subjects.chain(entries.into_iter().map(|entry| {
            let links = links.remove(&entry.slot).unwrap_or_default();
            Subject::Foreign(Box::new(entry), links)
        }));
        let wholes = wholes.into_iter().flat_map(|wholes| wholes.shown).map(Subject::Whole);
        (subjects.chain(wholes).collect(), wholes_left_out)
    }

    fn about_itself(&self, collect_seconds: Vec<(&'static str, f64)>) -> AgentReport {
        let (slots_used, slots_max) = self.registry.usage();
        let stat = procfs::process::Process::myself().and_then(|process| process.stat());
        let stat = stat.ok();
        let ticks = procfs::ticks_per_second() as f64;
        AgentReport {
            version: env!("CARGO_PKG_VERSION").into(),
            started_unix_s: self.started_unix_s,
            rss_bytes: stat.as_ref().map_or(0, |stat| stat.rss_bytes().get()),
            cpu_seconds: stat.map_or(0.0, |stat| (stat.utime + stat.stime) as f64 / ticks),
            open_fds: open_descriptors(),
            max_fds: max_descriptors(),
            slots_used: slots_used as u64,
            slots_max: slots_max as u64,
            audit_written: self.audit.written(),
            audit_lost: self.audit.file_lost(),
            audit_full_batches: self.audit.full_batches(),
            audit_unhashed: self.audit.unhashed(),
            otlp: self.otlp.as_ref().map(|otlp| otlp.report()),
            images: self.registries.report(&self.images),
            rules: self.rules.report(),
            stream_lost: self.audit.stream_lost(),
            kernel_memory: self.kernel_memory.get_or_init(|| self.read_kernel_memory()).clone(),
            governor: self.governor.report(),
            controller: self.controller.report(),
            limit_changes: self.limit_history.counts(),
            collect_seconds,
            collect_errors: self.errors.all(),
            name_queries: {
                let counts = self.engine.networks().name_counts();
                counts.into_iter().map(|(outcome, count)| (outcome.as_str(), count)).collect()
            },
            wholes_left_out: None,
            foreign_refused: self.registry.foreign().map(|foreign| foreign.refused()),
            unseen_completions: counted(self.meters.unseen_completions(), &self.errors.maps),
            unseen_packets: counted(self.meters.unseen_packets(), &self.errors.maps),
            table_full: counted(self.meters.lost(), &self.errors.maps)
                .map(|lost| lost.by_map().into())
                .unwrap_or_default(),
        }
    }

    fn read_kernel_memory(&self) -> Vec<(&'static str, u64)> {
        let cost = counted(self.meters.cost(), &self.errors.maps);
        cost.map(|cost| vec![("maps", cost.map_bytes()), ("programs", cost.program_bytes())])
            .unwrap_or_default()
    }
}

/// How many files this process may have open.
pub fn max_descriptors() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Since 6.2 the directory's size is their number; to list thousands takes milliseconds.
fn open_descriptors() -> u64 {
    let path = "/proc/self/fd";
    match std::fs::metadata(path).map_or(0, |metadata| metadata.len()) {
        0 => std::fs::read_dir(path).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

fn machine() -> Machine {
    let info = rustix::system::sysinfo();
    Machine {
        cpu_cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: info.totalram * u64::from(info.mem_unit),
    }
}

pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

//! One look at everything: cgroup files, kernel maps, link counters, ourselves.
//!
//! Work is done when somebody asks, never on a timer: an agent that nobody
//! scrapes costs nothing. What cannot be read leaves its field empty and is
//! counted; a scrape never fails as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use procfs::WithCurrentSystemInfo as _;
use tenantry_cgroupfs::{Hierarchy, Max};
use tenantry_container::{Engine, Record, Snapshot};
use tenantry_ebpf::{Disks, Meters, Slot};
use tenantry_network::LinkCounters;

use crate::audit::Audit;
use crate::destinations::{Seated, Seats};
use crate::devices::DeviceNames;
use crate::domains::{DomainSeats, Domains};
use crate::foreign::{Entry, Whole};
use crate::fs_usage::{self, FsUsage, Reading};
use crate::governor::Governor;
use crate::origin::Origin;
use crate::registry::{Departed, Registry};
use crate::report::{
    AgentReport, ContainerReport, DiskReport, FileSystemReport, HostReport, IoLimitReport,
    LimitsReport, Machine,
};
use crate::samplers::{Look, Samplers};

/// Everything that a look needs.
#[derive(Debug)]
pub struct Collector {
    pub engine: Engine,
    pub meters: Arc<Meters>,
    pub registry: Arc<Registry>,
    pub audit: Arc<Audit>,
    pub hierarchy: Hierarchy,
    pub samplers: Samplers,
    pub governor: Arc<Governor>,
    pub cgroup_parent: String,
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
    pub errors: Errors,
}

/// What the disks did, by who holds the slot.
type BySlot = HashMap<Slot, Vec<DiskReport>>;

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
        let time_unix_s = unix_seconds();
        let began = Instant::now();
        let links = counted(self.engine.network().counters().await, &self.errors.links);
        let links_took = began.elapsed();
        // Thousands of system calls: meanwhile this thread serves nobody else.
        tokio::task::block_in_place(|| self.look(time_unix_s, links.as_ref(), links_took))
    }

    fn look(
        &self,
        time_unix_s: f64,
        links: Option<&HashMap<String, LinkCounters>>,
        links_took: Duration,
    ) -> HostReport {
        let began = Instant::now();
        let mut names = DeviceNames::default();
        let read = counted(self.meters.read_disks(), &self.errors.maps).unwrap_or_default();
        let (disks, unattributed) = by_slot(read, &mut names);
        let mut took = Took { maps: began.elapsed(), ..Took::default() };
        let snapshots = self.engine.list();
        let mut containers: Vec<ContainerReport> = snapshots
            .iter()
            .map(|snapshot| self.container(snapshot, links, &disks, &mut names, &mut took))
            .collect();
        let foreign = self.registry.foreign().map(|foreign| foreign.list()).unwrap_or_default();
        let known: HashSet<&str> = containers
            .iter()
            .map(|container| container.id.as_str())
            .chain(foreign.iter().map(|entry| entry.subject.id.as_str()))
            .collect();
        self.fs_usage.keep(|id| known.contains(id));
        let departed = self.registry.departed();
        let mut slots: HashMap<String, Slot> =
            departed.iter().map(|gone| (gone.holder.id.clone(), gone.slot)).collect();
        containers.extend(
            departed.into_iter().map(|gone| self.departed(gone, &disks, &mut names, &mut took)),
        );
        slots.extend(foreign.iter().map(|entry| (entry.subject.id.clone(), entry.slot)));
        let wholes = self.registry.foreign().map(|all| all.wholes(&foreign));
        let wholes_left_out = wholes.as_ref().map(|wholes| wholes.left_out as u64);
        let wholes: Vec<ContainerReport> = wholes
            .into_iter()
            .flat_map(|wholes| wholes.shown)
            .filter_map(|whole| self.whole(whole, &mut took))
            .collect();
        let mut others = self.registry.foreign().map(|all| all.links(&foreign)).unwrap_or_default();
        containers.extend(foreign.into_iter().map(|entry| {
            let links = others.remove(&entry.slot).unwrap_or_default();
            let report = self.foreign(entry, &disks, &mut names, &mut took);
            ContainerReport { links, ..report }
        }));
        self.seat(&mut containers, &slots);
        self.seat_domains(&mut containers, &slots);
        self.keep_ooms(&mut containers);
        containers.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.cgroup.cmp(&b.cgroup)));
        let running: HashSet<&str> = containers
            .iter()
            .chain(&wholes)
            .filter(|container| container.running)
            .map(|container| &container.cgroup[1..])
            .collect();
        self.samplers.keep_only(|path| running.contains(path));
        HostReport {
            time_unix_s,
            machine: machine(),
            host: crate::host::read_sample(),
            agent: AgentReport {
                wholes_left_out,
                ..self.about_itself(vec![
                    ("links", links_took.as_secs_f64()),
                    ("maps", took.maps.as_secs_f64()),
                    ("cgroups", took.cgroups.as_secs_f64()),
                ])
            },
            probes: self.meters.probes(),
            unattributed,
            walks: self.fs_usage.totals(),
            containers,
            wholes,
        }
    }

    /// The last values of a container that was removed a moment ago.
    fn departed(
        &self,
        gone: Departed,
        disks: &BySlot,
        names: &mut DeviceNames,
        took: &mut Took,
    ) -> ContainerReport {
        let cgroup = format!("/{}/{}", self.cgroup_parent, gone.holder.id);
        let measured = self.measured(cgroup, Some(gone.slot), false, disks, names, took);
        ContainerReport {
            id: gone.holder.id,
            name: gone.holder.name,
            image: gone.holder.image,
            removed: true,
            oom_kills: oom_kills(0, &measured),
            ..measured
        }
    }

    /// A counter does not go back because a container was removed.
    fn keep_ooms(&self, containers: &mut [ContainerReport]) {
        let mut shown = self.oom_shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = containers.iter_mut().map(|container| {
            if container.removed {
                let before = shown.get(&container.id).copied().unwrap_or(0);
                container.oom_kills = container.oom_kills.max(before);
            }
            (container.id.clone(), container.oom_kills)
        });
        *shown = now.filter(|(_, kills)| *kills > 0).collect();
    }

    /// Chooses the destinations that have series of their own. Without both of the kernel's
    /// tables nothing is shown: half of a counter would be one that falls.
    fn seat(&self, containers: &mut [ContainerReport], others: &HashMap<String, Slot>) {
        let Some(mut all) = counted(self.meters.read_destinations(), &self.errors.maps) else {
            return;
        };
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for container in containers {
            let id = container.id.as_str();
            let slot = self.registry.slot(id).or_else(|| others.get(id).copied());
            let tcp = container.counters.as_ref().and_then(|counters| counters.tcp.as_ref());
            let (Some(slot), Some(tcp)) = (slot, tcp) else { continue };
            let named = all.remove(&slot).unwrap_or_default();
            let of_container = seats.entry(container.id.clone()).or_default();
            let seated = of_container.assign(self.destinations, &named, tcp.other);
            container.destinations = Some(seated).filter(|seated| *seated != Seated::default());
        }
    }

    /// The same for the domains that are asked for.
    fn seat_domains(&self, containers: &mut [ContainerReport], others: &HashMap<String, Slot>) {
        let Some(mut all) = counted(self.meters.read_dns(), &self.errors.maps) else { return };
        let mut seats = self.domain_seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|id, _| containers.iter().any(|container| container.id == *id));
        for container in containers {
            let id = container.id.as_str();
            let slot = self.registry.slot(id).or_else(|| others.get(id).copied());
            let (Some(slot), Some(counters)) = (slot, &container.counters) else { continue };
            let questions = all.remove(&slot).unwrap_or_default();
            let of_container = seats.entry(container.id.clone()).or_default();
            let shown = of_container.assign(self.domains, questions, &counters.dns_other);
            container.domains = Some(shown).filter(|shown| *shown != Domains::default());
        }
    }

    /// One of ours: what can be measured of it, and what its record says besides.
    fn container(
        &self,
        snapshot: &Snapshot,
        links: Option<&HashMap<String, LinkCounters>>,
        disks: &BySlot,
        names: &mut DeviceNames,
        took: &mut Took,
    ) -> ContainerReport {
        let record = &snapshot.record;
        let live = snapshot.live.as_ref();
        let slot = self.registry.slot(&record.id);
        let cgroup = format!("/{}/{}", self.cgroup_parent, record.id);
        let measured = self.measured(cgroup, slot, live.is_some(), disks, names, took);
        let endpoint = live.and_then(|live| live.endpoint.as_ref());
        let sign =
            fs_usage::sign(record.started_unix_ns, measured.counters.as_ref(), &measured.disk);
        let reading = self.fs_usage.ask(&record.id, &snapshot.upper_path(), sign);
        ContainerReport {
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.name.clone(),
            ended_unix_s: match live {
                Some(_) => None,
                None => record.ended.as_ref().map(|ended| ended.finished_unix_ns as f64 / 1e9),
            },
            restarts: Some(u64::from(record.restarts)),
            started_unix_s: record.started_unix_ns.map(|ns| ns as f64 / 1e9),
            namespaces: live
                .map(|live| live.namespaces.clone().into_iter().collect())
                .unwrap_or_default(),
            oom_kills: oom_kills(record.oom_kills, &measured),
            file_system: file_system(reading, names),
            links: endpoint
                .and_then(|endpoint| links?.get(&endpoint.host_interface))
                .map(|link| vec![("eth0".to_owned(), *link)])
                .unwrap_or_default(),
            limits: limits(record, names),
            ..measured
        }
    }

    /// Another runtime's: what can be measured of it, and what that runtime told.
    fn foreign(
        &self,
        entry: Entry,
        disks: &BySlot,
        names: &mut DeviceNames,
        took: &mut Took,
    ) -> ContainerReport {
        let cgroup = entry.subject.cgroup;
        let measured = self.measured(cgroup, Some(entry.slot), true, disks, names, took);
        let began = entry.started_unix_s.map(|seconds| (seconds * 1e9) as u64);
        let sign = fs_usage::sign(began, measured.counters.as_ref(), &measured.disk);
        let upper = entry.upper.as_deref();
        let reading = upper.and_then(|upper| self.fs_usage.ask(&entry.subject.id, upper, sign));
        ContainerReport {
            file_system: file_system(reading, names),
            id: entry.subject.id,
            origin: entry.origin,
            name: entry.name,
            image: entry.image,
            started_unix_s: entry.started_unix_s,
            namespaces: entry.namespaces,
            oom_kills: oom_kills(0, &measured),
            ..measured
        }
    }

    /// A slice or a pod; `None` if it is gone since it was found.
    fn whole(&self, whole: Whole, took: &mut Took) -> Option<ContainerReport> {
        let began = Instant::now();
        let group = self.hierarchy.group(&whole.cgroup[1..]);
        let sample = counted(self.samplers.sample(&group), &self.errors.cgroups).flatten();
        took.cgroups += began.elapsed();
        Some(ContainerReport {
            origin: Origin { pod: whole.pod, ..Origin::default() },
            cgroup: whole.cgroup,
            running: true,
            sample: Some(sample?),
            ..ContainerReport::default()
        })
    }

    /// What a cgroup and a slot tell, whoever runs what is in them.
    fn measured(
        &self,
        cgroup: String,
        slot: Option<Slot>,
        running: bool,
        disks: &BySlot,
        names: &mut DeviceNames,
        took: &mut Took,
    ) -> ContainerReport {
        let began = Instant::now();
        let counters = slot.and_then(|slot| counted(self.meters.read(slot), &self.errors.maps));
        let read_maps = began.elapsed();
        took.maps += read_maps;
        // A container that ended between the list and this line is no fault.
        let group = running.then(|| self.hierarchy.group(&cgroup[1..]));
        let look = group
            .and_then(|group| counted(self.samplers.look(&group), &self.errors.cgroups).flatten());
        let (sample, processes) = match look {
            Some(Look { sample, processes }) => (Some(sample), processes),
            None => (None, None),
        };
        took.cgroups += began.elapsed() - read_maps;
        let delivered = slot.map(|slot| self.registry.delivered(slot)).unwrap_or_default();
        ContainerReport {
            running,
            processes,
            oom_kills: sample.as_ref().and_then(|sample| sample.memory.oom_kills).unwrap_or(0),
            cgroup_io: sample
                .iter()
                .flat_map(|sample| &sample.io)
                .map(|io| (names.get(io.major, io.minor).name.clone(), io.clone()))
                .collect(),
            sample,
            counters,
            exec_delivered: delivered.exec,
            exit_delivered: delivered.exit,
            oom_delivered: delivered.oom,
            disk: slot.and_then(|slot| disks.get(&slot)).cloned().unwrap_or_default(),
            cgroup,
            ..ContainerReport::default()
        }
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
            stream_lost: self.audit.stream_lost(),
            kernel_memory: self.kernel_memory.get_or_init(|| self.read_kernel_memory()).clone(),
            governor: self.governor.report(),
            collect_seconds,
            collect_errors: self.errors.all(),
            wholes_left_out: None,
            foreign_refused: self.registry.foreign().map(|foreign| foreign.refused()),
            unseen_completions: counted(self.meters.unseen_completions(), &self.errors.maps),
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

fn file_system(reading: Option<Reading>, names: &mut DeviceNames) -> Option<FileSystemReport> {
    let Reading { usage, file_system, age } = reading?;
    Some(FileSystemReport {
        device: names.get(file_system.major, file_system.minor).name.clone(),
        usage_bytes: usage.bytes,
        limit_bytes: file_system.size_bytes,
        inodes: usage.inodes,
        skipped_directories: usage.skipped,
        age_seconds: age.as_secs_f64(),
    })
}

/// Rows by who holds the slot, and those of the root cgroup.
fn by_slot(read: Disks, names: &mut DeviceNames) -> (BySlot, Vec<DiskReport>) {
    let mut containers = BySlot::new();
    for (key, counters) in read.containers {
        let device = names.get(key.major, key.minor).clone();
        let report = DiskReport { device, op: key.op, counters };
        containers.entry(key.slot).or_default().push(report);
    }
    let root = read.root.into_iter().map(|(key, counters)| DiskReport {
        device: names.get(key.major, key.minor).clone(),
        op: key.op,
        counters,
    });
    (containers, root.collect())
}

/// v1's file leaves nested cgroups out, and the programs do not know what was before they
/// were loaded: each counts no kill twice, so that the higher count is the right one.
fn oom_kills(of_earlier_runs: u64, measured: &ContainerReport) -> u64 {
    let counted = measured.counters.as_ref().map_or(0, |counters| counters.oom.produced);
    (of_earlier_runs + measured.oom_kills).max(counted)
}

#[derive(Debug, Default)]
struct Took {
    maps: Duration,
    cgroups: Duration,
}

fn limits(record: &Record, names: &mut DeviceNames) -> LimitsReport {
    let resources = &record.limits.resources;
    LimitsReport {
        cpus: resources
            .cpu
            .as_ref()
            .and_then(|cpu| Some(cpu.quota_usec? as f64 / cpu.period_usec as f64)),
        memory_bytes: value(resources.memory_max_bytes.as_ref()),
        pids: value(resources.pids_max.as_ref()),
        egress_bits_per_s: record.limits.bandwidth.egress_bits_per_s,
        ingress_bits_per_s: record.limits.bandwidth.ingress_bits_per_s,
        io: resources
            .io
            .iter()
            .map(|io| IoLimitReport {
                device: names.get(io.major, io.minor).name.clone(),
                read_bytes_per_s: value(io.read_bytes_per_s.as_ref()),
                write_bytes_per_s: value(io.write_bytes_per_s.as_ref()),
                read_ops_per_s: value(io.read_ops_per_s.as_ref()),
                write_ops_per_s: value(io.write_ops_per_s.as_ref()),
            })
            .collect(),
    }
}

pub fn value(limit: Option<&Max>) -> Option<u64> {
    match limit {
        Some(Max::Value(value)) => Some(*value),
        Some(Max::Unlimited) | None => None,
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

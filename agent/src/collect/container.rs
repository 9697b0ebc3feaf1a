//! One container, or whole group, at one moment: its cgroup's files, its slot's counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tenantry_cgroupfs::Max;
use tenantry_container::{Record, Snapshot};
use tenantry_ebpf::{Disks, EventKind, Slot};
use tenantry_network::LinkCounters;

use super::{Collector, counted};
use crate::devices::DeviceNames;
use crate::foreign::{Entry, Whole};
use crate::fs_usage::{self, Reading};
use crate::origin::Origin;
use crate::registry::Departed;
use crate::report::{ContainerReport, DiskReport, FileSystemReport, IoLimitReport, LimitsReport};
use crate::samplers::Look;

/// What the disks did, by who holds the slot.
pub(super) type BySlot = HashMap<Slot, Vec<DiskReport>>;

/// Whose numbers are read.
#[derive(Debug)]
pub(super) enum Subject {
    Ours(Arc<Snapshot>),
    Departed(Departed),
    Foreign(Box<Entry>, Vec<(String, LinkCounters)>),
    Whole(Whole),
}

/// What one collection shares among its containers.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub links: Option<HashMap<String, LinkCounters>>,
    pub disks: BySlot,
    pub names: DeviceNames,
    pub took: Took,
}

/// Nanoseconds by stage, of all threads together.
#[derive(Debug, Default)]
pub(super) struct Took {
    maps: AtomicU64,
    cgroups: AtomicU64,
}

impl Took {
    pub fn maps_s(&self) -> f64 {
        self.maps.load(Ordering::Relaxed) as f64 / 1e9
    }

    pub fn cgroups_s(&self) -> f64 {
        self.cgroups.load(Ordering::Relaxed) as f64 / 1e9
    }
}

fn add(stage: &AtomicU64, took: Duration) {
    stage.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
}

impl Collector {
    /// `None` if it is gone since it was found.
    pub(super) fn subject(&self, subject: Subject, round: &Round) -> Option<ContainerReport> {
        match subject {
            Subject::Ours(snapshot) => Some(self.container(&snapshot, round)),
            Subject::Departed(gone) => Some(self.departed(gone, round)),
            Subject::Foreign(entry, links) => {
                Some(ContainerReport { links, ..self.foreign(*entry, round) })
            }
            Subject::Whole(whole) => self.whole(whole, round),
        }
    }

    /// The last values of a container that was removed a moment ago.
    fn departed(&self, gone: Departed, round: &Round) -> ContainerReport {
        let cgroup = format!("/{}/{}", self.cgroup_parent, gone.holder.id);
        let measured = self.measured(cgroup, Some(gone.slot), false, round);
        ContainerReport {
            id: gone.holder.id,
            name: gone.holder.name,
            image: gone.holder.image,
            removed: true,
            oom_kills: oom_kills(0, &measured),
            ..measured
        }
    }

    /// One of ours: what can be measured of it, and what its record says besides.
    fn container(&self, snapshot: &Snapshot, round: &Round) -> ContainerReport {
        let record = &snapshot.record;
        let live = snapshot.live.as_ref();
        let slot = self.registry.slot(&record.id);
        let cgroup = format!("/{}/{}", self.cgroup_parent, record.id);
        let measured = self.measured(cgroup, slot, live.is_some(), round);
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
            file_system: file_system(reading, &round.names),
            links: live
                .into_iter()
                .flat_map(|live| live.endpoints())
                .filter_map(|endpoint| {
                    let link = round.links.as_ref()?.get(&endpoint.host_interface)?;
                    Some((endpoint.interface.clone(), *link))
                })
                .collect(),
            limits: limits(record, &round.names),
            ..measured
        }
    }

    /// Another runtime's: what can be measured of it, and what that runtime told.
    fn foreign(&self, entry: Entry, round: &Round) -> ContainerReport {
        let cgroup = entry.subject.cgroup;
        let measured = self.measured(cgroup, Some(entry.slot), true, round);
        let began = entry.started_unix_s.map(|seconds| (seconds * 1e9) as u64);
        let sign = fs_usage::sign(began, measured.counters.as_ref(), &measured.disk);
        let upper = entry.upper.as_deref();
        let reading = upper.and_then(|upper| self.fs_usage.ask(&entry.subject.id, upper, sign));
        ContainerReport {
            file_system: file_system(reading, &round.names),
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
    fn whole(&self, whole: Whole, round: &Round) -> Option<ContainerReport> {
        let began = Instant::now();
        let group = self.hierarchy.group(&whole.cgroup[1..]);
        let sample = counted(self.samplers.sample(&group), &self.errors.cgroups).flatten();
        add(&round.took.cgroups, began.elapsed());
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
        round: &Round,
    ) -> ContainerReport {
        let began = Instant::now();
        let counters = slot.and_then(|slot| counted(self.meters.read(slot), &self.errors.maps));
        let read_maps = began.elapsed();
        add(&round.took.maps, read_maps);
        // A container that ended between the list and this line is no fault.
        let group = running.then(|| self.hierarchy.group(&cgroup[1..]));
        let look = group
            .and_then(|group| counted(self.samplers.look(&group), &self.errors.cgroups).flatten());
        let (sample, processes) = match look {
            Some(Look { sample, processes }) => (Some(sample), processes),
            None => (None, None),
        };
        add(&round.took.cgroups, began.elapsed() - read_maps);
        let delivered = slot.map(|slot| self.registry.delivered(slot)).unwrap_or_default();
        ContainerReport {
            slot,
            running,
            processes,
            oom_kills: sample.as_ref().and_then(|sample| sample.memory.oom_kills).unwrap_or(0),
            cgroup_io: sample
                .iter()
                .flat_map(|sample| &sample.io)
                .map(|io| (round.names.get(io.major, io.minor).name, io.clone()))
                .collect(),
            sample,
            counters,
            delivered,
            disk: slot.and_then(|slot| round.disks.get(&slot)).cloned().unwrap_or_default(),
            cgroup,
            ..ContainerReport::default()
        }
    }
}

fn file_system(reading: Option<Reading>, names: &DeviceNames) -> Option<FileSystemReport> {
    let Reading { usage, file_system, age } = reading?;
    Some(FileSystemReport {
        device: names.get(file_system.major, file_system.minor).name,
        usage_bytes: usage.bytes,
        limit_bytes: file_system.size_bytes,
        inodes: usage.inodes,
        skipped_directories: usage.skipped,
        age_seconds: age.as_secs_f64(),
    })
}

/// Rows by who holds the slot, and those of the root cgroup.
pub(super) fn by_slot(read: Disks, names: &DeviceNames) -> (BySlot, Vec<DiskReport>) {
    let mut containers = BySlot::new();
    for (key, counters) in read.containers {
        let device = names.get(key.major, key.minor);
        let report = DiskReport { device, op: key.op, counters };
        containers.entry(key.slot).or_default().push(report);
    }
    let root = read.root.into_iter().map(|(key, counters)| DiskReport {
        device: names.get(key.major, key.minor),
        op: key.op,
        counters,
    });
    (containers, root.collect())
}

/// v1's file leaves nested cgroups out, and the programs do not know what was before they
/// were loaded: each counts no kill twice, so that the higher count is the right one.
fn oom_kills(of_earlier_runs: u64, measured: &ContainerReport) -> u64 {
    let counted = measured
        .counters
        .as_ref()
        .map_or(0, |counters| counters.events.of(EventKind::Oom).produced);
    (of_earlier_runs + measured.oom_kills).max(counted)
}

fn limits(record: &Record, names: &DeviceNames) -> LimitsReport {
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
                device: names.get(io.major, io.minor).name,
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

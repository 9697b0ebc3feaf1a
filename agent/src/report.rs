//! What one scrape shows: plain data, filled by the collector, read by the encoder.
//!
//! Owns no file, no socket and no clock. Counters are what the kernel or the agent
//! counted, without rates; an `Option` is `None` where this kernel, this cgroup version
//! or this moment (a container that does not run) has no such number, and then the scrape
//! has no such series: a missing series is honest, a zero is not.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use tenantry_cgroupfs::Sample;
use tenantry_cgroupfs::sample::IoSample;
use tenantry_container::LimitCounts;
use tenantry_ebpf::{DiskCounters, DiskOp, Probe, Slot, SlotCounters};
use tenantry_network::LinkCounters;

use crate::blame;
use crate::controller::ControllerReport;
use crate::delivered::Delivered;
use crate::destinations::Seated;
use crate::devices::Device;
use crate::domains::Domains;
use crate::fs_usage::Totals;
use crate::governor::GovernorReport;
use crate::host::HostSample;
use crate::origin::Origin;
use crate::otlp::OtlpReport;
use crate::registries::counts::ImagesReport;
use crate::rules::RuleCount;

/// One host at one moment.
#[derive(Clone, Debug, Default)]
pub struct HostReport {
    /// When the collection began, seconds since 1970.
    pub time_unix_s: f64,
    pub machine: Machine,
    pub host: HostSample,
    pub agent: AgentReport,
    pub probes: Vec<Probe>,
    /// What disks did for the root cgroup, that is for no container.
    pub unattributed: Vec<DiskReport>,
    pub walks: Totals,
    /// Who kept whom waiting.
    pub blame: blame::Shown,
    /// All containers, stopped ones too, sorted by name so that scrapes compare well.
    pub containers: Vec<ContainerReport>,
    /// Slices and pods as a whole, of which only what their cgroup's files say is known.
    pub wholes: Vec<ContainerReport>,
}

#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// CPUs that are online.
    pub cpu_cores: u32,
    pub memory_bytes: u64,
}

/// The agent about itself.
#[derive(Clone, Debug, Default)]
pub struct AgentReport {
    pub version: String,
    pub started_unix_s: f64,
    pub rss_bytes: u64,
    /// User and system time.
    pub cpu_seconds: f64,
    pub open_fds: u64,
    pub max_fds: u64,
    /// Slots of the kernel maps that a container holds.
    pub slots_used: u64,
    /// Slots that a container can hold: slot 0 is not among them.
    pub slots_max: u64,
    /// Containers of other runtimes for which there was no slot; `None` if none are wanted.
    pub foreign_refused: Option<u64>,
    /// Slices and pods that are not among [`HostReport::wholes`] because of the bound; `None`
    /// as above.
    pub wholes_left_out: Option<u64>,
    /// Lines that reached the audit file.
    pub audit_written: u64,
    /// Events that left the kernel's ring and that the audit file's disk refused.
    pub audit_lost: u64,
    /// Times that the kernel's ring held more events than are handled at once.
    pub audit_full_batches: u64,
    /// Execs without the hash that was asked for.
    pub audit_unhashed: u64,
    /// `None`: no logs are sent.
    pub otlp: Option<OtlpReport>,
    pub images: ImagesReport,
    /// What each rule over audit events matched.
    pub rules: Vec<RuleCount>,
    /// Events that listeners of the event stream were too slow for.
    pub stream_lost: u64,
    /// Kernel memory of the programs and of their maps; empty if it could not be read.
    pub kernel_memory: Vec<(&'static str, u64)>,
    /// `None` if the governor is switched off.
    pub governor: Option<GovernorReport>,
    /// `None` if there is no controller.
    pub controller: Option<ControllerReport>,
    /// Changes of limits since the agent started.
    pub limit_changes: LimitCounts,
    /// Seconds that each stage of this collection took: `cgroups`, `maps`, `links` …
    pub collect_seconds: Vec<(&'static str, f64)>,
    /// Collections that had to leave something out since the agent started, by stage.
    pub collect_errors: Vec<(&'static str, u64)>,
    /// Questions to containers' name servers, by what came of them.
    pub name_queries: Vec<(&'static str, u64)>,
    /// Disk requests whose completion no program was run for, since the programs were loaded.
    pub unseen_completions: Option<u64>,
    /// Containers' packets that left a device's queue which nobody saw them enter.
    pub unseen_packets: Option<u64>,
    /// Entries that found no room in a kernel table since it was made, by table.
    pub table_full: Vec<(&'static str, u64)>,
}

impl HostReport {
    /// Takes away what containers counted that stopped longer than `linger` ago. Their last
    /// values were there to be scraped; a container that nobody removes is not watched for ever.
    pub fn after_linger(mut self, linger: Duration) -> Self {
        let now = self.time_unix_s;
        let is_over =
            |ended: Option<f64>| ended.is_some_and(|ended| now - ended > linger.as_secs_f64());
        let containers = self.containers.into_iter().map(|container| {
            match !container.running && is_over(container.ended_unix_s) {
                true => container.without_counters(),
                false => container,
            }
        });
        self.containers = containers.collect();
        self
    }
}

/// One container, ours or another runtime's.
#[derive(Clone, Debug, Default)]
pub struct ContainerReport {
    /// The container's id, or a systemd unit's name.
    pub id: String,
    /// Who runs it.
    pub origin: Origin,
    /// The cgroup's path below the hierarchy's root, as cAdvisor gives it: `/tenantry/<id>`.
    pub cgroup: String,
    pub name: String,
    /// As it was given at creation: `demo:latest`.
    pub image: String,
    /// Of the kernel's tables; `None` if it could have none.
    pub slot: Option<Slot>,
    pub running: bool,
    /// It was removed a moment ago; its counters linger.
    pub removed: bool,
    /// When its last run ended; `None` while it runs, and before the first.
    pub ended_unix_s: Option<f64>,
    /// Starts by policy since the container was created; `None` if another runtime decides.
    pub restarts: Option<u64>,
    /// Of the present run; `None` before the first.
    pub started_unix_s: Option<f64>,
    /// Type as in `/proc/PID/ns` and inode; empty while the container does not run.
    pub namespaces: Vec<(String, u64)>,
    /// Entries of `cgroup.procs`.
    pub processes: Option<u64>,
    /// Since the container was created, over all runs, in nested cgroups too. A restart makes a new cgroup whose
    /// own count is zero: this one must not go back with it.
    pub oom_kills: u64,
    pub sample: Option<Sample>,
    /// `None` if the container has no slot.
    pub counters: Option<SlotCounters>,
    /// Events that the agent read from the ring.
    pub delivered: Delivered,
    pub disk: Vec<DiskReport>,
    /// Of the writable layer; `None` until it has been counted for the first time.
    pub file_system: Option<FileSystemReport>,
    /// Of `sample`, with the devices' names.
    pub cgroup_io: Vec<(String, IoSample)>,
    /// Whom it talks to over TCP; `None` if nobody yet.
    pub destinations: Option<Seated>,
    /// Its interfaces but `lo`, by name and as it sees them; of containers in one network
    /// namespace one has them.
    pub links: Vec<(String, LinkCounters)>,
    /// What it asks name servers for; `None` if nothing yet.
    pub domains: Option<Domains>,
    pub limits: LimitsReport,
    /// The encoder's: the labels that each of this container's series has, as text.
    pub labels: OnceLock<String>,
}

impl ContainerReport {
    /// Syscalls and errors of the container's processes by the namespace (type and inode)
    /// that they were in, in its present run.
    pub fn calls_by_namespace(&self) -> BTreeMap<(&'static str, u32), (u64, u64)> {
        let mut found = BTreeMap::new();
        for row in self.counters.iter().flat_map(|counters| &counters.namespaces) {
            for key in row.namespaces.by_type() {
                let (calls, errors) = found.entry(key).or_insert((0, 0));
                *calls += row.calls;
                *errors += row.errors;
            }
        }
        found
    }

    /// A stopped container after its counters have lingered: what it is, without what it did.
    fn without_counters(self) -> Self {
        let Self {
            id,
            origin,
            cgroup,
            name,
            image,
            running,
            restarts,
            oom_kills,
            ended_unix_s,
            ..
        } = self;
        Self {
            id,
            origin,
            cgroup,
            name,
            image,
            running,
            restarts,
            oom_kills,
            ended_unix_s,
            ..Self::default()
        }
    }
}

/// What a container wrote over its image.
#[derive(Clone, Debug, Default)]
pub struct FileSystemReport {
    /// Where it lies, as in [`Device`].
    pub device: String,
    pub usage_bytes: u64,
    /// Size of the file system.
    pub limit_bytes: u64,
    pub inodes: u64,
    /// Not entered because they are too deep; what is in them is not in `usage_bytes`.
    pub skipped_directories: u64,
    /// Since it was counted.
    pub age_seconds: f64,
}

/// What one disk did in one kind of operation.
#[derive(Clone, Debug)]
pub struct DiskReport {
    pub device: Device,
    pub op: DiskOp,
    pub counters: DiskCounters,
}

/// Limits that we put in force. `None` is no limit of ours.
#[derive(Clone, Debug, Default)]
pub struct LimitsReport {
    /// 0.5 is half of a CPU.
    pub cpus: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u64>,
    pub egress_bits_per_s: Option<u64>,
    pub ingress_bits_per_s: Option<u64>,
    pub io: Vec<IoLimitReport>,
}

#[derive(Clone, Debug, Default)]
pub struct IoLimitReport {
    /// Named as in [`Device`].
    pub device: String,
    pub read_bytes_per_s: Option<u64>,
    pub write_bytes_per_s: Option<u64>,
    pub read_ops_per_s: Option<u64>,
    pub write_ops_per_s: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_stopped_container_linger_and_then_end() {
        let container = |running, ended_unix_s| ContainerReport {
            name: "web".into(),
            running,
            ended_unix_s,
            restarts: Some(3),
            counters: Some(SlotCounters::default()),
            ..ContainerReport::default()
        };
        let check = |running, ended, kept| {
            let containers = vec![container(running, ended)];
            let report = HostReport { time_unix_s: 1000.0, containers, ..HostReport::default() };
            let after = report.after_linger(Duration::from_secs(300));
            assert_eq!(after.containers[0].counters.is_some(), kept, "{running} {ended:?}");
            assert_eq!(
                (after.containers[0].name.as_str(), after.containers[0].restarts),
                ("web", Some(3))
            );
        };
        check(true, None, true);
        check(true, Some(1.0), true);
        check(false, Some(800.0), true);
        check(false, Some(699.0), false);
        check(false, None, true);
    }
}

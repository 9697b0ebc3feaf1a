//! The engine's, the meters' and the collector's values in the API's words. Pure
//! but for the slot look-up.

use tenantry_cgroupfs::IoLimit as KernelIoLimit;
use tenantry_container::{Limits, Snapshot};
use tenantry_ebpf::{DiskOp, EventCounters, EventKind, ProbeStatus};

use super::Shared;
use super::model::{
    Cgroups, Container, EventCount, IoLimit, LimitsRequest, Probe, Stats, Step, Syscall,
};
use crate::api::logs::rfc3339;
use crate::collect::value;
use crate::foreign::Entry;
use crate::origin::Runtime;
use crate::report::{ContainerReport, DiskReport};

pub fn container(app: &Shared, snapshot: &Snapshot) -> Container {
    let record = &snapshot.record;
    let live = snapshot.live.as_ref();
    let endpoint = live.and_then(|live| live.endpoint.as_ref());
    Container {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image.name.clone(),
        image_id: record.image.id.clone(),
        runtime: Runtime::Tenantry,
        pod: None,
        compose: None,
        cgroup: format!("/{}/{}", app.config.cgroup_parent, record.id),
        state: record.state_word().into(),
        pid: live.map(|live| live.pid),
        exit_code: record.ended.as_ref().map(|ended| ended.code),
        oom_killed: record.ended.as_ref().is_some_and(|ended| ended.oom_killed),
        restarts: record.restarts,
        started_at: record.started_unix_ns.map(rfc3339),
        address: endpoint.map(|endpoint| endpoint.address.to_string()),
        host_interface: endpoint.map(|endpoint| endpoint.host_interface.clone()),
        slot: app.registry.slot(&record.id),
        cgroups: live
            .map(|live| Cgroups { unified: live.cgroup.unified, blkio_v1: live.cgroup.blkio_v1 }),
        namespaces: live.map(|live| live.namespaces.clone()).unwrap_or_default(),
        limits: limits(&record.limits),
        start_steps_usec: snapshot
            .start_timings
            .iter()
            .map(|(name, usec)| Step { name: name.clone(), usec: *usec })
            .collect(),
    }
}

/// Another runtime's: what its cgroup and that runtime told. Its state is that it runs.
pub fn foreign(entry: &Entry) -> Container {
    Container {
        id: entry.subject.id.clone(),
        name: entry.name.clone(),
        image: entry.image.clone(),
        image_id: String::new(),
        runtime: entry.origin.runtime,
        pod: entry.origin.pod.clone(),
        compose: entry.origin.compose.clone(),
        cgroup: entry.subject.cgroup.clone(),
        state: "running".into(),
        pid: entry.pid,
        exit_code: None,
        oom_killed: false,
        restarts: 0,
        started_at: entry.started_unix_s.map(|seconds| rfc3339((seconds * 1e9) as u64)),
        address: None,
        host_interface: None,
        slot: Some(entry.slot),
        cgroups: Some(Cgroups { unified: entry.ids.unified, blkio_v1: entry.ids.blkio }),
        namespaces: entry.namespaces.iter().cloned().collect(),
        limits: LimitsRequest::default(),
        start_steps_usec: Vec::new(),
    }
}

pub fn limits(limits: &Limits) -> LimitsRequest {
    let resources = &limits.resources;
    let cpus = resources
        .cpu
        .as_ref()
        .and_then(|cpu| Some(cpu.quota_usec? as f64 / cpu.period_usec as f64));
    LimitsRequest {
        cpus: cpus.map(Some),
        memory_bytes: value(resources.memory_max_bytes.as_ref()).map(Some),
        pids: value(resources.pids_max.as_ref()).map(Some),
        egress_bits_per_second: limits.bandwidth.egress_bits_per_s.map(Some),
        ingress_bits_per_second: limits.bandwidth.ingress_bits_per_s.map(Some),
        egress_burst_bytes: limits.bandwidth.egress_burst_bytes,
        ingress_burst_bytes: limits.bandwidth.ingress_burst_bytes,
        io: resources.io.iter().map(io_limit).collect(),
    }
}

fn io_limit(limit: &KernelIoLimit) -> IoLimit {
    IoLimit {
        device: format!("{}:{}", limit.major, limit.minor),
        read_bytes_per_second: value(limit.read_bytes_per_s.as_ref()).map(Some),
        write_bytes_per_second: value(limit.write_bytes_per_s.as_ref()).map(Some),
        read_ops_per_second: value(limit.read_ops_per_s.as_ref()).map(Some),
        write_ops_per_second: value(limit.write_ops_per_s.as_ref()).map(Some),
    }
}

pub fn probe(probe: &tenantry_ebpf::Probe) -> Probe {
    let (status, reason) = match &probe.status {
        ProbeStatus::Active => ("active", None),
        ProbeStatus::Disabled => ("disabled", None),
        ProbeStatus::Unsupported(why) => ("unsupported", Some(why.clone())),
        ProbeStatus::Failed(why) => ("failed", Some(why.clone())),
    };
    Probe { name: probe.name.clone(), hook: probe.hook.clone(), status: status.into(), reason }
}

pub fn stats(report: &ContainerReport) -> Stats {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let mut stats = Stats {
        id: report.id.clone(),
        name: report.name.clone(),
        image: report.image.clone(),
        monotonic_ns: monotonic.tv_sec as u64 * 1_000_000_000 + monotonic.tv_nsec as u64,
        oom_kills: report.oom_kills,
        memory_limit_bytes: report.limits.memory_bytes,
        ..Stats::default()
    };
    if let Some(sample) = &report.sample {
        stats.cpu_usage_usec = sample.cpu.usage_usec.unwrap_or(0);
        stats.cpu_throttled_usec = sample.cpu.throttled_usec.unwrap_or(0);
        stats.memory_working_set_bytes = sample.memory.working_set_bytes().unwrap_or(0);
        stats.pids = sample.pids.current.unwrap_or(0);
    }
    for DiskReport { op, counters, .. } in report.disk.iter().filter(|disk| !disk.device.stacked) {
        match op {
            DiskOp::Read => stats.disk_read_bytes += counters.bytes,
            DiskOp::Write => stats.disk_write_bytes += counters.bytes,
            _ => {}
        }
    }
    if let Some(counters) = &report.counters {
        let network = &counters.external;
        stats.network_receive_bytes = network.rx_bytes;
        stats.network_transmit_bytes = network.tx_bytes;
        stats.network_receive_packets = network.rx_packets;
        stats.network_transmit_packets = network.tx_packets;
        let quantile = |q| counters.run_queue.quantile(q).map(|wait| wait.as_nanos() as u64);
        stats.run_queue_p50_ns = quantile(0.5);
        stats.run_queue_p99_ns = quantile(0.99);
        let events = |kind| {
            let EventCounters { produced, lost, filtered } = counters.events.of(kind);
            EventCount { produced, delivered: report.delivered.of(kind), lost, filtered }
        };
        stats.audit = EventKind::ALL
            .into_iter()
            .map(|kind| (kind.name().to_owned(), events(kind)))
            .filter(|(_, count)| *count != EventCount::default())
            .collect();
        stats.execs = events(EventKind::Exec);
        stats.exits = events(EventKind::Exit);
        stats.ooms = events(EventKind::Oom);
        stats.syscalls = counters
            .syscalls
            .iter()
            .map(|call| Syscall {
                name: tenantry_ebpf::syscall_name(call.nr)
                    .map_or_else(|| format!("syscall_{}", call.nr), str::to_owned),
                count: call.count,
                errors: call.errors,
                errors_by_class: counters
                    .syscall_errors
                    .iter()
                    .filter(|errors| errors.nr == call.nr)
                    .map(|errors| (errors.class.name().to_owned(), errors.count))
                    .collect(),
            })
            .collect();
        stats.syscalls.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    }
    stats
}

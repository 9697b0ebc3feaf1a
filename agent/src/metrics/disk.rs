//! Disks: what each did for each container, what it did for nobody known, and the
//! cgroups' own account under cAdvisor's names.

use std::fmt::Error;

use tenantry_cgroupfs::sample::{IoSample, MemoryStat};
use tenantry_ebpf::{DiskCounters, DiskOp};

use super::buckets::{Buckets, DISK, DISK_QUEUE};
use super::family::Families;
use super::{Base, base};
use crate::report::{ContainerReport, DiskReport, HostReport};

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    requests(f, &report.containers)?;
    times(f, &report.containers)?;
    page_cache(f, &report.containers)?;
    unattributed(f, &report.unattributed)?;
    cadvisor(f, &report.containers)
}

type Labels<'a> = (Base<'a>, [(&'static str, &'a str); 2]);

fn device_and_op(disk: &DiskReport) -> [(&'static str, &str); 2] {
    [("device", disk.device.name.as_str()), ("op", op_name(disk.op))]
}

fn all(containers: &[ContainerReport]) -> impl Iterator<Item = (Labels<'_>, &DiskCounters)> {
    containers.iter().flat_map(|container| {
        let labels = move |disk| (base(container), device_and_op(disk));
        container.disk.iter().map(move |disk| (labels(disk), &disk.counters))
    })
}

fn requests(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.counter(
        "tenantry_disk_operations_total",
        "Operations that block devices completed for the container; a flush is one that it waited \
         for, those of a journal are nobody's; what a loop device or a \
         volume passes on is counted there and below",
        all(containers).map(|(labels, disk)| (labels, disk.operations)),
    )?;
    f.counter(
        "tenantry_disk_bytes_total",
        "Bytes of operations that block devices completed for the container; cgroup v1 does not \
         tell whose the buffered writes are that the kernel flushes later: they are in \
         tenantry_disk_unattributed_bytes_total",
        all(containers).map(|(labels, disk)| (labels, disk.bytes)),
    )?;
    f.counter(
        "tenantry_disk_errors_total",
        "Operations that failed, in part or whole",
        all(containers).map(|(labels, disk)| (labels, disk.errors)),
    )?;
    let used = |count: fn(&DiskCounters) -> u64| {
        all(containers).map(move |(labels, disk)| (labels, count(disk))).filter(|(_, n)| *n > 0)
    };
    f.counter(
        "tenantry_disk_requeues_total",
        "Times that a device gave an operation back, to be issued again",
        used(|disk| disk.requeues),
    )?;
    f.counter(
        "tenantry_disk_merged_total",
        "Transfers that became part of another operation, and are none of their own",
        used(|disk| disk.merges),
    )?;
    f.gauge(
        "tenantry_disk_in_flight",
        "Operations at the device now, flushes not among them",
        all(containers).map(|(labels, disk)| (labels, disk.in_flight)),
    )
}

fn times(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.histogram(
        "tenantry_disk_duration_seconds",
        "Time from issue to completion by the device, all operations counted; a flush's from its \
         beginning",
        all(containers)
            .filter_map(|(labels, disk)| Some((labels, Buckets::cut(&disk.latency, DISK)?))),
    )?;
    f.histogram(
        "tenantry_disk_queue_seconds",
        "Time from an operation's beginning to its issue: plug, scheduler, full device; what an \
         I/O limit holds back comes before that and is in container_pressure_io",
        all(containers)
            .filter_map(|(labels, disk)| Some((labels, Buckets::cut(&disk.queue, DISK_QUEUE)?))),
    )
}

/// What is still to be written.
fn page_cache(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&MemoryStat) -> Option<u64>);
    let rows: [Row; 2] = [
        (
            "tenantry_memory_dirty_bytes",
            "Page cache that was written to and waits to be written back",
            |stat| stat.dirty_bytes,
        ),
        (
            "tenantry_memory_writeback_bytes",
            "Page cache that is being written back to disk",
            |stat| stat.writeback_bytes,
        ),
    ];
    for (name, help, read) in rows {
        let series = containers.iter().filter_map(|container| {
            Some((base(container), read(&container.sample.as_ref()?.memory.stat)?))
        });
        f.gauge(name, help, series)?;
    }
    Ok(())
}

fn unattributed(f: &mut Families, disks: &[DiskReport]) -> Result<(), Error> {
    f.counter(
        "tenantry_disk_unattributed_operations_total",
        "Operations charged to the root cgroup, that is to no container: the kernel's own, and on \
         cgroup v1 the host's processes and all buffered writes that the kernel flushes later",
        disks.iter().map(|disk| (device_and_op(disk), disk.counters.operations)),
    )?;
    f.counter(
        "tenantry_disk_unattributed_bytes_total",
        "Bytes of operations charged to the root cgroup, that is to no container",
        disks.iter().map(|disk| (device_and_op(disk), disk.counters.bytes)),
    )?;
    f.counter(
        "tenantry_disk_unattributed_errors_total",
        "Operations charged to the root cgroup that failed: a buffered write that is lost shows \
         here where it has no owner",
        disks.iter().map(|disk| (device_and_op(disk), disk.counters.errors)),
    )
}

fn cadvisor(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, DiskOp, fn(&DiskCounters) -> u64);
    let rows: [Row; 4] = [
        (
            "container_fs_reads_total",
            "Reads that disks completed for the container, without those of stacked devices",
            DiskOp::Read,
            |disk| disk.operations,
        ),
        ("container_fs_reads_bytes_total", "Bytes read from disks", DiskOp::Read, |d| d.bytes),
        (
            "container_fs_writes_total",
            "Writes that disks completed for the container, without those of stacked devices",
            DiskOp::Write,
            |disk| disk.operations,
        ),
        ("container_fs_writes_bytes_total", "Bytes written to disks", DiskOp::Write, |d| d.bytes),
    ];
    for (name, help, op, value) in rows {
        f.counter(
            name,
            help,
            containers.iter().flat_map(|container| {
                let own = container.disk.iter().filter(move |d| d.op == op && !d.device.stacked);
                own.map(move |disk| {
                    let device = [("device", disk.device.name.as_str())];
                    ((base(container), device), value(&disk.counters))
                })
            }),
        )?;
    }

    type Operation = (&'static str, fn(&IoSample) -> u64);
    const OPERATIONS: [Operation; 3] = [
        ("Discard", |io| io.discard_bytes),
        ("Read", |io| io.read_bytes),
        ("Write", |io| io.write_bytes),
    ];
    f.counter(
        "container_blkio_device_usage_total",
        "Bytes handed to block devices by the cgroup's own account, failed ones included",
        containers.iter().flat_map(|container| {
            container.cgroup_io.iter().flat_map(move |(device, io)| {
                OPERATIONS.iter().map(move |(operation, bytes)| {
                    let device = [
                        ("device", device.clone()),
                        ("major", io.major.to_string()),
                        ("minor", io.minor.to_string()),
                        ("operation", (*operation).to_owned()),
                    ];
                    ((base(container), device), bytes(io))
                })
            })
        }),
    )
}

fn op_name(op: DiskOp) -> &'static str {
    match op {
        DiskOp::Read => "read",
        DiskOp::Write => "write",
        DiskOp::Flush => "flush",
        DiskOp::Discard => "discard",
        DiskOp::Other => "other",
    }
}

//! System calls of each container: counts, errors by class, latency.

use std::borrow::Cow;
use std::fmt::Error;

use super::buckets::{Buckets, DISK, SYSCALL};
use super::family::Families;
use super::kernel::counted;
use super::{Base, base};
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.counter(
        "tenantry_syscalls_total",
        "System calls that returned, all counted; exit and exit_group never return",
        counted(containers).flat_map(|(base, _, counters)| {
            counters
                .syscalls
                .iter()
                .filter(|call| call.count > 0)
                .map(move |call| ((base, [("syscall", name(call.nr))]), call.count))
        }),
    )?;
    f.counter(
        "tenantry_syscall_errors_total",
        "System calls that returned an error, all counted, by what one does about it",
        counted(containers).flat_map(|(base, _, counters)| {
            counters.syscall_errors.iter().filter(|errors| errors.count > 0).map(move |errors| {
                let class = [("class", errors.class.name())];
                ((base, ([("syscall", name(errors.nr))], class)), errors.count)
            })
        }),
    )?;
    f.histogram(
        "tenantry_syscall_duration_seconds",
        "Time from entry to return by class of system call; a sample, one call in sixteen",
        counted(containers).flat_map(|(base, _, counters)| {
            counters.latency.iter().filter_map(move |(class, histogram)| {
                Some(((base, [("class", class.name())]), Buckets::cut(histogram, SYSCALL)?))
            })
        }),
    )?;
    f.histogram(
        "tenantry_fsync_duration_seconds",
        "Time of fsync, fdatasync, sync_file_range, syncfs and msync, every call; only while \
         the probe syscall_enter is active",
        counted(containers).filter_map(|(base, _, counters)| {
            Some((base, Buckets::cut(&counters.sync_latency, DISK)?))
        }),
    )?;
    namespaces(f, containers)
}

/// With the container's labels, so that a series ends with its container and never goes
/// back because another one is gone; `sum by (type, inode)` is the namespace's.
fn namespaces(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Labels<'a> = (Base<'a>, ([(&'static str, &'static str); 1], [(&'static str, u32); 1]));
    type Series<'a> = Vec<(Labels<'a>, (u64, u64))>;
    let series: Series<'_> = containers
        .iter()
        .flat_map(|container| {
            container.calls_by_namespace().into_iter().map(move |((kind, inode), counts)| {
                let labels = ([("type", kind)], [("inode", inode)]);
                ((base(container), labels), counts)
            })
        })
        .collect();
    f.counter(
        "tenantry_namespace_syscalls_total",
        "System calls that the container's processes made while they were in the namespace, in \
         its present run",
        series.iter().map(|(labels, (calls, _))| (*labels, *calls)),
    )?;
    f.counter(
        "tenantry_namespace_syscall_errors_total",
        "Those of them that returned an error",
        series.iter().map(|(labels, (_, errors))| (*labels, *errors)),
    )
}

/// A number that this build has no name for is still the kernel's number.
fn name(nr: u32) -> Cow<'static, str> {
    match tenantry_ebpf::syscall_name(nr) {
        Some(name) => name.into(),
        None => format!("syscall_{nr}").into(),
    }
}

//! Memory of a container's cgroup, in cAdvisor's words where it has them.

use std::fmt::Error;

use tenantry_cgroupfs::sample::Sample;

use super::cgroup::{field, zero_if_unlimited};
use super::family::Families;
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[&ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&Sample) -> Option<u64>);
    let rows: [Row; 15] = [
        (
            "container_memory_usage_bytes",
            "Memory in use, page cache and kernel memory included",
            |s| s.memory.usage_bytes,
        ),
        (
            "container_memory_working_set_bytes",
            "Memory in use without inactive file pages, which the kernel takes back first",
            |s| s.memory.working_set_bytes(),
        ),
        ("container_memory_rss", "Anonymous memory in bytes", |s| s.memory.stat.anon_bytes),
        ("container_memory_cache", "Page cache, tmpfs and shared memory in bytes", |s| {
            s.memory.stat.file_bytes
        }),
        ("container_memory_mapped_file", "Mapped part of the page cache in bytes", |s| {
            s.memory.stat.mapped_bytes
        }),
        ("container_memory_swap", "Bytes in swap", |s| s.memory.swap_bytes),
        ("container_memory_kernel_usage", "Kernel memory in bytes", |s| s.memory.stat.kernel_bytes),
        (
            "container_memory_total_active_file_bytes",
            "Page cache that was used again lately",
            |s| s.memory.stat.active_file_bytes,
        ),
        (
            "container_memory_total_inactive_file_bytes",
            "Page cache that the kernel takes back first",
            |s| s.memory.stat.inactive_file_bytes,
        ),
        ("tenantry_memory_socket_bytes", "Buffers of sockets; on cgroup v1 those of TCP", |s| {
            s.memory.stat.sock_bytes
        }),
        ("container_memory_max_usage_bytes", "Highest memory use of the present run", |s| {
            s.memory.max_usage_bytes
        }),
        (
            "container_memory_failcnt",
            "Times that the memory limit was hit; only goes up, a gauge for its name's sake",
            |s| s.memory.failcnt,
        ),
        ("container_spec_memory_limit_bytes", "Memory limit, 0 if there is none", |s| {
            s.memory.limit_bytes.map(zero_if_unlimited)
        }),
        (
            "container_spec_memory_reservation_limit_bytes",
            "Memory that reclaim leaves alone while there is other, 0 if there is none",
            |s| s.memory.reservation_bytes.map(zero_if_unlimited),
        ),
        (
            "container_spec_memory_swap_limit_bytes",
            "Limit of memory and swap together, 0 if there is none",
            |s| s.memory.memory_swap_limit_bytes.map(zero_if_unlimited),
        ),
    ];
    for (name, help, read) in rows {
        f.gauge(name, help, field(containers, read))?;
    }

    type Events = fn(&Sample) -> Option<u64>;
    // v2 counts for the whole subtree only; cAdvisor says so twice there, and so do we.
    let faults: [(&str, &str, Events); 4] = [
        ("pgfault", "container", |s| s.memory.stat.own_pgfault.or(s.memory.stat.pgfault)),
        ("pgfault", "hierarchy", |s| s.memory.stat.pgfault),
        ("pgmajfault", "container", |s| s.memory.stat.own_pgmajfault.or(s.memory.stat.pgmajfault)),
        ("pgmajfault", "hierarchy", |s| s.memory.stat.pgmajfault),
    ];
    f.counter(
        "container_memory_failures_total",
        "Page faults, all and those that needed I/O; hierarchy includes nested cgroups, on \
         cgroup v2 both do",
        faults.into_iter().flat_map(|(kind, scope, read)| {
            field(containers, read).map(move |(base, events)| {
                ((base, [("failure_type", kind), ("scope", scope)]), events)
            })
        }),
    )?;
    let reclaim: [(&str, Events); 2] =
        [("scanned", |s| s.memory.stat.pgscan), ("reclaimed", |s| s.memory.stat.pgsteal)];
    f.counter(
        "tenantry_memory_reclaim_pages_total",
        "Pages that the kernel looked at to take them back, and those that it took; cgroup v2",
        reclaim.into_iter().flat_map(|(stage, read)| {
            field(containers, read).map(move |(base, pages)| ((base, [("stage", stage)]), pages))
        }),
    )?;
    let refaults: [(&str, Events); 2] = [
        ("anon", |s| s.memory.stat.workingset_refault_anon),
        ("file", |s| s.memory.stat.workingset_refault_file),
    ];
    f.counter(
        "tenantry_memory_refaults_total",
        "Pages that were needed again soon after the kernel had taken them back",
        refaults.into_iter().flat_map(|(kind, read)| {
            field(containers, read).map(move |(base, pages)| ((base, [("type", kind)]), pages))
        }),
    )
}

//! What the lifecycle engine knows of each container: life, limits, namespaces.

use std::fmt::Error;

use super::family::Families;
use super::{Base, base};
use crate::origin::Compose;
use crate::report::{ContainerReport, HostReport, IoLimitReport};

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let all = || report.containers.iter().map(|container| (base(container), container));
    // Of a removed one only what was counted is still known.
    let lasting = || all().filter(|(_, container)| !container.removed);
    let running = || all().filter(|(_, container)| container.running);

    f.gauge(
        "tenantry_container_info",
        "Always 1; who runs the container, its id there and its Compose project",
        all().map(|(base, container)| {
            let origin = &container.origin;
            let who =
                [("runtime", origin.runtime.as_str()), ("container_id", container.id.as_str())];
            let compose = origin.compose.as_ref().map(|Compose { project, service }| {
                [("compose_project", project.as_str()), ("compose_service", service.as_str())]
            });
            (((base, who), compose), 1_u64)
        }),
    )?;
    f.gauge(
        "container_last_seen",
        "Unix time at which a running container was last seen by the agent",
        running().map(|(base, _)| (base, report.time_unix_s)),
    )?;
    f.gauge(
        "container_start_time_seconds",
        "Unix time at which the container's present run began",
        running().filter_map(|(base, container)| Some((base, container.started_unix_s?))),
    )?;
    f.gauge(
        "container_processes",
        "Processes in the container",
        all().filter_map(|(base, container)| Some((base, container.processes?))),
    )?;
    f.counter(
        "container_oom_events_total",
        "Processes of the container that were killed for want of memory, over all its runs",
        all().map(|(base, container)| (base, container.oom_kills)),
    )?;
    f.gauge(
        "tenantry_container_running",
        "1 if the container's first process lives, 0 if it does not",
        lasting().map(|(base, container)| (base, u64::from(container.running))),
    )?;
    f.counter(
        "tenantry_container_restarts_total",
        "Starts of the container by its restart policy",
        lasting().filter_map(|(base, container)| Some((base, container.restarts?))),
    )?;
    f.gauge(
        "tenantry_namespace_info",
        "Always 1; the type and inode of each namespace of the container's first process",
        all().flat_map(|(base, container)| {
            container.namespaces.iter().map(move |(kind, inode)| {
                ((base, ([("type", kind.as_str())], [("inode", *inode)])), 1_u64)
            })
        }),
    )?;
    limits(f, &report.containers)
}

/// Limits in force; a container without one has no series.
fn limits(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    let all = || containers.iter().map(|container| (base(container), &container.limits));

    f.gauge(
        "tenantry_limit_cpus",
        "CPU limit; 1 is one whole CPU",
        all().filter_map(|(base, limits)| Some((base, limits.cpus?))),
    )?;
    f.gauge(
        "tenantry_limit_memory_bytes",
        "Memory limit",
        all().filter_map(|(base, limits)| Some((base, limits.memory_bytes?))),
    )?;
    f.gauge(
        "tenantry_limit_pids",
        "Limit of processes and threads",
        all().filter_map(|(base, limits)| Some((base, limits.pids?))),
    )?;
    f.gauge(
        "tenantry_limit_network_bytes_per_second",
        "Bandwidth limit: egress is what the container sends, ingress what it receives",
        all().flat_map(|(base, limits)| {
            [("egress", limits.egress_bits_per_s), ("ingress", limits.ingress_bits_per_s)]
                .into_iter()
                .filter_map(move |(direction, bits)| {
                    Some(((base, [("direction", direction)]), bits? as f64 / 8.0))
                })
        }),
    )?;
    f.gauge(
        "tenantry_limit_io_bytes_per_second",
        "Limit of bytes to and from a block device",
        all().flat_map(|(base, limits)| {
            io(base, &limits.io, |limit| [limit.read_bytes_per_s, limit.write_bytes_per_s])
        }),
    )?;
    f.gauge(
        "tenantry_limit_io_operations_per_second",
        "Limit of operations on a block device",
        all().flat_map(|(base, limits)| {
            io(base, &limits.io, |limit| [limit.read_ops_per_s, limit.write_ops_per_s])
        }),
    )
}

type IoLabels<'a> = (Base<'a>, [(&'static str, &'a str); 2]);

/// One series for each device and direction that has a limit.
fn io<'a>(
    base: Base<'a>,
    limits: &'a [IoLimitReport],
    read_and_write: impl Fn(&IoLimitReport) -> [Option<u64>; 2],
) -> impl Iterator<Item = (IoLabels<'a>, u64)> {
    limits.iter().flat_map(move |limit| {
        let [read, write] = read_and_write(limit);
        [("read", read), ("write", write)].into_iter().filter_map(move |(op, value)| {
            Some(((base, [("device", limit.device.as_str()), ("op", op)]), value?))
        })
    })
}

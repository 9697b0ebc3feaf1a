//! What a container's cgroup files say: CPU, pids, pressure, and limits in
//! cAdvisor's words (`container_spec_*`, where 0 is no limit).

use std::fmt::Error;

use tenantry_cgroupfs::Max;
use tenantry_cgroupfs::sample::{Sample, Stall, StallTime};

use super::family::Families;
use super::{Base, base};
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[&ContainerReport]) -> Result<(), Error> {
    cpu(f, containers)?;
    pids(f, containers)?;
    pressure(f, containers)
}

/// The value of one field in each container whose cgroup has it.
pub(super) fn field<'a, V>(
    containers: &'a [&ContainerReport],
    read: impl Fn(&Sample) -> Option<V>,
) -> impl Iterator<Item = (Base<'a>, V)> {
    containers
        .iter()
        .filter_map(move |container| Some((base(container), read(container.sample.as_ref()?)?)))
}

fn seconds(usec: u64) -> f64 {
    usec as f64 / 1e6
}

/// cAdvisor's way to write a limit.
pub(super) fn zero_if_unlimited(limit: Max) -> u64 {
    limit.value().unwrap_or(0)
}

fn cpu(f: &mut Families, containers: &[&ContainerReport]) -> Result<(), Error> {
    f.counter(
        "container_cpu_usage_seconds_total",
        "CPU time used, of all CPUs together",
        field(containers, |s| s.cpu.usage_usec)
            .map(|(base, usec)| ((base, [("cpu", "total")]), seconds(usec))),
    )?;
    f.counter(
        "container_cpu_user_seconds_total",
        "CPU time used in user mode",
        field(containers, |s| s.cpu.user_usec.map(seconds)),
    )?;
    f.counter(
        "container_cpu_system_seconds_total",
        "CPU time used in the kernel",
        field(containers, |s| s.cpu.system_usec.map(seconds)),
    )?;
    f.counter(
        "container_cpu_cfs_periods_total",
        "Periods of the CPU quota in which the container wanted to run",
        field(containers, |s| s.cpu.nr_periods),
    )?;
    f.counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which the CPU quota ran out",
        field(containers, |s| s.cpu.nr_throttled),
    )?;
    f.counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time for which the CPU quota stopped the container, summed over CPUs",
        field(containers, |s| s.cpu.throttled_usec.map(seconds)),
    )?;

    f.gauge(
        "container_spec_cpu_shares",
        "Weight of the container where CPUs are short, 1024 by default",
        field(containers, |s| s.cpu.shares),
    )?;
    let limited = || {
        containers.iter().filter_map(|container| Some((base(container), container.limits.cpus?)))
    };
    f.gauge(
        "container_spec_cpu_period",
        "Period of the CPU quota in microseconds; a quota of another period is scaled to this one",
        limited().map(|(base, _)| (base, CPU_PERIOD_USEC)),
    )?;
    f.gauge(
        "container_spec_cpu_quota",
        "CPU quota in microseconds per container_spec_cpu_period",
        limited().map(|(base, cpus)| (base, (cpus * CPU_PERIOD_USEC as f64).round())),
    )
}

/// The kernel's default.
const CPU_PERIOD_USEC: u64 = 100_000;

fn pids(f: &mut Families, containers: &[&ContainerReport]) -> Result<(), Error> {
    f.gauge(
        "container_threads",
        "Threads in the container",
        field(containers, |s| s.pids.current),
    )?;
    f.gauge(
        "container_threads_max",
        "Limit of threads, 0 if there is none",
        field(containers, |s| s.pids.max.map(zero_if_unlimited)),
    )?;
    f.counter(
        "tenantry_forks_refused_total",
        "Processes and threads that were not made because of the limit",
        field(containers, |s| s.pids.refused),
    )
}

fn pressure(f: &mut Families, containers: &[&ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&Sample) -> Option<StallTime>);
    fn some(stall: &Option<Stall>) -> Option<StallTime> {
        stall.as_ref().map(|stall| stall.some)
    }
    fn full(stall: &Option<Stall>) -> Option<StallTime> {
        stall.as_ref().and_then(|stall| stall.full)
    }
    let rows: [Row; 6] = [
        (
            "container_pressure_cpu_waiting_seconds_total",
            "Time in which at least one task waited for a CPU",
            |s| some(&s.pressure.cpu),
        ),
        (
            "container_pressure_cpu_stalled_seconds_total",
            "Time in which all tasks waited for a CPU",
            |s| full(&s.pressure.cpu),
        ),
        (
            "container_pressure_memory_waiting_seconds_total",
            "Time in which at least one task waited for memory",
            |s| some(&s.pressure.memory),
        ),
        (
            "container_pressure_memory_stalled_seconds_total",
            "Time in which all tasks waited for memory",
            |s| full(&s.pressure.memory),
        ),
        (
            "container_pressure_io_waiting_seconds_total",
            "Time in which at least one task waited for I/O",
            |s| some(&s.pressure.io),
        ),
        (
            "container_pressure_io_stalled_seconds_total",
            "Time in which all tasks waited for I/O",
            |s| full(&s.pressure.io),
        ),
    ];
    for (name, help, read) in rows {
        let total = |s: &Sample| read(s).map(|stall| seconds(stall.total_usec));
        f.counter(name, help, field(containers, total))?;
    }
    Ok(())
}

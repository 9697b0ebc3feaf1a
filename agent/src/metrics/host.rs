//! The host as a whole, beside what its containers say of themselves.

use std::fmt::Error;

use tenantry_cgroupfs::sample::{Stall, StallTime};

use super::family::Families;
use crate::host::HostSample;

pub(super) fn encode(f: &mut Families, host: &HostSample) -> Result<(), Error> {
    if let Some(stolen) = host.steal_seconds {
        f.counter_of_host(
            "tenantry_host_steal_seconds_total",
            "Time that the hypervisor took from the host's CPUs; whose it was cannot be told",
            stolen,
        )?;
    }
    let pressure = &host.pressure;
    let some = |stall: &Option<Stall>| stall.as_ref().map(|stall| stall.some);
    let full = |stall: &Option<Stall>| stall.as_ref().and_then(|stall| stall.full);
    // Of all tasks together the CPU's `full` is always 0: when all wait, none of them runs.
    let rows: [(&str, &str, Option<StallTime>); 5] = [
        (
            "tenantry_host_pressure_cpu_waiting_seconds_total",
            "Time in which at least one task of the host waited for a CPU",
            some(&pressure.cpu),
        ),
        (
            "tenantry_host_pressure_memory_waiting_seconds_total",
            "Time in which at least one task of the host waited for memory",
            some(&pressure.memory),
        ),
        (
            "tenantry_host_pressure_memory_stalled_seconds_total",
            "Time in which all tasks of the host waited for memory",
            full(&pressure.memory),
        ),
        (
            "tenantry_host_pressure_io_waiting_seconds_total",
            "Time in which at least one task of the host waited for I/O",
            some(&pressure.io),
        ),
        (
            "tenantry_host_pressure_io_stalled_seconds_total",
            "Time in which all tasks of the host waited for I/O",
            full(&pressure.io),
        ),
    ];
    for (name, help, time) in rows {
        if let Some(time) = time {
            f.counter_of_host(name, help, time.total_usec as f64 / 1e6)?;
        }
    }
    Ok(())
}

//! What the scheduler did with each container's threads, as the kernel programs counted it.

use std::fmt::Error;

use super::buckets::{Buckets, RUN_QUEUE};
use super::family::Families;
use super::kernel::counted;
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.histogram(
        "tenantry_run_queue_seconds",
        "Time between becoming runnable and running, all waits counted",
        counted(containers).filter_map(|(base, _, counters)| {
            Some((base, Buckets::cut(&counters.run_queue, RUN_QUEUE)?))
        }),
    )?;
    // Threads that were never switched are those of a container that never ran.
    let switched = || {
        counted(containers).filter_map(|(base, _, counters)| {
            let scheduler = counters.scheduler;
            let switches = scheduler.voluntary_switches + scheduler.involuntary_switches;
            (switches > 0).then_some((base, scheduler))
        })
    };
    f.counter(
        "tenantry_scheduler_on_cpu_seconds_total",
        "Time that threads were on a CPU, counted when they leave it; stolen time is in it",
        switched().map(|(base, scheduler)| (base, seconds(scheduler.on_cpu_ns))),
    )?;
    f.counter(
        "tenantry_scheduler_off_cpu_seconds_total",
        "Time that threads were off the CPU, by what they left it for, counted when it is over; \
         preempted and woken are waits for a CPU",
        switched().flat_map(|(base, scheduler)| {
            let states = scheduler.off_cpu.by_state().into_iter().filter(|(_, ns)| *ns > 0);
            states.map(move |(state, ns)| ((base, [("state", state)]), seconds(ns)))
        }),
    )?;
    f.counter(
        "tenantry_scheduler_switches_total",
        "Times that threads left a CPU: voluntary to wait, involuntary because they had to",
        switched().flat_map(|(base, scheduler)| {
            let involuntary = scheduler.involuntary_switches;
            [("voluntary", scheduler.voluntary_switches), ("involuntary", involuntary)]
                .map(|(kind, switches)| ((base, [("kind", kind)]), switches))
        }),
    )?;
    f.counter(
        "tenantry_scheduler_migrations_total",
        "Moves of threads to another CPU",
        switched().map(|(base, scheduler)| (base, scheduler.migrations)),
    )
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

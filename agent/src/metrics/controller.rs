//! What the controller saw and did, and what that cost; who changed which limits.

use std::fmt::Error;

use tenantry_control::Mode;

use super::family::Families;
use crate::controller::ScrapeFailure;
use crate::report::HostReport;

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let limits = &report.agent.limit_changes;
    f.counter(
        "tenantry_limit_changes_total",
        "Limits that were changed, by who changed them and how",
        limits.changes.iter().map(|((party, kind), count)| {
            ([("party", party.as_str()), ("change", kind.as_str())], *count)
        }),
    )?;
    f.counter_of_host(
        "tenantry_limit_changes_forgotten_total",
        "Changes of limits that the history had no more room for",
        limits.forgotten,
    )?;
    let Some(controller) = &report.agent.controller else { return Ok(()) };
    let modes = [Mode::Advise, Mode::DryRun, Mode::Enforce];
    f.gauge(
        "tenantry_controller_mode",
        "1 for the mode that the policy says, 0 for the others",
        modes.map(|mode| ([("mode", mode.as_str())], u64::from(mode == controller.mode))),
    )?;
    f.counter_of_host(
        "tenantry_controller_looks_total",
        "Looks at every container",
        controller.looks,
    )?;
    f.counter_of_host(
        "tenantry_controller_seconds_total",
        "Time that looks, decisions and writes took",
        controller.seconds,
    )?;
    f.counter(
        "tenantry_controller_decisions_total",
        "Decisions by what they were, of which resource, and in which mode; only those of mode enforce were executed",
        controller.decisions.iter().map(|((kind, resource, mode), count)| {
            let labels =
                [("kind", *kind), ("resource", resource.as_str()), ("mode", *mode)];
            (labels, *count)
        }),
    )?;
    f.gauge(
        "tenantry_controller_leases",
        "Limits that are in force because of the controller",
        controller
            .leases
            .iter()
            .map(|(resource, leases)| ([("resource", resource.as_str())], *leases)),
    )?;
    f.gauge_of_host(
        "tenantry_controller_victims",
        "Containers that miss an objective, or lately did",
        controller.victims,
    )?;
    f.counter_of_host(
        "tenantry_controller_failures_total",
        "Throttles that the kernel or the runtime refused",
        controller.failures,
    )?;
    f.counter_of_host(
        "tenantry_controller_scrapes_total",
        "Pages of containers that held the latency that the policy goes by",
        controller.scrapes,
    )?;
    f.counter(
        "tenantry_controller_scrape_failures_total",
        "Latencies that the policy goes by and that could not be had, by why",
        ScrapeFailure::ALL.map(|why| {
            let count = controller.scrape_failures.get(&why).copied().unwrap_or(0);
            ([("reason", why.as_str())], count)
        }),
    )?;
    f.counter_of_host(
        "tenantry_controller_log_lost_total",
        "Looks that could not be written to the decision log",
        controller.journal_lost,
    )
}

//! The machine, and what the agent says of itself: its cost, its probes, its losses.

use std::fmt::Error;

use tenantry_ebpf::ProbeStatus;

use super::family::Families;
use crate::report::HostReport;

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let agent = &report.agent;

    f.gauge_of_host(
        "machine_cpu_cores",
        "CPUs of the machine",
        u64::from(report.machine.cpu_cores),
    )?;
    f.gauge_of_host("machine_memory_bytes", "Memory of the machine", report.machine.memory_bytes)?;

    f.gauge(
        "tenantry_build_info",
        "Always 1; the agent's version",
        [([("version", agent.version.as_str())], 1_u64)],
    )?;
    probes(f, report)?;
    f.gauge(
        "tenantry_kernel_memory_bytes",
        "Kernel memory that the probes hold, by what holds it: all of it from the start",
        agent.kernel_memory.iter().map(|(kind, bytes)| ([("kind", *kind)], *bytes)),
    )?;
    governor(f, report)?;
    f.gauge(
        "tenantry_slots",
        "Places for containers in the kernel's tables, by state",
        [
            ([("state", "free")], agent.slots_max.saturating_sub(agent.slots_used)),
            ([("state", "used")], agent.slots_used),
        ],
    )?;
    if let Some(refused) = agent.foreign_refused {
        f.counter_of_host(
            "tenantry_foreign_refused_total",
            "Containers of other runtimes that found no slot (foreign.max) and are not metered",
            refused,
        )?;
    }
    if let Some(left_out) = agent.wholes_left_out {
        f.gauge_of_host(
            "tenantry_slices_left_out",
            "Slices and pods that this scrape does not show as a whole (foreign.max_slices)",
            left_out,
        )?;
    }
    f.counter(
        "tenantry_table_full_total",
        "Entries that found no room in a kernel table and were not counted, by table",
        agent.table_full.iter().map(|(table, entries)| ([("table", *table)], *entries)),
    )?;
    if let Some(unseen) = agent.unseen_completions {
        f.counter_of_host(
            "tenantry_disk_unseen_completions_total",
            "Disk operations whose end the kernel did not show: counted later, without duration",
            unseen,
        )?;
    }
    if let Some(unseen) = agent.unseen_packets {
        f.counter_of_host(
            "tenantry_network_unseen_packets_total",
            "Pieces of containers' packets that a queue cut, or forgot: their wait is reckoned from others'",
            unseen,
        )?;
    }
    f.counter_of_host(
        "tenantry_audit_records_written_total",
        "Events that reached the audit file",
        agent.audit_written,
    )?;
    f.counter_of_host(
        "tenantry_audit_records_lost_total",
        "Events that the agent received and could not write to the audit file",
        agent.audit_lost,
    )?;
    f.counter_of_host(
        "tenantry_audit_full_batches_total",
        "Times that more events waited than are handled at once; none is lost by that",
        agent.audit_full_batches,
    )?;
    f.counter_of_host(
        "tenantry_audit_unhashed_execs_total",
        "Execs whose file was gone, changed or too large when its hash was asked for",
        agent.audit_unhashed,
    )?;
    f.counter_of_host(
        "tenantry_stream_events_lost_total",
        "Events that listeners of the event stream were too slow for",
        agent.stream_lost,
    )?;
    if let Some(otlp) = &agent.otlp {
        let outcomes =
            [("exported", otlp.exported), ("refused", otlp.refused), ("lost", otlp.lost)];
        f.counter(
            "tenantry_otlp_records_total",
            "Log records by what became of them: lost are those that the files had no longer",
            outcomes.map(|(outcome, records)| ([("outcome", outcome)], records)),
        )?;
        f.counter_of_host(
            "tenantry_otlp_retries_total",
            "Requests with log records that were tried again",
            otlp.retries,
        )?;
        f.gauge_of_host(
            "tenantry_otlp_behind_lines",
            "Lines of the audit file that the collector has not taken yet",
            otlp.behind,
        )?;
    }
    f.gauge(
        "tenantry_agent_collect_seconds",
        "Time that each stage of this scrape's collection took",
        agent.collect_seconds.iter().map(|(stage, seconds)| ([("stage", *stage)], *seconds)),
    )?;
    f.counter(
        "tenantry_agent_collect_errors_total",
        "Times that a stage of a collection had to leave something out",
        agent.collect_errors.iter().map(|(stage, errors)| ([("stage", *stage)], *errors)),
    )?;
    f.counter(
        "tenantry_name_server_queries_total",
        "Questions of containers to the agent's name servers, by what came of them",
        agent.name_queries.iter().map(|(outcome, count)| ([("outcome", *outcome)], *count)),
    )?;

    f.gauge_of_host(
        "process_resident_memory_bytes",
        "Resident memory of the agent",
        agent.rss_bytes,
    )?;
    f.counter_of_host(
        "process_cpu_seconds_total",
        "User and system CPU time of the agent",
        agent.cpu_seconds,
    )?;
    f.gauge_of_host("process_open_fds", "Open files of the agent", agent.open_fds)?;
    f.gauge_of_host("process_max_fds", "Files the agent may open", agent.max_fds)?;
    f.gauge_of_host(
        "process_start_time_seconds",
        "Unix time at which the agent started",
        agent.started_unix_s,
    )
}

fn governor(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let Some(governor) = &report.agent.governor else { return Ok(()) };
    f.gauge_of_host(
        "tenantry_governor_budget_ratio",
        "Share of all CPUs that probes and agent may take before detail is shed",
        governor.budget_ratio,
    )?;
    if let Some(overhead) = governor.overhead_ratio {
        f.gauge_of_host(
            "tenantry_governor_overhead_ratio",
            "Share of all CPUs that probes and agent took when it was last measured",
            overhead,
        )?;
    }
    f.gauge(
        "tenantry_governor_shed",
        "1 while the governor keeps this probe off to stay within the budget, else 0",
        governor.shed.iter().map(|(probe, shed)| ([("detail", probe.as_str())], u64::from(*shed))),
    )
}

fn probes(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    f.gauge(
        "tenantry_probe_status",
        "1 for the status that the probe has, 0 for the others; `tenantry probes` says why",
        report.probes.iter().flat_map(|probe| {
            let now = match probe.status {
                ProbeStatus::Active => "active",
                ProbeStatus::Disabled => "disabled",
                ProbeStatus::Unsupported(_) => "unsupported",
                ProbeStatus::Failed(_) => "failed",
            };
            ["active", "disabled", "failed", "unsupported"].into_iter().map(move |status| {
                let labels = [("probe", probe.name.as_str()), ("status", status)];
                (labels, u64::from(status == now))
            })
        }),
    )?;
    f.counter(
        "tenantry_probe_runs_total",
        "Runs of the probe, while the kernel's BPF statistics are on",
        report
            .probes
            .iter()
            .filter_map(|probe| Some(([("probe", probe.name.as_str())], probe.runs?))),
    )?;
    f.counter(
        "tenantry_probe_run_seconds_total",
        "Time spent in the probe, while the kernel's BPF statistics are on",
        report
            .probes
            .iter()
            .filter_map(|p| Some(([("probe", p.name.as_str())], p.run_ns? as f64 / 1e9))),
    )?;
    f.counter(
        "tenantry_probe_misses_total",
        "Events not counted, since the probe was running on that CPU already",
        report
            .probes
            .iter()
            .filter_map(|probe| Some(([("probe", probe.name.as_str())], probe.misses?))),
    )
}

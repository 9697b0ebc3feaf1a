//! What the kernel programs counted for each container: network at IP level,
//! events; and the container's network interface.

use std::fmt::Error;

use tenantry_ebpf::{EventCounters, EventKind, NetworkCounters, SlotCounters};

use super::family::Families;
use super::{Base, base};
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    network(f, containers)?;
    link(f, containers)?;
    events(f, containers)
}

pub(super) fn counted(
    containers: &[ContainerReport],
) -> impl Iterator<Item = (Base<'_>, &ContainerReport, &SlotCounters)> {
    containers
        .iter()
        .filter_map(|container| Some((base(container), container, container.counters.as_ref()?)))
}

fn network(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    let mut both = |name, help, value| {
        by_interface(f, containers, name, help, |all| [&all.external, &all.loopback], value)
    };
    both(
        "tenantry_network_receive_bytes_total",
        "Bytes received, IP headers included, as they reach the container's sockets",
        |n| n.rx_bytes,
    )?;
    both(
        "tenantry_network_receive_packets_total",
        "Packets received, as they reach the container's sockets",
        |n| n.rx_packets,
    )?;
    both(
        "tenantry_network_transmit_bytes_total",
        "Bytes sent, IP headers included, as they leave the container's sockets",
        |n| n.tx_bytes,
    )?;
    both(
        "tenantry_network_transmit_packets_total",
        "Packets sent, as they leave the container's sockets",
        |n| n.tx_packets,
    )
}

/// A counter of what came and went by a link, and of the same by loopback.
pub(super) fn by_interface(
    f: &mut Families,
    containers: &[ContainerReport],
    name: &str,
    help: &str,
    external_and_loopback: fn(&SlotCounters) -> [&NetworkCounters; 2],
    value: fn(&NetworkCounters) -> u64,
) -> Result<(), Error> {
    f.counter(
        name,
        help,
        counted(containers).flat_map(|(base, _, counters)| {
            ["external", "lo"]
                .into_iter()
                .zip(external_and_loopback(counters))
                .map(move |(interface, n)| ((base, [("interface", interface)]), value(n)))
        }),
    )
}

/// cAdvisor's `container_network_*`, from the container's own end of its links.
fn link(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    use tenantry_network::LinkCounters;
    type Row = (&'static str, &'static str, fn(&LinkCounters) -> u64);
    let rows: [Row; 8] = [
        ("container_network_receive_bytes_total", "Bytes received", |l| l.rx_bytes),
        ("container_network_receive_errors_total", "Errors while receiving", |l| l.rx_errors),
        ("container_network_receive_packets_total", "Packets received", |l| l.rx_packets),
        (
            "container_network_receive_packets_dropped_total",
            "Packets dropped while receiving",
            |l| l.rx_dropped,
        ),
        ("container_network_transmit_bytes_total", "Bytes transmitted", |l| l.tx_bytes),
        ("container_network_transmit_errors_total", "Errors while transmitting", |l| l.tx_errors),
        ("container_network_transmit_packets_total", "Packets transmitted", |l| l.tx_packets),
        (
            "container_network_transmit_packets_dropped_total",
            "Packets dropped while transmitting",
            |l| l.tx_dropped,
        ),
    ];
    for (name, help, value) in rows {
        f.counter(
            name,
            help,
            containers.iter().flat_map(|container| {
                container.links.iter().map(move |(interface, link)| {
                    ((base(container), [("interface", interface.as_str())]), value(link))
                })
            }),
        )?;
    }
    Ok(())
}

/// Kinds that have their series also while there are no such events.
const ALWAYS_TOLD: [EventKind; 3] = [EventKind::Exec, EventKind::Exit, EventKind::Oom];

fn events(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&ContainerReport, EventCounters, EventKind) -> u64);
    let rows: [Row; 4] = [
        (
            "tenantry_events_produced_total",
            "Events that the kernel had to tell: delivered plus lost, plus what is under way",
            |_, counted, _| counted.produced,
        ),
        (
            "tenantry_events_delivered_total",
            "Events that the agent received",
            |container, _, kind| container.delivered.of(kind),
        ),
        (
            "tenantry_events_lost_total",
            "Events for which the ring buffer had no room",
            |_, counted, _| counted.lost,
        ),
        (
            "tenantry_events_filtered_total",
            "Events that the audit's filter left out in the kernel: neither produced nor lost",
            |_, counted, _| counted.filtered,
        ),
    ];
    for (name, help, value) in rows {
        f.counter(
            name,
            help,
            counted(containers).flat_map(|(base, container, counters)| {
                let told = EventKind::ALL.into_iter().filter_map(|kind| {
                    let counted = counters.events.of(kind);
                    // Most containers never do most of it, and each series has its price.
                    let is_told = ALWAYS_TOLD.contains(&kind) || counted != Default::default();
                    is_told.then(|| (kind, value(container, counted, kind)))
                });
                told.map(move |(kind, events)| ((base, [("kind", kind.name())]), events))
            }),
        )?;
    }
    f.counter(
        "tenantry_exec_attempts_total",
        "Programs that the container tried to start; only where the kernel allows the probe",
        counted(containers).filter_map(|(base, _, counters)| Some((base, counters.exec_attempts?))),
    )
}

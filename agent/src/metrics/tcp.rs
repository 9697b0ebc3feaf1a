//! TCP connections of each container: how they began, how they ended, how long a round
//! trip takes.

use std::fmt::Error;

use tenantry_ebpf::{TcpCounters, TcpError};

use super::buckets::{Buckets, CONNECTION, ROUND_TRIP};
use super::family::Families;
use super::{Base, base};
use crate::report::ContainerReport;

/// The failures that someone may wait for: these begin with 0, others when they occur.
const EXPECTED: [TcpError; 4] =
    [TcpError::Refused, TcpError::TimedOut, TcpError::HostUnreachable, TcpError::Reset];

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    f.counter(
        "tenantry_tcp_connects_begun_total",
        "TCP connections that the container began, whatever became of them",
        counted(containers).map(|(base, tcp)| (base, tcp.connects_begun)),
    )?;
    f.counter(
        "tenantry_tcp_connects_total",
        "TCP connections that the container began and that are established or failed",
        counted(containers).flat_map(|(base, tcp)| {
            [("established", tcp.connects_established), ("failed", tcp.connects_failed)]
                .map(|(result, count)| ((base, [("result", result)]), count))
        }),
    )?;
    f.counter(
        "tenantry_tcp_accepts_total",
        "TCP connections established with a listener of the container",
        counted(containers).map(|(base, tcp)| (base, tcp.accepts)),
    )?;
    f.counter(
        "tenantry_tcp_failures_total",
        "TCP connections and attempts that ended with an error; none is an attempt given up",
        counted(containers).flat_map(|(base, tcp)| {
            failures(tcp).map(move |(error, count)| ((base, [("errno", error.name())]), count))
        }),
    )?;
    f.counter(
        "tenantry_tcp_resets_total",
        "TCP resets that the container's sockets sent and received",
        counted(containers).flat_map(|(base, tcp)| {
            [("received", tcp.resets_received), ("sent", tcp.resets_sent)]
                .map(|(direction, count)| ((base, [("direction", direction)]), count))
        }),
    )?;
    f.counter(
        "tenantry_tcp_retransmits_total",
        "TCP segments that the container's sockets sent again",
        counted(containers).map(|(base, tcp)| (base, tcp.retransmits)),
    )?;
    f.counter(
        "tenantry_tcp_listen_overflows_total",
        "TCP segments dropped because the queue of one of the container's listeners was full",
        counted(containers).map(|(base, tcp)| (base, tcp.listen_overflows)),
    )?;
    f.gauge(
        "tenantry_tcp_connections",
        "TCP connections of the container between their handshake and their end",
        counted(containers).map(|(base, tcp)| (base, tcp.open())),
    )?;
    f.histogram(
        "tenantry_tcp_connection_duration_seconds",
        "Time from the handshake of a TCP connection to its end, all connections counted",
        counted(containers)
            .filter_map(|(base, tcp)| Some((base, Buckets::cut(&tcp.duration, CONNECTION)?))),
    )?;
    f.histogram(
        "tenantry_tcp_rtt_seconds",
        "Smoothed round-trip time, seen once in each round trip and at the connection's end",
        counted(containers).flat_map(|(base, tcp)| {
            [("external", &tcp.rtt_external), ("lo", &tcp.rtt_loopback)].into_iter().filter_map(
                move |(interface, rtt)| {
                    Some(((base, [("interface", interface)]), Buckets::cut(rtt, ROUND_TRIP)?))
                },
            )
        }),
    )
}

fn counted(containers: &[ContainerReport]) -> impl Iterator<Item = (Base<'_>, &TcpCounters)> {
    containers
        .iter()
        .filter_map(|container| Some((base(container), container.counters.as_ref()?.tcp.as_ref()?)))
}

fn failures(tcp: &TcpCounters) -> impl Iterator<Item = (TcpError, u64)> {
    let expected = EXPECTED.into_iter().map(|error| (error, tcp.failures_of(error)));
    let others = tcp.failures.iter().copied().filter(|(error, _)| !EXPECTED.contains(error));
    expected.chain(others)
}

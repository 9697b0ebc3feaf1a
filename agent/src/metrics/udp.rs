//! What of each container's traffic was UDP, and what its sockets had no room for.

use std::fmt::Error;

use tenantry_ebpf::{NetworkCounters, UdpDrops};

use super::family::Families;
use super::kernel::{by_interface, counted};
use crate::report::ContainerReport;

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&NetworkCounters) -> u64);
    let rows: [Row; 4] = [
        (
            "tenantry_udp_receive_bytes_total",
            "Bytes of the UDP datagrams received, IP headers included",
            |n| n.rx_bytes,
        ),
        (
            "tenantry_udp_receive_datagrams_total",
            "UDP datagrams that reached the container's sockets, dropped ones included",
            |n| n.rx_packets,
        ),
        (
            "tenantry_udp_transmit_bytes_total",
            "Bytes of the UDP datagrams sent, IP headers included",
            |n| n.tx_bytes,
        ),
        (
            "tenantry_udp_transmit_datagrams_total",
            "UDP datagrams that left the container's sockets",
            |n| n.tx_packets,
        ),
    ];
    for (name, help, value) in rows {
        by_interface(
            f,
            containers,
            name,
            help,
            |all| [&all.udp.external, &all.udp.loopback],
            value,
        )?;
    }
    f.counter(
        "tenantry_udp_receive_drops_total",
        "UDP datagrams that the container's sockets had no room for: their own buffer was full, \
         or all UDP sockets of the host had their share of memory; IPv4 alone before Linux 6.5",
        counted(containers).filter_map(|(base, _, all)| Some((base, all.udp.drops?))).flat_map(
            |(base, UdpDrops { buffer, memory })| {
                [("buffer", buffer), ("memory", memory)]
                    .map(|(reason, count)| ((base, [("reason", reason)]), count))
            },
        ),
    )
}

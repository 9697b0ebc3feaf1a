//! Whom each container talks to over TCP: a few destinations by name, the rest as `other`.

use std::fmt::Error;

use tenantry_ebpf::{DestinationCounters, Direction};

use super::family::Families;
use super::{Base, base};
use crate::report::ContainerReport;

type Labels<'a> = (Base<'a>, [(&'static str, String); 3]);

pub(super) fn encode(f: &mut Families, containers: &[ContainerReport]) -> Result<(), Error> {
    type Row = (&'static str, &'static str, fn(&DestinationCounters) -> u64);
    let rows: [Row; 4] = [
        (
            "tenantry_tcp_destination_connections_total",
            "TCP connections by who is at the other end: an address and its port, or a network \
             of clients and the own port; what one had before its series began is in other",
            |n| n.connections,
        ),
        (
            "tenantry_tcp_destination_failures_total",
            "TCP connections and attempts that failed, by who is at the other end",
            |n| n.failures,
        ),
        (
            "tenantry_tcp_destination_transmit_bytes_total",
            "Payload sent over TCP, each byte once; of an open connection, added in each round \
             trip",
            |n| n.sent_bytes,
        ),
        (
            "tenantry_tcp_destination_receive_bytes_total",
            "Payload received over TCP; of an open connection, added every 64 KiB",
            |n| n.received_bytes,
        ),
    ];
    for (name, help, value) in rows {
        f.counter(name, help, all(containers).map(|(labels, n)| (labels, value(&n))))?;
    }
    Ok(())
}

fn all(containers: &[ContainerReport]) -> impl Iterator<Item = (Labels<'_>, DestinationCounters)> {
    let shown = containers.iter().filter_map(|one| Some((base(one), one.destinations.as_ref()?)));
    shown.flat_map(|(base, shown)| {
        let seats = shown.seats.iter().map(|seat| {
            let (one, port) = (seat.destination, seat.destination.port.to_string());
            (one.address_text(), port, one.direction, seat.counters)
        });
        let others =
            Direction::ALL.into_iter().zip(shown.other).filter_map(|(direction, other)| {
                Some(("other".to_owned(), "other".to_owned(), direction, other?))
            });
        seats.chain(others).map(move |(destination, port, direction, counters)| {
            let direction = direction.name().to_owned();
            let labels = [("destination", destination), ("port", port), ("direction", direction)];
            ((base, labels), counters)
        })
    })
}

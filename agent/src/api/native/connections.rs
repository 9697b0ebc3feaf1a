//! Whom a container talks to over TCP: all of it, where the metrics show a few.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use tenantry_ebpf::{Destination as Name, DestinationCounters, Direction};
use utoipa::ToSchema;

use super::Shared;
use crate::api::error::{ApiError, ApiResult};

/// Since the container was created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    pub id: String,
    pub name: String,
    /// Between their handshake and their end.
    pub open: u64,
    /// Most bytes first.
    pub destinations: Vec<Destination>,
}

/// Exact when a connection has closed; of an open one bytes are added once in each round
/// trip and, where it only receives, every 64 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Destination {
    /// outgoing or incoming: who began.
    pub direction: String,
    /// The remote address; of incoming connections the clients' network, /24 or /64; `other`
    /// for those that found no room in the kernel's table.
    pub address: String,
    /// The remote port; of incoming connections the container's own. 0 with `other`.
    pub port: u16,
    /// Established ones.
    pub connections: u64,
    /// Connections and attempts that ended with an error, and attempts given up.
    pub failures: u64,
    /// Payload, each byte once however often it was sent.
    pub sent_bytes: u64,
    /// Payload.
    pub received_bytes: u64,
}

/// Whom a container talks to over TCP.
#[utoipa::path(
    get,
    path = "/v1/containers/{id}/connections",
    params(("id" = String, Path, description = "name, id or its beginning")),
    responses((status = 200, body = Connections), (status = 404, body = ApiError))
)]
pub async fn connections(
    State(app): State<Shared>,
    Path(id): Path<String>,
) -> ApiResult<Json<Connections>> {
    let (id, name, slot) = app.metered(&id)?;
    let mut answer = Connections { id, name, ..Connections::default() };
    let failed = |error: tenantry_ebpf::MapError| {
        ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    if let Some(slot) = slot {
        let named =
            app.meters.read_destinations().map_err(failed)?.remove(&slot).unwrap_or_default();
        let tcp = app.meters.read(slot).map_err(failed)?.tcp.unwrap_or_default();
        answer.open = tcp.open();
        answer.destinations = rows(named, tcp.other);
    }
    Ok(Json(answer))
}

fn rows(
    mut named: Vec<(Name, DestinationCounters)>,
    other: [DestinationCounters; 2],
) -> Vec<Destination> {
    named.sort_by(|(a, of_a), (b, of_b)| of_b.bytes().cmp(&of_a.bytes()).then(a.cmp(b)));
    let named = named.iter().map(|(one, n)| row(one.direction, one.address_text(), one.port, *n));
    let others = Direction::ALL.into_iter().zip(other);
    let others = others.filter(|(_, n)| *n != DestinationCounters::default());
    named.chain(others.map(|(direction, n)| row(direction, "other".into(), 0, n))).collect()
}

fn row(direction: Direction, address: String, port: u16, n: DestinationCounters) -> Destination {
    Destination {
        direction: direction.name().into(),
        address,
        port,
        connections: n.connections,
        failures: n.failures,
        sent_bytes: n.sent_bytes,
        received_bytes: n.received_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_comes_first_and_other_last() {
        let name = |number: u8| Name {
            direction: Direction::Outgoing,
            address: [10, 0, 0, number].into(),
            port: 80,
        };
        let bytes = |sent_bytes| DestinationCounters { sent_bytes, ..Default::default() };
        let rows = rows(vec![(name(1), bytes(5)), (name(2), bytes(7))], [bytes(9), bytes(0)]);
        let addresses: Vec<&str> = rows.iter().map(|row| row.address.as_str()).collect();
        assert_eq!(addresses, ["10.0.0.2", "10.0.0.1", "other"]);
    }
}

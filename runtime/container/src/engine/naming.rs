//! What a container is called, and whom it asks for names.
//!
//! Owns the order (others find it before its program can ask for them) and its
//! `resolv.conf`. The directory and the name server are the network's.

use std::{fs, sync::Arc};

use tenantry_network::{Endpoint, Networks};

use super::{Shared, cell::Cell, launch};
use crate::{error::Error, record::Record};

/// Others find it by its names on these networks. Said again after a renaming, they find it
/// by the new one.
pub(super) fn introduce<'a>(
    shared: &Shared,
    record: &Record,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) {
    for endpoint in endpoints {
        let network = &endpoint.network_name;
        let wishes = record.config.wishes();
        let wish = wishes.into_iter().find(|wish| wish.network == *network).unwrap_or_default();
        let names = names_on(record, wish.aliases);
        shared.networks.introduce(&record.id, endpoint, names, wish.links);
    }
}

/// As [`introduce`]; and it finds others, if it is to.
pub(super) async fn name(
    shared: &Shared,
    record: &Record,
    pid: u32,
    endpoints: &[Endpoint],
) -> Result<(), Error> {
    introduce(shared, record, endpoints);
    if !record.config.has_names() {
        return Ok(());
    }
    let servers = record.config.resolver.servers.clone();
    let served = shared.networks.serve_names(&record.id, pid, servers).await;
    served.map_err(|e| Error::failed("open the container's name server", e))
}

/// Its name server went with the agent that is gone. Called when all containers are introduced:
/// none must be told that there is no other.
pub(super) async fn serve_again(shared: &Arc<Shared>, cell: &Arc<Cell>) {
    let _op = cell.op.lock().await;
    let snapshot = cell.snapshot();
    let Some(live) = &snapshot.live else { return };
    // Not what the record says: it may be older than the last connection.
    let is_named = live.endpoints().any(Networks::has_names);
    if !is_named || snapshot.record.config.is_name_server() {
        return;
    }
    if let Err(error) = shared
        .networks
        .serve_names(&cell.id, live.pid as u32, snapshot.record.config.resolver.servers.clone())
        .await
    {
        tracing::error!(container_id = cell.id, %error, "it finds no names");
    }
}

/// Where the networks that it is on now make another of its `resolv.conf`. One that is not as
/// we wrote it is somebody else's.
pub(super) fn resolve_anew(cell: &Cell, before: &Record, after: &Record) {
    let (old, new) = (launch::resolv_conf(before), launch::resolv_conf(after));
    if old == new {
        return;
    }
    // In place: the container has this very file bound over its own.
    let path = &launch::files(&cell.dir)[2];
    let written = fs::read_to_string(path).and_then(|found| match found == old {
        true => fs::write(path, new),
        false => Err(std::io::Error::other("it was changed in the container, or on the host")),
    });
    if let Err(error) = written {
        tracing::warn!(container_id = cell.id, %error, "its name servers are the old ones");
    }
}

/// Its own name first: that is what an address is called.
fn names_on(record: &Record, aliases: Vec<String>) -> Vec<String> {
    let mut names = vec![record.name.clone(), record.id[..12].to_owned(), record.hostname.clone()];
    names.extend(aliases);
    names
}

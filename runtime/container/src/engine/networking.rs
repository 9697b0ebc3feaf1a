//! Connections of one container to networks: at a start, and while it runs or rests.
//!
//! Owns the order of what changes (host first, then the record) and the lines of `/etc/hosts`.
//! The first network is the one that bandwidth is limited on.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use tenantry_network::{Asked, Attachment, Bandwidth, Endpoint, Error as NetworkError, Place};

use super::{
    Engine, Shared, blocking,
    cell::{Cell, Running},
    detached, launch, naming, start, world,
};
use crate::{
    config::{self, ContainerConfig, NetworkMode, NetworkWish},
    error::Error,
    etc,
    record::{self, Record, RunFile},
};

impl Engine {
    /// Also of a container that runs: it has another interface when this returns.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for one without a network namespace of its own, or that is on this
    /// network already; [`Error::network`] says what the network said.
    pub async fn connect_network(&self, reference: &str, wish: NetworkWish) -> Result<(), Error> {
        config::check_wish(&wish)?;
        let (shared, cell) = self.target(reference)?;
        detached(async move { connect_further(&shared, &cell, wish).await }).await
    }

    /// Also of a container that runs: its interface is gone when this returns.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if it is not on this network.
    pub async fn disconnect_network(&self, reference: &str, network: &str) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        let network = network.to_owned();
        detached(async move { disconnect(&shared, &cell, &network).await }).await
    }
}

/// `kept` is an address that is best had again; `index` names the interface.
pub(super) async fn connect(
    shared: &Shared,
    id: &str,
    pid: u32,
    wish: &NetworkWish,
    kept: Option<Ipv4Addr>,
    index: usize,
    default_route: bool,
) -> Result<Endpoint, Error> {
    let attachment = |address| Attachment {
        container: id,
        pid,
        network: &wish.network,
        asked: Asked { four: address, six: wish.address6 },
        place: Place { interface: format!("eth{index}"), default_route },
    };
    let connected = match shared.networks.connect(&attachment(wish.address.or(kept))).await {
        // Somebody else has the old address now; any other will do.
        Err(NetworkError::AddressTaken { .. } | NetworkError::AddressOutside { .. })
            if wish.address.is_none() =>
        {
            tracing::info!(container_id = id, ?kept, "address lost");
            shared.networks.connect(&attachment(None)).await
        }
        connected => connected,
    };
    connected.map_err(|e| Error::failed("connect to the network", e))
}

/// On the network that leads out, if there is one.
pub(super) async fn publish(
    shared: &Shared,
    config: &ContainerConfig,
    endpoints: &mut [Endpoint],
) -> Result<(), Error> {
    let wishes = config.published();
    let Some(way_out) = endpoints.iter_mut().find(|endpoint| endpoint.default_route) else {
        return Ok(());
    };
    let published = shared.networks.publish(way_out, &wishes).await;
    published.map_err(|e| Error::failed("publish ports", e))
}

/// Its own name at each of its addresses.
pub(super) fn append_hosts(cell: &Cell, endpoints: &[Endpoint]) -> Result<(), Error> {
    let hostname = cell.lock().record.hostname.clone();
    let line = |address: IpAddr| etc::render_hosts_line(address, &hostname);
    let lines: String = endpoints.iter().flat_map(Endpoint::addresses).map(line).collect();
    let hosts = &launch::files(&cell.dir)[0];
    let appended = File::options().append(true).open(hosts);
    appended
        .and_then(|mut file| file.write_all(lines.as_bytes()))
        .map_err(|e| Error::failed(format!("write {}", hosts.display()), e))
}

async fn connect_further(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    mut wish: NetworkWish,
) -> Result<(), Error> {
    let _op = cell.op.lock().await;
    let (record, running) = {
        let inner = cell.lock();
        (inner.record.clone(), inner.running.clone())
    };
    let found = shared.networks.find(&wish.network);
    wish.network = found.map_err(|e| Error::failed("connect to the network", e))?.name;
    // By its name now: `default` was one more word for it.
    config::check_wish(&wish)?;
    let name = &record.name;
    if record.config.network == NetworkMode::Shared {
        let why = "container sharing network namespace with another container or host cannot be \
                   connected to any other network";
        return Err(Error::Forbidden(why.to_owned()));
    }
    if record.config.network != NetworkMode::Bridge {
        return Err(Error::Forbidden(format!(
            "container {name} has no network namespace of its own to be connected: it was made \
             with --network host or none"
        )));
    }
    let mut wishes = record.config.wishes();
    if wishes.iter().any(|known| known.network == wish.network) {
        let network = &wish.network;
        return Err(Error::Forbidden(format!(
            "endpoint with name {name} already exists in network {network}"
        )));
    }
    config::check_network_count(wishes.len() + 1)?;
    wishes.push(wish.clone());
    let mut changed = record.clone();
    changed.config.networks = Some(wishes.clone());
    if let Some(running) = running {
        plug_in(shared, cell, &running, &wish, &changed).await?;
        naming::resolve_anew(cell, &record, &changed);
    }
    cell.update(|inner| inner.record.config.networks = Some(wishes));
    start::persist_later(cell);
    Ok(())
}

/// The whole or nothing: what was made is unmade where a later part fails.
async fn plug_in(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    running: &Running,
    wish: &NetworkWish,
    changed: &Record,
) -> Result<(), Error> {
    let live = &running.live;
    let is_used = |index: &usize| {
        live.endpoints().any(|endpoint| endpoint.interface == format!("eth{index}"))
    };
    let index = (0..).find(|index| !is_used(index)).unwrap_or_default();
    let default_route = !live.endpoints().any(|endpoint| endpoint.default_route);
    let pid = live.pid as u32;
    let mut made = connect(shared, &cell.id, pid, wish, None, index, default_route).await?;
    let config = cell.lock().record.config.clone();
    let published = publish(shared, &config, std::slice::from_mut(&mut made)).await;
    let mut endpoints: Vec<Endpoint> = live.endpoints().cloned().collect();
    endpoints.push(made.clone());
    let mut kept = match published {
        Ok(()) => naming::name(shared, changed, pid, std::slice::from_ref(&made)).await,
        Err(error) => Err(error),
    };
    if kept.is_ok() {
        kept = persist(shared, cell, &endpoints).await;
    }
    if endpoints.len() == 1 && kept.is_ok() {
        kept = limit_first(shared, cell, &made).await;
    }
    if let Err(error) = kept {
        if let Err(error) = shared.networks.unplug(&cell.id, &made).await {
            tracing::error!(container_id = cell.id, %error, "network endpoint left behind");
        }
        return Err(error);
    }
    show(cell, endpoints);
    if let Err(error) = append_hosts(cell, &[made]) {
        tracing::warn!(container_id = cell.id, error = error.chain(), "not in /etc/hosts");
    }
    Ok(())
}

async fn disconnect(shared: &Arc<Shared>, cell: &Arc<Cell>, reference: &str) -> Result<(), Error> {
    let _op = cell.op.lock().await;
    let (record, running) = {
        let inner = cell.lock();
        (inner.record.clone(), inner.running.clone())
    };
    // A network that is gone is still a wish of a stopped container.
    let network = shared.networks.find(reference).map_or(reference.to_owned(), |found| found.name);
    let mut wishes = record.config.wishes();
    let Some(index) = wishes.iter().position(|wish| wish.network == network) else {
        let name = &record.name;
        return Err(Error::Forbidden(format!(
            "container {name} is not connected to network {network}"
        )));
    };
    wishes.remove(index);
    if let Some(running) = running {
        unplug(shared, cell, &running, &network).await?;
        let mut changed = record.clone();
        changed.config.networks = Some(wishes.clone());
        naming::resolve_anew(cell, &record, &changed);
    }
    cell.update(|inner| {
        inner.record.config.networks = Some(wishes);
        if index == 0 {
            inner.record.address = None;
        }
    });
    start::persist_later(cell);
    Ok(())
}

async fn unplug(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    running: &Running,
    network: &str,
) -> Result<(), Error> {
    let mut endpoints: Vec<Endpoint> = running.live.endpoints().cloned().collect();
    let Some(index) = endpoints.iter().position(|made| made.network_name == network) else {
        return Ok(());
    };
    if index == 0 && running.throttled.is_some() {
        return Err(Error::Conflict(
            "it is throttled now, on this network; release it first".to_owned(),
        ));
    }
    let gone = endpoints.remove(index);
    let unplugged = shared.networks.unplug(&cell.id, &gone).await;
    unplugged.map_err(|e| Error::failed("disconnect from the network", e))?;
    if gone.default_route {
        hand_on_route(shared, running.live.pid as u32, &mut endpoints).await;
        let config = cell.lock().record.config.clone();
        if let Err(error) = publish(shared, &config, &mut endpoints).await {
            let error = error.chain();
            tracing::error!(container_id = cell.id, error, "no port is published any more");
        }
    }
    // From here on it is disconnected, whatever else fails.
    show(cell, endpoints.clone());
    if let Err(error) = persist(shared, cell, &endpoints).await {
        tracing::error!(container_id = cell.id, error = error.chain(), "run file is older");
    }
    let hosts = &launch::files(&cell.dir)[0];
    let rewritten = fs::read_to_string(hosts)
        .and_then(|text| fs::write(hosts, etc::without_addresses(&text, gone.addresses())));
    if let Err(error) = rewritten {
        tracing::warn!(container_id = cell.id, %error, "still in /etc/hosts");
    }
    match endpoints.first() {
        Some(first) if index == 0 => limit_first(shared, cell, first).await,
        _ => Ok(()),
    }
}

/// The next that leads out of its network; one whose route cannot be set leaves it to others.
async fn hand_on_route(shared: &Shared, pid: u32, endpoints: &mut [Endpoint]) {
    for endpoint in endpoints {
        let leads_out =
            shared.networks.of(endpoint).is_ok_and(|network| !network.config().shape.internal);
        if !leads_out {
            continue;
        }
        match shared.networks.take_default_route(endpoint, pid).await {
            Ok(()) => {
                endpoint.default_route = true;
                return;
            }
            Err(error) => tracing::warn!(pid, %error, "no default route"),
        }
    }
}

/// Bandwidth is the first network's.
async fn limit_first(shared: &Shared, cell: &Cell, first: &Endpoint) -> Result<(), Error> {
    let wanted = cell.lock().record.limits.bandwidth;
    if wanted == Bandwidth::default() {
        return Ok(());
    }
    let limited = shared.networks.set_bandwidth(first, &wanted).await;
    limited.map(drop).map_err(|e| Error::failed("limit bandwidth", e))
}

fn show(cell: &Cell, endpoints: Vec<Endpoint>) {
    let mut endpoints = endpoints.into_iter();
    cell.update(|inner| {
        if let Some(running) = &mut inner.running {
            running.live.endpoint = endpoints.next();
            running.live.further = endpoints.collect();
        }
    });
}

/// What the next agent has to take back.
async fn persist(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    endpoints: &[Endpoint],
) -> Result<(), Error> {
    let path = world::run_file_path(shared, cell);
    let first = endpoints.first().cloned();
    let further = endpoints.iter().skip(1).cloned().collect();
    blocking("write the run file", move || {
        let failed = |e| Error::failed(format!("write {}", path.display()), e);
        let mut run: RunFile = record::read_json(&path).map_err(failed)?;
        run.endpoint = first;
        run.further = further;
        record::write_json(&path, &run, false).map_err(failed)
    })
    .await
}

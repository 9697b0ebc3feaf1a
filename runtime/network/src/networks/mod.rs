//! All networks of one agent: the default one, `host`, `none`, and those that users make.
//!
//! Owns which networks there are, on disk and on the host, under which ids and names, and
//! tells what happens to them. Each that has a bridge is a [`Network`] of its own, with its
//! own bridge and its own table. It knows of containers no more than those do.
//!
//! The order on disk: a record is written before its bridge is made and removed after its
//! bridge is gone, so that an agent which is killed in between leaves a network that the next
//! one makes whole, and no bridge that nobody knows.

mod record;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use self::record::VERSION;
pub use self::record::{CreateNetwork, Driver, NetworkRecord};
use self::store::{Predefined, Store};
use crate::bandwidth::{Applied, Bandwidth};
use crate::config::{NetworkConfig, Shape};
use crate::counters::LinkCounters;
use crate::endpoint::{self, Endpoint, Place, lock};
use crate::error::{Error, Result};
use crate::names::{Named, Names, Outcome};
use crate::namespace::Namespace;
use crate::network::{Network, blocking, in_thread_of_its_own};
use crate::ports::{PortWish, Published, Reservations};
use crate::subnet::Ipv4Subnet;
use crate::survey;

/// Events that a slow subscriber may lag behind before it misses some.
const CHANNEL_EVENTS: usize = 1024;

#[derive(Clone, Debug)]
pub struct NetworksConfig {
    pub default: NetworkConfig,
    /// Where records are kept.
    pub dir: PathBuf,
    /// How many networks users may make.
    pub max: usize,
    /// Who is asked for names that no container has; empty: the host's own.
    pub name_servers: Vec<SocketAddr>,
}

impl NetworksConfig {
    pub const DEFAULT_MAX: usize = 64;
}

/// Of networks that were made before, so that the default network takes none of theirs.
///
/// # Errors
/// [`Error::Io`] for the directory.
pub fn kept_subnets(dir: PathBuf) -> Result<Vec<Ipv4Subnet>> {
    let records = Store::open(dir)?.read_all(NetworksConfig::DEFAULT_MAX)?;
    Ok(records.into_iter().filter_map(|record| record.subnet).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkAction {
    Create,
    Connect,
    Disconnect,
    Destroy,
}

impl NetworkAction {
    pub fn as_str(self) -> &'static str {
        match self {
            NetworkAction::Create => "create",
            NetworkAction::Connect => "connect",
            NetworkAction::Disconnect => "disconnect",
            NetworkAction::Destroy => "destroy",
        }
    }
}

#[derive(Clone, Debug)]
pub struct NetworkEvent {
    pub unix_ns: u64,
    pub action: NetworkAction,
    pub id: String,
    pub name: String,
    pub driver: Driver,
    /// Of a connect and a disconnect.
    pub container: Option<String>,
}

/// A connection that is to be made.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    pub container: &'a str,
    pub pid: u32,
    /// Name or id.
    pub network: &'a str,
    /// `None`: the next free one.
    pub address: Option<Ipv4Addr>,
    pub place: Place,
}

#[derive(Debug)]
pub struct Networks {
    default: Arc<Network>,
    store: Store,
    max: usize,
    ports: Reservations,
    names: Names,
    /// By id.
    all: Mutex<BTreeMap<String, Known>>,
    events: broadcast::Sender<NetworkEvent>,
    /// One is made or removed at a time: a subnet that was found free must stay so.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Known {
    record: NetworkRecord,
    up: Up,
}

#[derive(Clone, Debug)]
enum Up {
    Open(Arc<Network>),
    /// `host` and `none`.
    HasNoBridge,
    Failed(String),
}

impl Networks {
    /// The default network, and every other that was made before. One of those that cannot be
    /// made again is listed all the same and says why when somebody wants it.
    ///
    /// # Errors
    /// As [`Network::open`] for the default network; [`Error::Io`] for the directory.
    pub async fn open(config: NetworksConfig) -> Result<Networks> {
        let store = Store::open(config.dir)?;
        let new = || {
            let [bridge, host, none] = [random_id()?, random_id()?, random_id()?];
            Ok(Predefined { created_unix_ns: unix_ns(), bridge, host, none })
        };
        let ids = store.predefined(new)?;
        let records = store.read_all(config.max)?;
        let default = Arc::new(Network::open(config.default).await?);
        let mut all = BTreeMap::new();
        for record in predefined(&ids, default.config()) {
            let up = match record.bridge {
                Some(_) => Up::Open(Arc::clone(&default)),
                None => Up::HasNoBridge,
            };
            all.insert(record.id.clone(), Known { record, up });
        }
        for mut record in records {
            record.shape.apart_from = Some(default.config().bridge.clone());
            let up = match open_one(&record).await {
                Ok(network) => Up::Open(network),
                Err(error) => {
                    tracing::error!(network = record.name, %error, "network is not up");
                    Up::Failed(error.to_string())
                }
            };
            all.insert(record.id.clone(), Known { record, up });
        }
        Ok(Networks {
            default,
            store,
            max: config.max,
            ports: Reservations::default(),
            names: Names::new(config.name_servers),
            all: Mutex::new(all),
            events: broadcast::channel(CHANNEL_EVENTS).0,
            changing: tokio::sync::Mutex::default(),
        })
    }

    pub fn default_network(&self) -> &Network {
        &self.default
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<NetworkRecord> {
        let mut all: Vec<_> = self.all().values().map(|known| known.record.clone()).collect();
        all.sort_by(|a, b| (a.created_unix_ns, &a.name).cmp(&(b.created_unix_ns, &b.name)));
        all
    }

    /// By whole id, name, or the beginning of an id, in this order.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<NetworkRecord> {
        Ok(self.known(reference)?.record)
    }

    fn known(&self, reference: &str) -> Result<Known> {
        // Docker's clients' word for what is used where nothing is said.
        let reference = if reference == "default" { "bridge" } else { reference };
        let all = self.all();
        let by_name = || all.values().find(|known| known.record.name == reference);
        if let Some(known) = all.get(reference).or_else(by_name) {
            return Ok(known.clone());
        }
        let fits = |known: &&Known| !reference.is_empty() && known.record.id.starts_with(reference);
        let fitting: Vec<&Known> = all.values().filter(fits).collect();
        let reference = reference.to_owned();
        match fitting.as_slice() {
            [] => Err(Error::NotFound { reference }),
            [one] => Ok((*one).clone()),
            several => Err(Error::Ambiguous { reference, matches: several.len() }),
        }
    }

    /// # Errors
    /// [`Error::Invalid`] naming the field, [`Error::NameTaken`], [`Error::TooMany`],
    /// [`Error::Overlap`] or [`Error::NoFreeSubnet`]; those of [`Network::open`]. Nothing is
    /// left behind.
    pub async fn create(&self, request: CreateNetwork) -> Result<NetworkRecord> {
        request.check()?;
        let _changing = self.changing.lock().await;
        let kept = {
            let all = self.all();
            if all.values().any(|known| known.record.name == request.name) {
                return Err(Error::NameTaken { name: request.name });
            }
            if all.values().filter(|known| !known.record.is_predefined()).count() >= self.max {
                return Err(Error::TooMany { max: self.max });
            }
            let subnet = |known: &Known| Some((known.record.subnet?, known.record.name.clone()));
            all.values().filter_map(subnet).collect()
        };
        let subnet = survey::pick_further(request.subnet, kept).await?;
        let id = random_id()?;
        let record = NetworkRecord {
            version: VERSION,
            bridge: Some(request.bridge.unwrap_or_else(|| format!("tn-{}", &id[..12]))),
            id,
            name: request.name,
            created_unix_ns: unix_ns(),
            driver: Driver::Bridge,
            subnet: Some(subnet),
            shape: Shape {
                gateway: request.gateway,
                range: request.range,
                internal: request.internal,
                apart_from: Some(self.default.config().bridge.clone()),
            },
            labels: request.labels,
            options: request.options,
        };
        record.config().map_or(Ok(()), |config| config.validate())?;
        self.store.write(&record)?;
        let network = match open_one(&record).await {
            Ok(network) => network,
            Err(error) => {
                let _ = self.store.remove(&record.id);
                return Err(error);
            }
        };
        let known = Known { record: record.clone(), up: Up::Open(network) };
        self.all().insert(record.id.clone(), known);
        self.tell(&record, NetworkAction::Create, None);
        Ok(record)
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::Predefined`], [`Error::InUse`]; what could not be removed
    /// from the host: then the network is there still, and removing may be tried again.
    pub async fn remove(&self, reference: &str) -> Result<NetworkRecord> {
        let _changing = self.changing.lock().await;
        let Known { record, up } = self.known(reference)?;
        if record.is_predefined() {
            return Err(Error::Predefined { name: record.name, verb: "removed" });
        }
        if let Up::Open(network) = &up {
            if !network.close_if_unused() {
                return Err(Error::InUse { name: record.name, id: record.id });
            }
            network.close().await?;
        }
        self.store.remove(&record.id)?;
        self.all().remove(&record.id);
        self.tell(&record, NetworkAction::Destroy, None);
        Ok(record)
    }

    /// # Errors
    /// [`Error::NotFound`], [`Error::NotUp`], and as [`Network::connect`].
    pub async fn connect(&self, wish: &Attachment<'_>) -> Result<Endpoint> {
        let Known { record, up } = self.known(wish.network)?;
        let network = match up {
            Up::Open(network) => network,
            Up::Failed(why) => return Err(Error::NotUp { name: record.name, why }),
            Up::HasNoBridge => {
                return Err(Error::Predefined { name: record.name, verb: "connected to" });
            }
        };
        let place = wish.place.clone();
        let made = network.connect_at(wish.container, wish.pid, wish.address, place).await?;
        let (id, name) = (record.id.clone(), record.name.clone());
        let endpoint = Endpoint { network: id, network_name: name, ..made };
        self.tell(&record, NetworkAction::Connect, Some(wish.container));
        Ok(endpoint)
    }

    /// A container that is on no network talks to itself all the same.
    ///
    /// # Errors
    /// [`Error::Io`]: no such process; [`Error::Netlink`].
    pub async fn raise_loopback(&self, pid: u32) -> Result<()> {
        let work = move || endpoint::raise_loopback(&Namespace::of_process(pid)?);
        in_thread_of_its_own("network-loopback", work).await
    }

    /// Ports of the host lead to this endpoint from now on; all or none.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::Bind`], [`Error::Firewall`].
    pub async fn publish(&self, endpoint: &mut Endpoint, wishes: &[PortWish]) -> Result<()> {
        if wishes.is_empty() {
            return Ok(());
        }
        let network = self.of(endpoint)?;
        let published = self.ports.reserve(wishes)?;
        let (address, of_it) = (endpoint.address, published.clone());
        let led = blocking("publish ports", move || network.publish(address, &of_it)).await;
        if let Err(error) = led {
            self.ports.release(&published);
            return Err(error);
        }
        endpoint.published.extend(published);
        Ok(())
    }

    /// Others on this network find the container by these names from now on, if it is one that
    /// a user made: on the default one nobody has a name. Said again, it is called otherwise.
    pub fn introduce(&self, container: &str, endpoint: &Endpoint, names: Vec<String>) {
        let (address, network_name) = (endpoint.address, endpoint.network_name.clone());
        let named = Networks::has_names(endpoint).then_some(Named { address, names, network_name });
        let leads_out = self.of(endpoint).is_ok_and(|network| !network.config().shape.internal);
        self.names.join(container, &endpoint.network, leads_out, named);
    }

    /// Whether containers have names on the endpoint's network.
    pub fn has_names(endpoint: &Endpoint) -> bool {
        !record::RESERVED.contains(&endpoint.network_name.as_str())
    }

    /// Opens the container's name server at [`crate::RESOLVER`] in the namespace of `pid`; one
    /// that is open already stays.
    ///
    /// # Errors
    /// [`Error::Io`]: no such process, or somebody has the port.
    pub async fn serve_names(&self, container: &str, pid: u32) -> Result<()> {
        self.names.serve(container, pid).await
    }

    /// Before its namespace can end.
    pub fn stop_names(&self, container: &str) {
        self.names.stop(container);
    }

    /// How many questions the name servers had, by what came of them.
    pub fn name_counts(&self) -> Vec<(Outcome, u64)> {
        self.names.counts().into()
    }

    /// They lead nowhere before they may be somebody else's.
    async fn unpublish(&self, network: &Arc<Network>, endpoint: &Endpoint) {
        if endpoint.published.is_empty() {
            return;
        }
        let (network, address) = (Arc::clone(network), endpoint.address);
        let published: Vec<Published> = endpoint.published.clone();
        let work = move || network.unpublish(address, &published);
        if let Err(error) = blocking("unpublish ports", work).await {
            tracing::error!(%address, %error, "published ports are left in the table");
        }
        self.ports.release(&endpoint.published);
    }

    /// Of a container that ended: see [`Network::disconnect`].
    pub async fn disconnect(&self, container: &str, endpoint: &Endpoint) -> Result<()> {
        self.names.leave(container, &endpoint.network, endpoint.address);
        let network = self.of(endpoint)?;
        self.unpublish(&network, endpoint).await;
        network.disconnect(endpoint).await?;
        self.tell_of(endpoint, NetworkAction::Disconnect, container);
        Ok(())
    }

    /// Of a container that runs on: see [`Network::unplug`].
    pub async fn unplug(&self, container: &str, endpoint: &Endpoint) -> Result<()> {
        self.names.leave(container, &endpoint.network, endpoint.address);
        let network = self.of(endpoint)?;
        self.unpublish(&network, endpoint).await;
        network.unplug(endpoint).await?;
        self.tell_of(endpoint, NetworkAction::Disconnect, container);
        Ok(())
    }

    /// The network that an endpoint is on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotUp`].
    pub fn of(&self, endpoint: &Endpoint) -> Result<Arc<Network>> {
        if endpoint.network.is_empty() {
            return Ok(Arc::clone(&self.default));
        }
        let all = self.all();
        let not_found = || Error::NotFound { reference: endpoint.network_name.clone() };
        let known = all.get(&endpoint.network).ok_or_else(not_found)?;
        match &known.up {
            Up::Open(network) => Ok(Arc::clone(network)),
            Up::HasNoBridge => Err(not_found()),
            Up::Failed(why) => {
                Err(Error::NotUp { name: known.record.name.clone(), why: why.clone() })
            }
        }
    }

    /// See [`Network::adopt`]. Blocking where ports are published: the table is a new one.
    pub fn adopt(&self, endpoint: &Endpoint) {
        match self.of(endpoint) {
            Ok(network) => {
                network.adopt(endpoint);
                let published = &endpoint.published;
                if published.is_empty() {
                    return;
                }
                self.ports.adopt(published);
                if let Err(error) = network.publish(endpoint.address, published) {
                    let address = endpoint.address;
                    tracing::error!(%address, %error, "published ports lead nowhere");
                }
            }
            Err(error) => {
                let interface = &endpoint.host_interface;
                tracing::warn!(interface, %error, "adopted an endpoint without its network");
            }
        }
    }

    /// See [`Network::take_default_route`].
    pub async fn take_default_route(&self, endpoint: &Endpoint, pid: u32) -> Result<()> {
        self.of(endpoint)?.take_default_route(endpoint, pid).await
    }

    /// See [`Network::set_bandwidth`].
    pub async fn set_bandwidth(
        &self,
        endpoint: &Endpoint,
        bandwidth: &Bandwidth,
    ) -> Result<Vec<Applied>> {
        self.of(endpoint)?.set_bandwidth(endpoint, bandwidth).await
    }

    /// See [`Network::standing_queue_knows_classes`].
    pub fn standing_queue_knows_classes(&self) -> Result<Option<bool>> {
        self.default.standing_queue_knows_classes()
    }

    /// See [`Network::counters`]; of all networks.
    pub async fn counters(&self) -> Result<HashMap<String, LinkCounters>> {
        let mut all = HashMap::new();
        for network in self.open_networks() {
            all.extend(network.counters().await?);
        }
        Ok(all)
    }

    pub fn subscribe(&self) -> broadcast::Receiver<NetworkEvent> {
        self.events.subscribe()
    }

    /// Takes all of them off the host; their records stay. The default one goes last: it knows
    /// what `ip_forward` was before. Goes on after an error and returns the first.
    pub async fn close(&self) -> Result<()> {
        let mut outcome = Ok(());
        for network in self.open_networks() {
            if !Arc::ptr_eq(&network, &self.default) {
                outcome = outcome.and(network.close().await);
            }
        }
        outcome.and(self.default.close().await)
    }

    fn open_networks(&self) -> Vec<Arc<Network>> {
        let open = |known: &Known| match &known.up {
            Up::Open(network) => Some(Arc::clone(network)),
            Up::HasNoBridge | Up::Failed(_) => None,
        };
        self.all().values().filter_map(open).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        lock(&self.all)
    }

    fn tell_of(&self, endpoint: &Endpoint, action: NetworkAction, container: &str) {
        let reference = if endpoint.network.is_empty() { "bridge" } else { &endpoint.network };
        if let Ok(record) = self.find(reference) {
            self.tell(&record, action, Some(container));
        }
    }

    fn tell(&self, record: &NetworkRecord, action: NetworkAction, container: Option<&str>) {
        // Nobody may be listening.
        let _ = self.events.send(NetworkEvent {
            unix_ns: unix_ns(),
            action,
            id: record.id.clone(),
            name: record.name.clone(),
            driver: record.driver,
            container: container.map(str::to_owned),
        });
    }
}

async fn open_one(record: &NetworkRecord) -> Result<Arc<Network>> {
    let name = || Error::NotFound { reference: record.name.clone() };
    Ok(Arc::new(Network::open(record.config().ok_or_else(name)?).await?))
}

fn predefined(ids: &Predefined, default: &NetworkConfig) -> [NetworkRecord; 3] {
    let record = |id: &str, name: &str, driver| NetworkRecord {
        version: VERSION,
        id: id.to_owned(),
        name: name.to_owned(),
        created_unix_ns: ids.created_unix_ns,
        driver,
        bridge: None,
        subnet: None,
        shape: Shape::default(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    };
    let bridge = NetworkRecord {
        bridge: Some(default.bridge.clone()),
        subnet: Some(default.subnet),
        shape: default.shape.clone(),
        ..record(&ids.bridge, "bridge", Driver::Bridge)
    };
    [bridge, record(&ids.host, "host", Driver::Host), record(&ids.none, "none", Driver::Null)]
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// 64 lower-case hexadecimal digits.
fn random_id() -> Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("read", "random bytes", errno)),
        }
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

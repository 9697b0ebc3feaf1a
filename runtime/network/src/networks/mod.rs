//! All networks of one agent: the default one, `host`, `none`, and those that users make.
//!
//! Owns which networks there are, on disk and on the host, under which ids and names, and
//! tells what happens to them. Each that has a bridge is a [`Network`] of its own, with its
//! own bridge and its own table. It knows of containers no more than those do; what happens
//! between the two is in [`endpoints`].
//!
//! The order on disk: a record is written before its bridge is made and removed after its
//! bridge is gone, so that an agent which is killed in between leaves a network that the next
//! one makes whole, and no bridge that nobody knows.

mod endpoints;
mod record;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use self::record::VERSION;
pub use self::record::{CreateNetwork, Driver, NetworkRecord, SixWish};
use self::store::{Predefined, Store};
use crate::config::{NetworkConfig, Shape, Six};
use crate::counters::LinkCounters;
use crate::endpoint::{Endpoint, Place, lock};
use crate::error::{Error, Result};
use crate::names::Names;
use crate::network::{Asked, Network, random};
use crate::ports::Reservations;
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
    pub asked: Asked,
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
        let (kept, kept_six) = {
            let all = self.all();
            if all.values().any(|known| known.record.name == request.name) {
                return Err(Error::NameTaken { name: request.name });
            }
            if all.values().filter(|known| !known.record.is_predefined()).count() >= self.max {
                return Err(Error::TooMany { max: self.max });
            }
            let subnet = |known: &Known| Some((known.record.subnet?, known.record.name.clone()));
            let six =
                |known: &Known| Some((known.record.shape.six?.subnet, known.record.name.clone()));
            (all.values().filter_map(subnet).collect(), all.values().filter_map(six).collect())
        };
        let subnet = survey::pick_further(request.subnet, kept).await?;
        let six = match request.six {
            Some(wish) => {
                let subnet = survey::pick_six(wish.subnet, kept_six).await?;
                Some(Six { subnet, gateway: wish.gateway })
            }
            None => None,
        };
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
                six,
                mtu: request.mtu,
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
    let bytes: [u8; 32] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

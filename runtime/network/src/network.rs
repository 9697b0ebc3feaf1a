//! The face of the crate: [`Network`], its life and its calls.
//!
//! Owns the two host sockets, the addresses in use and the clean-up that goes on
//! in the background. The work itself is in `bridge`, `endpoint`, `bandwidth`
//! and `firewall`; all of it blocks and so runs on threads of its own, which
//! inherit the network namespace of the caller.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::bandwidth::{self, Applied, Bandwidth};
use crate::bridge::{self, Bridge};
use crate::config::NetworkConfig;
use crate::conntrack::{self, Change};
use crate::counters::LinkCounters;
use crate::endpoint::{self, Endpoint, EndpointSix, Place, Plan, Target, lock};
use crate::error::{Error, Result};
use crate::ipam::Ipam;
use crate::ipam6::Ipam6;
use crate::link;
use crate::namespace::{Namespace, NamespaceId};
use crate::netlink::Netlink;
use crate::ports::{Protocol, Published};
use crate::{firewall, forwarding, rules, standing};

/// A veth dies with its namespace some milliseconds after the last process;
/// one that is still there after this is deleted.
const REAP_DELAY: Duration = Duration::from_millis(250);

/// Addresses that are wanted, and no others; `None`: any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub four: Option<Ipv4Addr>,
    pub six: Option<Ipv6Addr>,
}

/// The containers' network, open. Dropping it leaves all of it in place, as an
/// agent that restarts wants; [`Network::close`] removes it.
#[derive(Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    bridge: Bridge,
    home: NamespaceId,
    /// For requests that are answered at once.
    quick: Mutex<Netlink>,
    /// For those that wait for RCU, so that no connect queues behind them.
    slow: Mutex<Netlink>,
    ipam: Mutex<Ipam>,
    ipam6: Option<Mutex<Ipam6>>,
    /// Addresses that were put in the last class. A shim may have taken them out again.
    bulk: Mutex<HashSet<Ipv4Addr>>,
    /// Whether the table has what published ports need.
    has_ports: Mutex<bool>,
    /// Makes interface names unique, also across agents: begins at the time.
    serial: AtomicU64,
    /// Bounded by the containers that ended within [`REAP_DELAY`].
    background: Mutex<JoinSet<()>>,
    closing: watch::Sender<bool>,
}

impl Network {
    /// The bridge is up with its address, forwarding is on, the table in place;
    /// an existing bridge of ours is adopted with all its ports.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the configuration, [`Error::ForeignLink`] if the
    /// name is another's, [`Error::Firewall`] without `nft`. What was made until
    /// then is removed again.
    pub async fn open(config: NetworkConfig) -> Result<Network> {
        config.validate()?;
        let inner = blocking("open", move || Inner::open(config)).await?;
        Ok(Network { inner: Arc::new(inner) })
    }

    pub fn config(&self) -> &NetworkConfig {
        &self.inner.config
    }

    /// Gives the namespace of process `pid` an `eth0` with an address (the next
    /// free one if `None`), a default route, and `lo`. Takes about 1 ms. If the
    /// returned future is dropped, the connection is removed again.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::AddressTaken`], [`Error::AddressOutside`];
    /// [`Error::HostNamespace`]; [`Error::Io`] if there is no such process.
    /// Nothing is left behind.
    pub async fn connect(&self, id: &str, pid: u32, address: Option<Ipv4Addr>) -> Result<Endpoint> {
        self.connect_at(id, pid, Asked { four: address, six: None }, Place::default()).await
    }

    /// As [`Network::connect`], with this interface: a container may be on several networks.
    pub async fn connect_at(
        &self,
        id: &str,
        pid: u32,
        asked: Asked,
        place: Place,
    ) -> Result<Endpoint> {
        let (inner, id) = (self.inner.clone(), id.to_owned());
        let work = move || inner.connect(&id, pid, asked, place);
        Ok(in_thread_of_its_own("network-connect", work).await?.keep())
    }

    /// For a container that runs on: its interface is gone when this returns.
    ///
    /// # Errors
    /// [`Error::Netlink`]; the address stays taken.
    pub async fn unplug(&self, endpoint: &Endpoint) -> Result<()> {
        let (inner, name) = (self.inner.clone(), endpoint.host_interface.clone());
        let delete = move || link::delete(&mut lock(&inner.slow), &name).map(drop);
        blocking("unplug", delete).await?;
        self.disconnect(endpoint).await
    }

    /// What is not near goes through this endpoint of process `pid`'s namespace from now on.
    pub async fn take_default_route(&self, endpoint: &Endpoint, pid: u32) -> Result<()> {
        let endpoint = endpoint.clone();
        let work = move || endpoint::take_default_route(&endpoint, &Namespace::of_process(pid)?);
        in_thread_of_its_own("network-route", work).await
    }

    /// Leads these ports of the host to this container. Blocking; all or none.
    pub(crate) fn publish(&self, target: Target, published: &[Published]) -> Result<()> {
        let NetworkConfig { table, bridge, .. } = &self.inner.config;
        let mut has_ports = lock(&self.inner.has_ports);
        let mut script = String::new();
        if !*has_ports {
            forwarding::allow_loopback_out(bridge)?;
            script = rules::render_ports(&self.inner.config);
        }
        script += &rules::render_publish(table, target, published);
        firewall::apply("publish ports in", table, &script)?;
        *has_ports = true;
        drop(has_ports);
        if published.iter().any(|one| one.port.protocol == Protocol::Udp) {
            // They lead there already: what fails from here on undoes nothing.
            let local = local_addresses(&mut lock(&self.inner.quick));
            forget_streams(Change::Publish { local: &local }, target, published);
        }
        Ok(())
    }

    /// Blocking; no error if the table is gone already.
    pub(crate) fn unpublish(&self, target: Target, published: &[Published]) -> Result<()> {
        let table = &self.inner.config.table;
        let script = rules::render_unpublish(table, target, published);
        if let Err(error) = firewall::apply("take ports out of", table, &script)
            && firewall::has_table(table)?
        {
            return Err(error);
        }
        forget_streams(Change::Unpublish, target, published);
        Ok(())
    }

    /// How many containers have an address here.
    pub fn endpoints(&self) -> usize {
        lock(&self.inner.ipam).taken()
    }

    /// True if nobody has an address here: then nobody gets one any more.
    pub fn close_if_unused(&self) -> bool {
        lock(&self.inner.ipam).close_if_unused()
    }

    /// Quick: the address is free at once. Links that do not die with their
    /// namespace are deleted in the background; [`Network::close`] waits for it.
    /// One whose packets go last takes as long as `nft`: who has its address next must not.
    pub async fn disconnect(&self, endpoint: &Endpoint) -> Result<()> {
        let (inner, address) = (self.inner.clone(), endpoint.address);
        if lock(&inner.bulk).remove(&address) {
            let table = inner.config.table.clone();
            let remove = move || firewall::remove_bulk(&table, address);
            if let Err(error) = blocking("leave the last class", remove).await {
                tracing::error!(%address, %error, "its next holder sends after everybody else");
                lock(&inner.bulk).insert(address);
            }
        }
        inner.forget(endpoint);
        Ok(())
    }

    /// After a restart of the agent: this endpoint exists, its address is taken.
    /// Twice is as good as once.
    pub fn adopt(&self, endpoint: &Endpoint) {
        match lock(&self.inner.ipam).take(endpoint.address) {
            Ok(()) | Err(Error::AddressTaken { .. }) => {}
            Err(e) => {
                let interface = &endpoint.host_interface;
                tracing::warn!(interface, error = %e, "adopted an endpoint of another subnet");
            }
        }
        if let (Some(six), Some(ipam)) = (&endpoint.six, &self.inner.ipam6) {
            // Twice is as good, and of another subnet it is nobody else's here either.
            let _ = lock(ipam).take(six.address);
        }
    }

    /// Replaces both limits and the class, at once and while traffic flows; `None` removes.
    /// Each is read back from the kernel and compared.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field, [`Error::Gone`], [`Error::Firewall`],
    /// [`Error::Mismatch`], [`Error::Netlink`]; the limits are as before.
    pub async fn set_bandwidth(
        &self,
        endpoint: &Endpoint,
        bandwidth: &Bandwidth,
    ) -> Result<Vec<Applied>> {
        let (inner, name) = (self.inner.clone(), endpoint.host_interface.clone());
        let (address, bandwidth) = (endpoint.address, *bandwidth);
        blocking("set bandwidth", move || inner.set_bandwidth(&name, address, &bandwidth)).await
    }

    /// Whether a queue that stands now on its way out of the host knows classes, so that who
    /// is [`Bandwidth::egress_bulk`] goes last in it; `None` if none stands. Blocking: two
    /// requests and more, below a millisecond.
    pub fn standing_queue_knows_classes(&self) -> Result<Option<bool>> {
        standing::look(&mut lock(&self.inner.quick))
    }

    /// All containers' link counters in one request, by
    /// [`Endpoint::host_interface`], as the container sees them.
    pub async fn counters(&self) -> Result<HashMap<String, LinkCounters>> {
        let inner = self.inner.clone();
        blocking("read counters", move || {
            let ports = link::list(&mut lock(&inner.quick), Some(inner.bridge.index))?;
            Ok(ports.into_iter().map(|l| (l.name, l.counters.of_the_other_end())).collect())
        })
        .await
    }

    /// Ends the background work, then removes every link of ours, the table, and
    /// puts `ip_forward` back. Containers that still run lose their `eth0`. Goes
    /// on after an error and returns the first. A network is of no use afterwards.
    pub async fn close(&self) -> Result<()> {
        self.inner.closing.send_replace(true);
        let mut background = std::mem::take(&mut *lock(&self.inner.background));
        while background.join_next().await.is_some() {}
        let inner = self.inner.clone();
        blocking("close", move || {
            let mut netlink = lock(&inner.slow);
            // Its alias goes with the bridge.
            let six = bridge::leave_ip6_forward(&mut netlink, &inner.config.bridge);
            let links = bridge::remove_all(&mut netlink, &inner.config.bridge);
            let table = firewall::remove(&inner.config);
            let forwarding = forwarding::write_ip_forward(inner.bridge.ip_forward_before);
            let six = six.and_then(|before| before.map_or(Ok(()), forwarding::write_ip6_forward));
            links.and(table).and(forwarding).and(six)
        })
        .await
    }
}

impl Inner {
    fn open(config: NetworkConfig) -> Result<Inner> {
        let home = Namespace::of_this_thread()?.id()?;
        let (mut quick, slow) = (Netlink::open()?, Netlink::open()?);
        let bridge = bridge::ensure(&mut quick, &config)?;
        let six = &config.shape.six;
        let outcome = forwarding::write_ip_forward(true)
            .and_then(|()| six.map_or(Ok(()), |_| forwarding::write_ip6_forward(true)))
            .and_then(|()| firewall::install(&config))
            .and_then(|()| bridge::remove_orphans(&mut quick, &config.bridge));
        if let Err(e) = outcome {
            if bridge.created {
                let _ = firewall::remove(&config);
                let _ = forwarding::write_ip_forward(bridge.ip_forward_before);
                if let Ok(Some(before)) = bridge::leave_ip6_forward(&mut quick, &config.bridge) {
                    let _ = forwarding::write_ip6_forward(before);
                }
                let _ = link::delete(&mut quick, &config.bridge);
            }
            return Err(e);
        }
        tracing::info!(
            bridge = config.bridge,
            subnet = %config.subnet,
            adopted = !bridge.created,
            "network open"
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Inner {
            home,
            bridge,
            quick: Mutex::new(quick),
            slow: Mutex::new(slow),
            ipam: Mutex::new(Ipam::shaped(config.subnet, config.gateway(), config.shape.range)),
            ipam6: config
                .shape
                .six
                .map(|six| Mutex::new(Ipam6::new(six.subnet, six.gateway(), config.subnet))),
            // The table is new.
            bulk: Mutex::default(),
            has_ports: Mutex::default(),
            serial: AtomicU64::new(now.as_nanos() as u64),
            background: Mutex::new(JoinSet::new()),
            closing: watch::Sender::new(false),
            config,
        })
    }

    fn connect(self: Arc<Self>, id: &str, pid: u32, asked: Asked, place: Place) -> Result<Fresh> {
        let namespace = Namespace::of_process(pid)?;
        if namespace.id()? == self.home {
            return Err(Error::HostNamespace { pid });
        }
        let address = {
            let mut ipam = lock(&self.ipam);
            match asked.four {
                Some(address) => ipam.take(address).map(|()| address)?,
                None => ipam.take_next()?,
            }
        };
        let six = self.take_six(address, asked.six).inspect_err(|_| {
            lock(&self.ipam).release(address);
        })?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let endpoint = Endpoint {
            host_interface: endpoint::host_interface_name(id, serial),
            address,
            prefix: self.config.subnet.prefix(),
            gateway: self.config.gateway(),
            mac: link::render_mac(link::mac_of(address)),
            interface: place.interface,
            default_route: place.default_route && !self.config.shape.internal,
            network: String::new(),
            network_name: String::new(),
            published: Vec::new(),
            six,
        };
        let bridge = &self.config.bridge;
        let (bridge_index, mtu) = (self.bridge.index, self.config.shape.mtu);
        let plan = Plan { id, bridge, bridge_index, mtu, endpoint };
        if let Err(e) = endpoint::attach(&self.quick, &plan, &namespace) {
            self.release(&plan.endpoint);
            return Err(e);
        }
        let endpoint = plan.endpoint;
        Ok(Fresh { endpoint: Some(endpoint), inner: self })
    }

    fn take_six(&self, beside: Ipv4Addr, asked: Option<Ipv6Addr>) -> Result<Option<EndpointSix>> {
        let (Some(ipam), Some(six)) = (&self.ipam6, &self.config.shape.six) else {
            let Some(asked) = asked else { return Ok(None) };
            let (network, wanted) = (self.config.bridge.clone(), asked.to_string());
            return Err(Error::NoIpv6 { network, wanted });
        };
        let mut ipam = lock(ipam);
        let address = match asked {
            Some(address) => ipam.take(address).map(|()| address)?,
            None => ipam.take_beside(beside)?,
        };
        let (prefix, gateway) = (six.subnet.prefix(), six.gateway());
        Ok(Some(EndpointSix { address, prefix, gateway }))
    }

    /// Its addresses may be somebody else's.
    fn release(&self, endpoint: &Endpoint) {
        lock(&self.ipam).release(endpoint.address);
        if let (Some(six), Some(ipam)) = (&endpoint.six, &self.ipam6) {
            lock(ipam).release(six.address);
        }
    }

    fn set_bandwidth(
        &self,
        name: &str,
        address: Ipv4Addr,
        wanted: &Bandwidth,
    ) -> Result<Vec<Applied>> {
        wanted.validate()?;
        let table = &self.config.table;
        let was = lock(&self.bulk).contains(&address);
        if wanted.egress_bulk {
            // It may be in the set from here on, whatever fails.
            lock(&self.bulk).insert(address);
        }
        // Costs a run of `nft`, so it is left out for who never was.
        let class = (was || wanted.egress_bulk)
            .then(|| bandwidth::set_bulk(table, address, wanted.egress_bulk))
            .transpose()?;
        let mut netlink = lock(&self.slow);
        match bandwidth::apply(&mut netlink, &self.config.bridge, name, wanted) {
            Ok(rows) => {
                match wanted.egress_bulk {
                    true => lock(&self.bulk).insert(address),
                    false => lock(&self.bulk).remove(&address),
                };
                Ok(rows.into_iter().chain(class).collect())
            }
            Err(error) => {
                if class.is_some()
                    && let Err(e) = bandwidth::set_bulk(table, address, was)
                {
                    tracing::error!(%address, error = %e, "class left as it is");
                }
                Err(error)
            }
        }
    }

    fn forget(self: Arc<Self>, endpoint: &Endpoint) {
        self.release(endpoint);
        let mut closing = self.closing.subscribe();
        let (inner, name) = (self.clone(), endpoint.host_interface.clone());
        let mut background = lock(&self.background);
        while background.try_join_next().is_some() {}
        background.spawn(async move {
            // The ifb has no namespace to die with.
            inner.clone().delete(bandwidth::ifb_name(&name)).await;
            let _ = tokio::time::timeout(REAP_DELAY, closing.wait_for(|c| *c)).await;
            inner.delete(name).await;
        });
    }

    async fn delete(self: Arc<Self>, name: String) {
        let object = name.clone();
        let outcome =
            blocking("delete link", move || link::delete(&mut lock(&self.slow), &object)).await;
        if let Err(e) = outcome {
            tracing::warn!(interface = name, error = %e, "link of an ended container is left");
        }
    }
}

/// Those that can be read: what is beyond is only streams that are not forgotten.
fn local_addresses(netlink: &mut Netlink) -> Vec<IpAddr> {
    let four = link::list_addresses(netlink).unwrap_or_default();
    let six = link::list_addresses6(netlink).unwrap_or_default();
    let four = four.into_iter().map(|known| IpAddr::V4(known.address));
    four.chain(six.into_iter().map(|known| IpAddr::V6(known.address))).collect()
}

/// What cannot be forgotten ends by itself when its sender pauses.
fn forget_streams(change: Change<'_>, target: Target, published: &[Published]) {
    let container = target.four;
    match conntrack::forget(change, target, published) {
        Ok(0) => {}
        Ok(streams) => tracing::debug!(%container, streams, "streams of datagrams forgotten"),
        Err(error) => tracing::warn!(%container, %error, "streams of datagrams may go astray"),
    }
}

/// A connection that nobody has received yet: dropped, it is undone. Between the
/// worker's answer and the caller's wake-up the future may be gone.
#[derive(Debug)]
struct Fresh {
    inner: Arc<Inner>,
    endpoint: Option<Endpoint>,
}

impl Fresh {
    fn keep(mut self) -> Endpoint {
        self.endpoint.take().expect("an endpoint is taken out once, here")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let Some(endpoint) = self.endpoint.take() else { return };
        let inner = self.inner.clone();
        // Deleting waits for RCU; this may run on the async runtime's thread.
        let undo = move || {
            if let Err(e) = link::delete(&mut lock(&inner.slow), &endpoint.host_interface) {
                let interface = &endpoint.host_interface;
                tracing::warn!(interface, error = %e, "veth of an abandoned connect is left");
            }
            inner.release(&endpoint);
        };
        let _ = std::thread::Builder::new().name("network-undo".to_owned()).spawn(undo);
    }
}

/// Not from a pool: the thread moves into a container's namespace, and ends there.
pub(crate) async fn in_thread_of_its_own<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || drop(send.send(work())))
        .map_err(|e| Error::io("start", name, e))?;
    answer.await.map_err(|_| Error::Worker(name))?
}

/// On the runtime's pool for blocking work.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Worker(operation))?
}

/// From the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("read", "random bytes", errno)),
        }
    }
    Ok(bytes)
}

//! What happens between containers and networks: connections, published ports, names.
//!
//! Owns the order: what leads to a container is there last and gone first.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Attachment, Known, NetworkAction, Networks, Up, record};
use crate::bandwidth::{Applied, Bandwidth};
use crate::endpoint::{self, Endpoint};
use crate::error::{Error, Result};
use crate::names::{Link, Named, Outcome};
use crate::namespace::Namespace;
use crate::network::{Network, blocking, in_thread_of_its_own};
use crate::ports::PortWish;

impl Networks {
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
        let made = network.connect_at(wish.container, wish.pid, wish.asked, place).await;
        let made = made.map_err(|error| match error {
            // By the name that people know.
            Error::NoIpv6 { wanted, .. } => Error::NoIpv6 { network: record.name.clone(), wanted },
            other => other,
        })?;
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
        let has_six = endpoint.six.is_some();
        let needs_six = |wish: &&PortWish| wish.host_address.is_some_and(|host| host.is_ipv6());
        if let Some(wish) = wishes.iter().find(needs_six).filter(|_| !has_six) {
            let network = endpoint.network_name.clone();
            let host = wish.host_address.map(|host| host.to_string()).unwrap_or_default();
            let wanted = format!("a published port at [{host}]");
            return Err(Error::NoIpv6 { network, wanted });
        }
        let published = self.ports.reserve(wishes, has_six)?;
        let (target, of_it) = (endpoint.target(), published.clone());
        let led = blocking("publish ports", move || network.publish(target, &of_it)).await;
        if let Err(error) = led {
            self.ports.release(&published);
            return Err(error);
        }
        endpoint.published.extend(published);
        Ok(())
    }

    /// Others on this network find the container by these names from now on, if it is one that
    /// a user made: on the default one nobody has a name. Said again, it is called otherwise.
    /// `links` are its own names for others there.
    pub fn introduce(
        &self,
        container: &str,
        endpoint: &Endpoint,
        names: Vec<String>,
        links: Vec<Link>,
    ) {
        let (address, network_name) = (endpoint.address, endpoint.network_name.clone());
        let six = endpoint.six.map(|six| six.address);
        let named = Named { address, six, names, network_name };
        let named = Networks::has_names(endpoint).then_some(named);
        let leads_out = self.of(endpoint).is_ok_and(|network| !network.config().shape.internal);
        self.names.join(container, &endpoint.network, leads_out, named, links);
    }

    /// Whether containers have names on the endpoint's network.
    pub fn has_names(endpoint: &Endpoint) -> bool {
        !record::RESERVED.contains(&endpoint.network_name.as_str())
    }

    /// Opens the container's name server at [`crate::RESOLVER`] in the namespace of `pid`; one
    /// that is open already stays. `servers` are asked for other names; empty: the host's.
    ///
    /// # Errors
    /// [`Error::Io`]: no such process, or somebody has the port.
    pub async fn serve_names(&self, container: &str, pid: u32, servers: Vec<IpAddr>) -> Result<()> {
        self.names.serve(container, pid, servers).await
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
        let (target, published) = (endpoint.target(), endpoint.published.clone());
        let work = move || network.unpublish(target, &published);
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
                if let Err(error) = network.publish(endpoint.target(), published) {
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
}

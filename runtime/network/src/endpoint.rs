//! One container's connection: a veth pair, its names, what is set up inside.
//!
//! Owns the order of the steps and their undo. The thread that runs [`attach`]
//! ends up in the container's namespace and must end after it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::forwarding;
use crate::link;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::ports::Published;

/// What the engine keeps of a connection, and hands back to disconnect it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The veth's end on the host; never used twice.
    pub host_interface: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub mac: String,
    /// The veth's end in the container.
    #[serde(default = "first_interface")]
    pub interface: String,
    /// Whether what is not near goes through it.
    #[serde(default = "yes")]
    pub default_route: bool,
    /// The network's id; empty in what an agent wrote that knew only one network.
    #[serde(default)]
    pub network: String,
    #[serde(default = "default_network")]
    pub network_name: String,
    /// Ports of the host that lead here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// On a network with IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six: Option<EndpointSix>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSix {
    pub address: Ipv6Addr,
    pub prefix: u8,
    pub gateway: Ipv6Addr,
}

/// Where what is sent to a published port is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub four: Ipv4Addr,
    pub six: Option<Ipv6Addr>,
}

impl Endpoint {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let six = self.six.map(|six| IpAddr::V6(six.address));
        [IpAddr::V4(self.address)].into_iter().chain(six)
    }

    pub(crate) fn target(&self) -> Target {
        Target { four: self.address, six: self.six.map(|six| six.address) }
    }
}

fn first_interface() -> String {
    "eth0".to_owned()
}

fn yes() -> bool {
    true
}

fn default_network() -> String {
    "bridge".to_owned()
}

/// Where a connection begins in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub interface: String,
    /// Not on a network that is internal: there is nowhere to go.
    pub default_route: bool,
}

impl Default for Place {
    fn default() -> Self {
        Place { interface: first_interface(), default_route: true }
    }
}

/// What [`attach`] makes.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub id: &'a str,
    pub bridge: &'a str,
    pub bridge_index: u32,
    /// `None`: the kernel's own for such links.
    pub mtu: Option<u32>,
    pub endpoint: Endpoint,
}

/// Within IFNAMSIZ. Of the id and a serial number: a container that is started
/// again must not wait for the kernel to reap its former veth.
pub(crate) fn host_interface_name(id: &str, serial: u64) -> String {
    // FNV-1a, 64 bits, of which 44 fit.
    let bytes = id.bytes().chain(serial.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:011x}", hash >> 20)
}

/// A lock that outlives a panic of another holder: a netlink socket has no
/// state between requests.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocking; about a millisecond. Leaves nothing behind on failure.
pub(crate) fn attach(host: &Mutex<Netlink>, plan: &Plan<'_>, inside: &Namespace) -> Result<()> {
    let name = &plan.endpoint.host_interface;
    let mac = link::mac_of(plan.endpoint.address);
    let interface = &plan.endpoint.interface;
    let (bridge, peer, mtu) = (plan.bridge_index, inside.fd(), plan.mtu);
    link::create_veth(&mut lock(host), name, bridge, peer, interface, mac, mtu)?;
    let outcome = set_up_host_side(&mut lock(host), plan)
        .and_then(|()| set_up_inside(&plan.endpoint, inside));
    if outcome.is_err()
        && let Err(e) = link::delete(&mut lock(host), name)
    {
        tracing::error!(interface = name, error = %e, "veth of a failed connect is left");
    }
    outcome
}

fn set_up_host_side(host: &mut Netlink, plan: &Plan<'_>) -> Result<()> {
    let name = &plan.endpoint.host_interface;
    link::set_hairpin_and_alias(host, name, &link::alias(plan.bridge, plan.id))?;
    link::silence_ipv6(host, name)
}

fn set_up_inside(endpoint: &Endpoint, inside: &Namespace) -> Result<()> {
    inside.enter()?;
    let mut netlink = Netlink::open()?;
    let netlink = &mut netlink;
    link::set_loopback_up(netlink)?;
    let name = &endpoint.interface;
    link::silence_ipv6(netlink, name)?;
    let found = link::find(netlink, name)?.ok_or_else(|| Error::Gone(name.clone()))?;
    link::add_address(netlink, found.index, endpoint.address, endpoint.prefix)?;
    if let Some(six) = &endpoint.six {
        forwarding::switch_ipv6_on(name)?;
        link::add_address6(netlink, found.index, six.address, six.prefix)?;
    }
    link::set_up(netlink, name)?;
    if endpoint.default_route {
        // Only an address on a link that is up makes the gateway reachable.
        add_default_routes(netlink, endpoint)?;
    }
    Ok(())
}

fn add_default_routes(netlink: &mut Netlink, endpoint: &Endpoint) -> Result<()> {
    link::add_default_route(netlink, endpoint.gateway)?;
    match &endpoint.six {
        Some(six) => link::add_default_route6(netlink, six.gateway),
        None => Ok(()),
    }
}

/// For a namespace that gets no connection. The thread ends up in it and must end after it.
pub(crate) fn raise_loopback(inside: &Namespace) -> Result<()> {
    inside.enter()?;
    link::set_loopback_up(&mut Netlink::open()?)
}

/// What is not near goes through this connection from now on; the route before it went with
/// its link. The thread ends up in the container's namespace and must end after it.
pub(crate) fn take_default_route(endpoint: &Endpoint, inside: &Namespace) -> Result<()> {
    inside.enter()?;
    add_default_routes(&mut Netlink::open()?, endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_interface_name_fits_and_differs_by_id_and_serial() {
        let name = host_interface_name("0123456789abcdef", 1);
        assert_eq!(name.len(), link::MAX_NAME_BYTES);
        assert_eq!(name, host_interface_name("0123456789abcdef", 1));
        assert_ne!(name, host_interface_name("0123456789abcdef", 2));
        assert_ne!(name, host_interface_name("0123456789abcdeg", 1));
        assert!(crate::bandwidth::ifb_name(&name).len() <= link::MAX_NAME_BYTES);
    }
}

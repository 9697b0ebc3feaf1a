//! Links, addresses and routes: each function is one netlink request.
//!
//! Owns the messages' contents and the alias by which we know our own links
//! again. It decides nothing: who calls what in which order, and what is undone,
//! is `endpoint`'s and `network`'s.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, LinkAttribute, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkIfb, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use rustix::io::Errno;

use crate::decode::{self, Address, Address6, Link};
use crate::error::{Error, Result};
use crate::netlink::{Netlink, about};
use crate::subnet::Ipv4Subnet;

/// The kernel's limit (IFALIASZ) is 255 bytes.
const MAX_ALIAS_BYTES: usize = 200;
/// In every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Kernel's IFNAMSIZ without the NUL.
pub(crate) const MAX_NAME_BYTES: usize = 15;

pub(crate) type Mac = [u8; 6];

/// Locally administered, made from the address: a released address that is
/// given out again needs no peer to forget the old MAC.
pub(crate) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x74, a, b, c, d]
}

pub(crate) fn render_mac(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// `tenantry <bridge> <what>`: marks a link as this network's.
pub(crate) fn alias(bridge: &str, what: &str) -> String {
    let mut text = format!("tenantry {bridge} {what}");
    while text.len() > MAX_ALIAS_BYTES {
        text.pop();
    }
    text
}

/// What an alias says, if it is one of this network's.
pub(crate) fn parse_alias<'a>(alias: &'a str, bridge: &str) -> Option<&'a str> {
    alias.strip_prefix("tenantry ")?.strip_prefix(bridge)?.strip_prefix(' ')
}

fn is(e: &Error, errno: Errno) -> bool {
    e.errno() == Some(errno.raw_os_error())
}

/// `None` if there is no such link.
pub(crate) fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>> {
    let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
    match netlink.get(about("read link", name), Message::GetLink(message), decode::link) {
        Err(e) if is(&e, Errno::NODEV) => Ok(None),
        other => other,
    }
}

/// As [`find`].
pub(crate) fn find_index(netlink: &mut Netlink, index: u32) -> Result<Option<Link>> {
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).build();
    match netlink.get(about("read link", "by index"), Message::GetLink(message), decode::link) {
        Err(e) if is(&e, Errno::NODEV) => Ok(None),
        other => other,
    }
}

/// All links, or the ports of one bridge: that much is filtered in the kernel.
pub(crate) fn list(netlink: &mut Netlink, master: Option<u32>) -> Result<Vec<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.extend(master.map(LinkAttribute::Controller));
    let mut links =
        netlink.dump(about("list", "links"), Message::GetLink(message), decode::link)?;
    links.retain(|l| master.is_none() || l.master == master);
    Ok(links)
}

pub(crate) fn list_addresses(netlink: &mut Netlink) -> Result<Vec<Address>> {
    let message = Message::GetAddress(AddressMessage::default());
    netlink.dump(about("list", "addresses"), message, decode::address)
}

pub(crate) fn list_addresses6(netlink: &mut Netlink) -> Result<Vec<Address6>> {
    let message = Message::GetAddress(AddressMessage::default());
    netlink.dump(about("list", "addresses"), message, decode::address6)
}

pub(crate) fn list_route_destinations(netlink: &mut Netlink) -> Result<Vec<Ipv4Subnet>> {
    let message = Message::GetRoute(RouteMessage::default());
    netlink.dump(about("list", "routes"), message, decode::route_destination)
}

/// Down, with a MAC of its own: a bridge without one takes its ports' lowest,
/// which changes as containers come and go.
pub(crate) fn create_bridge(
    netlink: &mut Netlink,
    name: &str,
    mac: Mac,
    mtu: Option<u32>,
) -> Result<()> {
    let bridge = LinkBridge::new(name).address(mac.to_vec());
    let bridge = match mtu {
        Some(mtu) => bridge.mtu(mtu),
        None => bridge,
    };
    create(netlink, "create bridge", name, bridge.build())
}

pub(crate) fn create_ifb(netlink: &mut Netlink, name: &str) -> Result<()> {
    create(netlink, "create ifb", name, LinkIfb::new(name).up().build())
}

/// `name` on the bridge and up; its peer is born in the other namespace as
/// `interface`, down: until the peer is up neither end has carrier.
pub(crate) fn create_veth(
    netlink: &mut Netlink,
    name: &str,
    bridge_index: u32,
    peer_namespace: RawFd,
    interface: &str,
    peer_mac: Mac,
    mtu: Option<u32>,
) -> Result<()> {
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(interface)
        .address(peer_mac.to_vec())
        .setns_by_fd(peer_namespace);
    let mut own = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .controller(bridge_index)
        .up();
    if let Some(mtu) = mtu {
        (peer, own) = (peer.mtu(mtu), own.mtu(mtu));
    }
    let message = own.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
    create(netlink, "create veth", name, message)
}

fn create(
    netlink: &mut Netlink,
    verb: &'static str,
    name: &str,
    message: LinkMessage,
) -> Result<()> {
    netlink.change(about(verb, name), Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Hairpin: a container may reach itself by an address of the host.
pub(crate) fn set_hairpin_and_alias(netlink: &mut Netlink, name: &str, alias: &str) -> Result<()> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .name(name)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)]))
        .alias(alias)
        .build();
    netlink.change(about("set hairpin of", name), Message::NewLink(message), 0)
}

pub(crate) fn set_alias(netlink: &mut Netlink, name: &str, alias: &str) -> Result<()> {
    let message = LinkUnspec::new_with_name(name).alias(alias).build();
    netlink.change(about("set alias of", name), Message::SetLink(message), 0)
}

pub(crate) fn set_up(netlink: &mut Netlink, name: &str) -> Result<()> {
    let message = LinkUnspec::new_with_name(name).up().build();
    netlink.change(about("set up", name), Message::SetLink(message), 0)
}

pub(crate) fn set_loopback_up(netlink: &mut Netlink) -> Result<()> {
    let message = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    netlink.change(about("set up", "lo"), Message::SetLink(message), 0)
}

/// No IPv6 link-local address, hence no duplicate detection and no router
/// solicitation: nothing is sent on a new link that the container did not send.
/// To be called before the link has carrier. A kernel without IPv6 is fine.
pub(crate) fn silence_ipv6(netlink: &mut Netlink, name: &str) -> Result<()> {
    let quiet = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])];
    let message = LinkUnspec::new_with_name(name)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(quiet))
        .build();
    match netlink.change(about("silence IPv6 on", name), Message::SetLink(message), 0) {
        Err(e) if is(&e, Errno::AFNOSUPPORT) => Ok(()),
        other => other,
    }
}

/// False if it was gone already. Waits for an RCU grace period: 10 ms and more.
pub(crate) fn delete(netlink: &mut Netlink, name: &str) -> Result<bool> {
    let message = LinkUnspec::new_with_name(name).build();
    match netlink.change(about("delete link", name), Message::DelLink(message), 0) {
        Err(e) if is(&e, Errno::NODEV) => Ok(false),
        other => other.map(|()| true),
    }
}

pub(crate) fn add_address(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> Result<()> {
    let message =
        AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build();
    let what = format!("{address}/{prefix}");
    netlink.change(
        about("add address", &what),
        Message::NewAddress(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// In use at once: who gives it out knows that it is nobody else's, so that the kernel need not
/// ask around for a second. One that is there already is as good.
pub(crate) fn add_address6(
    netlink: &mut Netlink,
    index: u32,
    address: Ipv6Addr,
    prefix: u8,
) -> Result<()> {
    let mut message =
        AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, prefix).build();
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    let what = format!("{address}/{prefix}");
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    match netlink.change(about("add address", &what), Message::NewAddress(message), flags) {
        Err(e) if is(&e, Errno::EXIST) => Ok(()),
        other => other,
    }
}

pub(crate) fn add_default_route6(netlink: &mut Netlink, gateway: Ipv6Addr) -> Result<()> {
    let message = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build();
    let what = format!("default via {gateway}");
    netlink.change(about("add route", &what), Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

pub(crate) fn add_default_route(netlink: &mut Netlink, gateway: Ipv4Addr) -> Result<()> {
    let message = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
    let what = format!("default via {gateway}");
    netlink.change(about("add route", &what), Message::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_tells_one_networks_links_from_anothers() {
        assert_eq!(alias("br0", "web-1"), "tenantry br0 web-1");
        assert_eq!(parse_alias("tenantry br0 web-1", "br0"), Some("web-1"));
        assert_eq!(parse_alias("tenantry br01 web-1", "br0"), None);
        assert_eq!(parse_alias("web-1", "br0"), None);
        assert!(alias("br0", &"é".repeat(300)).len() <= MAX_ALIAS_BYTES);
    }

    #[test]
    fn a_mac_is_unicast_locally_administered_and_made_from_the_address() {
        let mac = mac_of(Ipv4Addr::new(10, 213, 0, 2));
        assert_eq!(render_mac(mac), "02:74:0a:d5:00:02");
        assert_eq!(mac[0] & 0b11, 0b10);
    }
}

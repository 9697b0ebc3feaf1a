//! What the host already uses, so that our subnet is none of it.

use crate::error::{Error, Result};
use crate::link;
use crate::netlink::Netlink;
use crate::network::blocking;
use crate::subnet::{Ipv4Subnet, choose_subnet};

/// The subnet of `bridge` if that exists (an agent that restarts keeps its
/// own), else the first candidate that overlaps no address and no route of the
/// host.
///
/// # Errors
/// [`Error::NoFreeSubnet`]: the operator must name a subnet.
pub async fn pick_subnet(bridge: &str, candidates: &[Ipv4Subnet]) -> Result<Ipv4Subnet> {
    let (bridge, candidates) = (bridge.to_owned(), candidates.to_vec());
    blocking("pick a subnet", move || {
        let netlink = &mut Netlink::open()?;
        let addresses = link::list_addresses(netlink)?;
        if let Some(own) = link::find(netlink, &bridge)?
            && let Some(a) = addresses.iter().find(|a| a.index == own.index)
            && let Some(subnet) = Ipv4Subnet::containing(a.address, a.prefix)
        {
            return Ok(subnet);
        }
        let mut taken: Vec<_> =
            addresses.iter().filter_map(|a| Ipv4Subnet::containing(a.address, a.prefix)).collect();
        taken.extend(link::list_route_destinations(netlink)?);
        choose_subnet(&candidates, &taken).ok_or_else(|| Error::NoFreeSubnet {
            candidates: candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })
    })
    .await
}

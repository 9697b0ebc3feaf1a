//! What the host already uses, so that our subnet is none of it.

use crate::decode::Address6;
use crate::error::{Error, Result};
use crate::link;
use crate::netlink::Netlink;
use crate::network::blocking;
use crate::subnet::{Ipv4Subnet, choose_subnet, default_candidates};
use crate::subnet6::Ipv6Subnet;

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
        choose(&candidates, &in_use(netlink)?)
    })
    .await
}

/// For a further network: the first candidate that overlaps no address and no route of this
/// host and nothing of `kept`, which networks have that may not be up. One that is `wanted`
/// may lie in a route: who names it knows the way.
///
/// # Errors
/// [`Error::Overlap`] for a wanted one, else [`Error::NoFreeSubnet`].
pub(crate) async fn pick_further(
    wanted: Option<Ipv4Subnet>,
    kept: Vec<(Ipv4Subnet, String)>,
) -> Result<Ipv4Subnet> {
    blocking("pick a subnet", move || {
        let netlink = &mut Netlink::open()?;
        let Some(subnet) = wanted else {
            let mut taken = in_use(netlink)?;
            taken.extend(kept.iter().map(|(subnet, _)| *subnet));
            return choose(&default_candidates(), &taken);
        };
        if let Some((_, name)) = kept.iter().find(|(kept, _)| kept.overlaps(&subnet)) {
            let subnet = subnet.to_string();
            return Err(Error::Overlap { subnet, other: format!("network {name}") });
        }
        match of_addresses(netlink)?.iter().find(|taken| taken.overlaps(&subnet)) {
            Some(other) => {
                let (subnet, other) = (subnet.to_string(), format!("{other} of this host"));
                Err(Error::Overlap { subnet, other })
            }
            None => Ok(subnet),
        }
    })
    .await
}

/// As [`pick_further`], of IPv6; one that nobody named is drawn.
///
/// # Errors
/// [`Error::Overlap`], for a wanted one and, which nobody will see, for one that was drawn.
pub(crate) async fn pick_six(
    wanted: Option<Ipv6Subnet>,
    kept: Vec<(Ipv6Subnet, String)>,
) -> Result<Ipv6Subnet> {
    blocking("pick a subnet", move || {
        let subnet = match wanted {
            Some(subnet) => subnet,
            None => Ipv6Subnet::unique_local(crate::network::random()?),
        };
        let overlaps = |other: String| Error::Overlap { subnet: subnet.to_string(), other };
        if let Some((_, name)) = kept.iter().find(|(kept, _)| kept.overlaps(&subnet)) {
            return Err(overlaps(format!("network {name}")));
        }
        let addresses = link::list_addresses6(&mut Netlink::open()?)?;
        let of = |a: &Address6| Ipv6Subnet::containing(a.address, a.prefix);
        match addresses.iter().filter_map(of).find(|taken| taken.overlaps(&subnet)) {
            Some(other) => Err(overlaps(format!("{other} of this host"))),
            None => Ok(subnet),
        }
    })
    .await
}

fn choose(candidates: &[Ipv4Subnet], taken: &[Ipv4Subnet]) -> Result<Ipv4Subnet> {
    choose_subnet(candidates, taken).ok_or_else(|| Error::NoFreeSubnet {
        candidates: candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    })
}

/// Of the host's addresses and routes, without the default route.
fn in_use(netlink: &mut Netlink) -> Result<Vec<Ipv4Subnet>> {
    let mut taken = of_addresses(netlink)?;
    taken.extend(link::list_route_destinations(netlink)?);
    Ok(taken)
}

fn of_addresses(netlink: &mut Netlink) -> Result<Vec<Ipv4Subnet>> {
    let addresses = link::list_addresses(netlink)?;
    Ok(addresses.iter().filter_map(|a| Ipv4Subnet::containing(a.address, a.prefix)).collect())
}

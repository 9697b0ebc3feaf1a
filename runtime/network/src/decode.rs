//! Kernel messages as plain values: links, addresses, routes, qdiscs.
//!
//! Pure over bytes. Reads only the few attributes that are used here and passes
//! over all others, so that a newer kernel's additions cannot make it fail.
//! Layouts: `linux/if_link.h`, `if_addr.h`, `rtnetlink.h`, `pkt_sched.h`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::counters::LinkCounters;
use crate::subnet::Ipv4Subnet;

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_TABLE: u16 = 15;
const RT_TABLE_LOCAL: u32 = 255;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
pub(crate) const TCA_TBF_PARMS: u16 = 1;
pub(crate) const TCA_TBF_RATE64: u16 = 4;
pub(crate) const TCA_TBF_BURST: u16 = 6;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The kernel's packet scheduler counts time in 64 ns ticks.
pub(crate) const NS_PER_TICK: u64 = 64;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A run of netlink attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes(bytes)
    }

    /// The first of its kind.
    pub fn get(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while rest.len() >= 4 {
            let length = usize::from(u16_at(rest, 0));
            let value = rest.get(4..length)?;
            // The two upper bits say "nested" and "network byte order".
            if u16_at(rest, 2) & 0x3fff == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }

    pub fn nested(&self, wanted: u16) -> Option<Attributes<'a>> {
        self.get(wanted).map(Attributes)
    }

    pub fn text(&self, wanted: u16) -> Option<String> {
        let value = self.get(wanted)?;
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    pub fn u32(&self, wanted: u16) -> Option<u32> {
        self.get(wanted).filter(|v| v.len() >= 4).map(|v| u32_at(v, 0))
    }

    pub fn address(&self, wanted: u16) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.get(wanted)?.try_into().ok()?;
        Some(octets.into())
    }

    pub fn address6(&self, wanted: u16) -> Option<Ipv6Addr> {
        let octets: [u8; 16] = self.get(wanted)?.try_into().ok()?;
        Some(octets.into())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, `ifb`; `None` for a physical interface and `lo`.
    pub kind: Option<String>,
    pub master: Option<u32>,
    pub alias: Option<String>,
    /// As the link's own side counts.
    pub counters: LinkCounters,
}

/// `struct ifinfomsg` (16 bytes) and attributes.
pub(crate) fn link(payload: &[u8]) -> Option<Link> {
    let attributes = Attributes(payload.get(16..)?);
    Some(Link {
        index: u32_at(payload, 4),
        name: attributes.text(IFLA_IFNAME)?,
        kind: attributes.nested(IFLA_LINKINFO).and_then(|i| i.text(IFLA_INFO_KIND)),
        master: attributes.u32(IFLA_MASTER),
        alias: attributes.text(IFLA_IFALIAS),
        counters: attributes.get(IFLA_STATS64).and_then(stats64).unwrap_or_default(),
    })
}

/// The first eight fields of `struct rtnl_link_stats64`.
fn stats64(bytes: &[u8]) -> Option<LinkCounters> {
    let bytes = bytes.get(..64)?;
    let field = |n: usize| u64_at(bytes, n * 8);
    Some(LinkCounters {
        rx_packets: field(0),
        tx_packets: field(1),
        rx_bytes: field(2),
        tx_bytes: field(3),
        rx_errors: field(4),
        tx_errors: field(5),
        rx_dropped: field(6),
        tx_dropped: field(7),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// `struct ifaddrmsg` (8 bytes) and attributes; IPv4 only.
pub(crate) fn address(payload: &[u8]) -> Option<Address> {
    let attributes = Attributes(payload.get(8..)?);
    // On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL is ours.
    let address = attributes.address(IFA_LOCAL).or_else(|| attributes.address(IFA_ADDRESS))?;
    (payload[0] == AF_INET).then(|| Address {
        index: u32_at(payload, 4),
        address,
        prefix: payload[1],
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address6 {
    pub index: u32,
    pub address: Ipv6Addr,
    pub prefix: u8,
}

/// As [`address`]; IPv6 only.
pub(crate) fn address6(payload: &[u8]) -> Option<Address6> {
    let attributes = Attributes(payload.get(8..)?);
    let address = attributes.address6(IFA_LOCAL).or_else(|| attributes.address6(IFA_ADDRESS))?;
    (payload[0] == AF_INET6).then(|| Address6 {
        index: u32_at(payload, 4),
        address,
        prefix: payload[1],
    })
}

/// `struct rtmsg` (12 bytes) and attributes: the destination of an IPv4 route.
/// `None` for the default route and for the local table, which repeats addresses.
pub(crate) fn route_destination(payload: &[u8]) -> Option<Ipv4Subnet> {
    let attributes = Attributes(payload.get(12..)?);
    let table = attributes.u32(RTA_TABLE).unwrap_or(u32::from(payload[4]));
    if payload[0] != AF_INET || table == RT_TABLE_LOCAL {
        return None;
    }
    Ipv4Subnet::containing(attributes.address(RTA_DST)?, payload[1])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Qdisc {
    pub index: u32,
    pub handle: u32,
    pub parent: u32,
    pub kind: String,
    pub tbf: Option<Tbf>,
    /// What stands in it.
    pub backlog_bytes: u32,
    /// `pfifo_fast` and `prio`: the band of each of a packet's 16 priorities, 0 goes first.
    pub bands: Option<[u8; 16]>,
}

/// A token bucket as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tbf {
    pub rate_bytes_per_s: u64,
    pub queue_bytes: u32,
    /// From the time that the kernel keeps; may be off by a tick's worth.
    pub burst_bytes: u64,
}

/// `struct tcmsg` (20 bytes) and attributes.
pub(crate) fn qdisc(payload: &[u8]) -> Option<Qdisc> {
    let attributes = Attributes(payload.get(20..)?);
    let kind = attributes.text(TCA_KIND)?;
    let tbf = (kind == "tbf").then(|| tbf(attributes.nested(TCA_OPTIONS)?)).flatten();
    let has_bands = ["pfifo_fast", "prio"].contains(&kind.as_str());
    // `struct tc_prio_qopt`: how many bands (4 bytes), then the map.
    let bands = || attributes.get(TCA_OPTIONS)?.get(4..20)?.try_into().ok();
    // `struct gnet_stats_queue`: packets, bytes, …
    let queue = attributes.nested(TCA_STATS2).and_then(|stats| stats.get(TCA_STATS_QUEUE));
    Some(Qdisc {
        index: u32_at(payload, 4),
        handle: u32_at(payload, 8),
        parent: u32_at(payload, 12),
        kind,
        tbf,
        backlog_bytes: queue.filter(|q| q.len() >= 8).map_or(0, |q| u32_at(q, 4)),
        bands: has_bands.then(bands).flatten(),
    })
}

/// `struct tc_tbf_qopt`: `tc_ratespec` rate and peak (12 bytes each), then
/// limit, buffer, mtu.
fn tbf(options: Attributes<'_>) -> Option<Tbf> {
    let parameters = options.get(TCA_TBF_PARMS).filter(|p| p.len() >= 36)?;
    let rate64 = options.get(TCA_TBF_RATE64).filter(|v| v.len() == 8).map(|v| u64_at(v, 0));
    let rate = rate64.unwrap_or(u64::from(u32_at(parameters, 8)));
    let burst_ns = u128::from(u32_at(parameters, 28)) * u128::from(NS_PER_TICK);
    Some(Tbf {
        rate_bytes_per_s: rate,
        queue_bytes: u32_at(parameters, 24),
        burst_bytes: (burst_ns * u128::from(rate)).div_ceil(1_000_000_000) as u64,
    })
}

/// Of a u32 filter whose first action is mirred, the interface it sends to:
/// `TCA_OPTIONS`, `TCA_U32_ACT`, action 1, `TCA_ACT_OPTIONS`,
/// `TCA_MIRRED_PARMS`, `struct tc_mirred.ifindex`.
pub(crate) fn redirect_target(payload: &[u8]) -> Option<u32> {
    let filter = Attributes(payload.get(20..)?);
    let action = filter.nested(TCA_OPTIONS)?.nested(TCA_U32_ACT)?.nested(1)?;
    let parameters = action.nested(TCA_ACT_OPTIONS)?.get(TCA_MIRRED_PARMS)?;
    (action.text(TCA_ACT_KIND)? == "mirred" && parameters.len() >= 28)
        .then(|| u32_at(parameters, 24))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_link_is_read_and_unknown_attributes_are_passed_over() {
        let mut payload = vec![0; 16];
        payload[4] = 9;
        payload.extend(attribute(999, b"unknown"));
        payload.extend(attribute(IFLA_IFNAME, b"veth0\0"));
        payload.extend(attribute(IFLA_MASTER, &3u32.to_ne_bytes()));
        payload.extend(attribute(IFLA_LINKINFO | 0x8000, &attribute(IFLA_INFO_KIND, b"veth\0")));
        let stats: Vec<u8> = (1..=24u64).flat_map(u64::to_ne_bytes).collect();
        payload.extend(attribute(IFLA_STATS64, &stats));
        let link = link(&payload).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.master), (9, "veth0", Some(3)));
        assert_eq!((link.kind.as_deref(), link.alias), (Some("veth"), None));
        assert_eq!((link.counters.rx_packets, link.counters.tx_dropped), (1, 8));
    }

    #[test]
    fn routes_of_the_local_table_and_the_default_route_take_no_subnet() {
        let route = |table: u8, prefix: u8, destination: Option<[u8; 4]>| {
            let mut payload = vec![AF_INET, prefix, 0, 0, table, 0, 0, 0, 0, 0, 0, 0];
            if let Some(d) = destination {
                payload.extend(attribute(RTA_DST, &d));
            }
            route_destination(&payload).map(|s| s.to_string())
        };
        assert_eq!(route(254, 16, Some([10, 1, 0, 0])).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(route(255, 32, Some([10, 1, 0, 1])), None);
        assert_eq!(route(254, 0, None), None);
    }

    #[test]
    fn an_address_is_read_by_the_reader_of_its_family_alone() {
        let six: Ipv6Addr = "fd00:5::1".parse().unwrap();
        let mut payload = vec![AF_INET6, 64, 0, 0, 7, 0, 0, 0];
        payload.extend(attribute(IFA_ADDRESS, &six.octets()));
        assert_eq!(address6(&payload), Some(Address6 { index: 7, address: six, prefix: 64 }));
        assert_eq!(address(&payload), None);
    }

    #[test]
    fn a_rate_beyond_32_bits_is_read_from_its_own_attribute() {
        let mut parameters = [0u8; 36];
        parameters[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        parameters[24..28].copy_from_slice(&77u32.to_ne_bytes());
        // 1 ms
        parameters[28..32].copy_from_slice(&15_625u32.to_ne_bytes());
        let mut options = attribute(TCA_TBF_PARMS, &parameters);
        options.extend(attribute(TCA_TBF_RATE64, &10_000_000_000u64.to_ne_bytes()));
        let mut payload = vec![0; 20];
        payload.extend(attribute(TCA_KIND, b"tbf\0"));
        payload.extend(attribute(TCA_OPTIONS, &options));
        assert_eq!(
            qdisc(&payload).unwrap().tbf,
            Some(Tbf {
                rate_bytes_per_s: 10_000_000_000,
                queue_bytes: 77,
                burst_bytes: 10_000_000,
            })
        );
    }

    #[test]
    fn of_a_queue_with_classes_the_map_and_what_stands_are_read() {
        let of = |kind: &[u8], map: &[u8]| {
            let options = [&3u32.to_ne_bytes()[..], map].concat();
            let stats: Vec<u8> =
                [2u32, 3028, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
            let mut payload = vec![0; 20];
            payload.extend(attribute(TCA_KIND, kind));
            payload.extend(attribute(TCA_OPTIONS, &options));
            payload.extend(attribute(TCA_STATS2, &attribute(TCA_STATS_QUEUE, &stats)));
            let qdisc = qdisc(&payload).unwrap();
            (qdisc.bands, qdisc.backlog_bytes)
        };
        let map = [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        assert_eq!(of(b"pfifo_fast\0", &map), (Some(map), 3028));
        assert_eq!(of(b"prio\0", &map), (Some(map), 3028));
        assert_eq!(of(b"prio\0", &map[..15]), (None, 3028));
        assert_eq!(of(b"tbf\0", &map), (None, 3028));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = link(&bytes);
            let _ = address(&bytes);
            let _ = address6(&bytes);
            let _ = route_destination(&bytes);
            let _ = qdisc(&bytes);
            let _ = redirect_target(&bytes);
        }
    }
}

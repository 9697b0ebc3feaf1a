//! The containers' networks: a bridge each, a veth pair for each container on it, IPv4
//! addresses (and IPv6 where that is asked for), masquerade, bandwidth both ways, published ports, names, link counters.
//!
//! Owns everything on the host that carries its alias (`tenantry <bridge> …`),
//! an nftables table for each network, and `ip_forward` while it is open. It touches no rule,
//! link or qdisc of anybody else, knows nothing of containers beyond an id and
//! a process whose namespace gets `eth0`, and never names cgroups or eBPF.
//! Called by the container engine.
//!
//! ```text
//!   container's namespace │ host
//!        lo   eth0 ───────┼─ veth… ─┬─ bridge ── host's routes, masquerade
//!                         │         │
//!      into the container │  root qdisc: TBF
//!    out of the container │  ingress qdisc → redirect → ifb… (root qdisc: TBF)
//! ```

mod bandwidth;
mod bridge;
mod config;
mod conntrack;
mod counters;
mod decode;
mod endpoint;
mod error;
mod firewall;
mod forwarding;
mod ipam;
mod ipam6;
mod link;
mod names;
mod namespace;
mod netlink;
mod network;
mod networks;
mod ports;
mod qdisc;
mod rate;
mod rules;
mod standing;
mod subnet;
mod subnet6;
mod survey;

pub use bandwidth::{Applied, BANDWIDTH_MAJORS, Bandwidth, set_bandwidth_without_network};
pub use config::{NetworkConfig, Shape, Six};
pub use counters::LinkCounters;
pub use endpoint::{Endpoint, EndpointSix, Place};
pub use error::{Error, Result};
pub use ipam::Ipam;
pub use names::{Link, Named, Outcome, RESOLVER};
pub use network::{Asked, Network};
pub use networks::{
    Attachment, CreateNetwork, Driver, NetworkAction, NetworkEvent, NetworkRecord, Networks,
    NetworksConfig, SixWish, kept_subnets,
};
pub use ports::{Port, PortWish, Protocol, Published};
pub use rate::{MAX_BITS_PER_S, MIN_BITS_PER_S, RateError, parse_rate, render_rate};
pub use subnet::{Ipv4Subnet, SubnetError, choose_subnet, default_candidates};
pub use subnet6::{Ipv6Subnet, Subnet6Error};
pub use survey::pick_subnet;

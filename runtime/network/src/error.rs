//! Everything that can go wrong with the network, in one enum.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::ports::Port;
use crate::subnet::Ipv4Subnet;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Messages name the operation, the object and the errno; the errno's own text
/// is in the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request, or the socket failed.
    #[error("{operation} {object}: errno {errno}{}", kernel_says(.hint), errno = .source.raw_os_error().unwrap_or(0))]
    Netlink {
        operation: &'static str,
        object: String,
        /// The kernel's extended acknowledgement, where it gave one.
        hint: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("{operation} {object}: errno {errno}", errno = .source.raw_os_error().unwrap_or(0))]
    Io {
        operation: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    /// `nft` is missing, or refused our table; `detail` is what it printed.
    #[error("{operation} nftables table {table:?}: {detail}")]
    Firewall { operation: &'static str, table: String, detail: String },
    /// A link of our bridge's name is not our bridge. It is left alone: choose
    /// another name, or remove it.
    #[error("link {name:?} exists and is not this network's bridge: {found}; wanted {wanted}")]
    ForeignLink { name: String, found: String, wanted: String },
    /// It is left alone.
    #[error("{interface} has a queueing discipline of somebody else's: {kind}; remove it first")]
    ForeignQdisc { interface: String, kind: String },
    #[error("{field} = {value}: allowed is {allowed}")]
    Invalid { field: &'static str, value: String, allowed: String },
    #[error("no free address in {subnet}: all {capacity} are taken")]
    Exhausted { subnet: String, capacity: u64 },
    #[error("address {address} is taken")]
    AddressTaken { address: IpAddr },
    #[error("address {address} is not one a container in {subnet} can have")]
    AddressOutside { address: IpAddr, subnet: String },
    #[error("network {network} has no IPv6, and {wanted} needs it")]
    NoIpv6 { network: String, wanted: String },
    /// None of the candidate subnets is free on this host; the configuration
    /// must name one.
    #[error("every candidate subnet ({candidates}) overlaps an address or route of this host")]
    NoFreeSubnet { candidates: String },
    /// By another container, or another wish of this one.
    #[error("Bind for {at} failed: port is already allocated")]
    PortTaken { at: SocketAddr },
    /// Port 0: any was wanted.
    #[error("failed to bind host port {at} for {inside}: {}", bind_says(.source))]
    Bind {
        at: SocketAddr,
        inside: Port,
        #[source]
        source: io::Error,
    },
    /// It is being removed.
    #[error("the network of {subnet} is being removed")]
    Closed { subnet: Ipv4Subnet },
    /// Docker's words: people and programs look for them.
    #[error("network {reference} not found")]
    NotFound { reference: String },
    #[error("network {reference} is ambiguous: {matches} ids begin so")]
    Ambiguous { reference: String, matches: usize },
    #[error("network with name {name} already exists")]
    NameTaken { name: String },
    /// Containers that run are on it; they must leave first.
    #[error("error while removing network: network {name} id {id} has active endpoints")]
    InUse { name: String, id: String },
    #[error("{name} is a pre-defined network and cannot be {verb}")]
    Predefined { name: String, verb: &'static str },
    #[error("Pool overlaps with other one on this address space: {subnet} and {other}")]
    Overlap { subnet: String, other: String },
    #[error("there are {max} networks of users, as many as there may be; remove one")]
    TooMany { max: usize },
    /// It is known, but could not be made again on this host when the agent started.
    #[error("network {name} is not up: {why}")]
    NotUp { name: String, why: String },
    /// Giving it an `eth0` would reconfigure the host.
    #[error("process {pid} is in the host's network namespace")]
    HostNamespace { pid: u32 },
    /// The endpoint's host interface does not exist: its namespace is gone.
    #[error("link {0:?} is gone")]
    Gone(String),
    #[error("{actuator}: wrote {written}, read back {read_back}")]
    Mismatch { actuator: String, written: String, read_back: String },
    /// The worker thread ended without an answer: it panicked.
    #[error("{0}: the worker ended without an answer")]
    Worker(&'static str),
}

/// In the words that people look for.
fn bind_says(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
        _ => source.to_string(),
    }
}

fn kernel_says(hint: &Option<String>) -> String {
    hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
}

impl Error {
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Netlink { source, .. } | Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn io(
        operation: &'static str,
        object: impl Into<String>,
        e: impl Into<io::Error>,
    ) -> Error {
        Error::Io { operation, object: object.into(), source: e.into() }
    }
}

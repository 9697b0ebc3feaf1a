//! Published ports: which of the host's belong to which container.
//!
//! Owns the reservation. A port of the host is held by a socket that is bound and never
//! listens: who has it already is found out by the kernel, and nobody else gets it while the
//! container has it. What arrives there never comes to the socket: the table of the
//! container's network ([`crate::rules`]) sends it on before.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Mutex;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::endpoint::lock;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// A container's own port, `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.as_str())
    }
}

impl FromStr for Port {
    type Err = &'static str;

    /// `80`, `80/tcp`, `53/udp`; the error is what is allowed.
    fn from_str(text: &str) -> Result<Port, &'static str> {
        const ALLOWED: &str = "1 to 65535, then /tcp, /udp or nothing";
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(ALLOWED),
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Port { number, protocol }),
            _ => Err(ALLOWED),
        }
    }
}

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortWish {
    pub port: Port,
    /// Of the host; `None`: all of its addresses, also those of IPv6 where the container has
    /// such an address itself.
    #[serde(default)]
    pub host_address: Option<IpAddr>,
    /// The first free one of these, ends included; `None`: any that the kernel has free.
    #[serde(default)]
    pub host_ports: Option<(u16, u16)>,
}

/// What a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub port: Port,
    /// 0.0.0.0 and `::`: all of the host's of that family.
    pub host_address: IpAddr,
    pub host_port: u16,
}

impl Published {
    /// Whether one socket cannot have both.
    fn meets(&self, other: &Published) -> bool {
        self.port.protocol == other.port.protocol
            && self.host_port == other.host_port
            && self.host_address.is_ipv4() == other.host_address.is_ipv4()
            && (self.host_address == other.host_address
                || self.host_address.is_unspecified()
                || other.host_address.is_unspecified())
    }

    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.host_address, self.host_port)
    }
}

/// How often any free port is drawn.
const ANY_ATTEMPTS: usize = 16;

/// All ports of the host that containers have. A socket is missing where an agent that
/// restarted found the port in other hands.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<HashMap<Published, Option<OwnedFd>>>);

impl Reservations {
    /// All of them or none. `has_six`: the container has an IPv6 address.
    ///
    /// # Errors
    /// [`Error::PortTaken`] by another container, [`Error::Bind`] with what the kernel says.
    pub fn reserve(&self, wishes: &[PortWish], has_six: bool) -> Result<Vec<Published>> {
        let mut made = Vec::new();
        for wish in wishes {
            match self.reserve_one(wish, has_six) {
                Ok(published) => made.extend(published),
                Err(error) => {
                    self.release(&made);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// The same port at each address.
    fn reserve_one(&self, wish: &PortWish, has_six: bool) -> Result<Vec<Published>> {
        let addresses = match wish.host_address {
            Some(address) => vec![address],
            None if has_six => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::UNSPECIFIED.into()],
        };
        let candidates: Vec<u16> = match wish.host_ports {
            Some((first, last)) => (first..=last).collect(),
            // What the kernel draws for one family may be somebody's in the other.
            None => vec![0; ANY_ATTEMPTS],
        };
        let mut refused = None;
        for host_port in candidates {
            match self.take_all(wish.port, &addresses, host_port) {
                Ok(published) => return Ok(published),
                Err(error) => refused = Some(error),
            }
        }
        let at = SocketAddr::new(addresses[0], 0);
        Err(refused.unwrap_or(Error::PortTaken { at }))
    }

    fn take_all(&self, port: Port, addresses: &[IpAddr], first: u16) -> Result<Vec<Published>> {
        let (mut made, mut host_port) = (Vec::new(), first);
        for host_address in addresses {
            match self.take(Published { port, host_address: *host_address, host_port }) {
                Ok(published) => {
                    host_port = published.host_port;
                    made.push(published);
                }
                Err(error) => {
                    self.release(&made);
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    fn take(&self, mut wanted: Published) -> Result<Published> {
        let mut held = lock(&self.0);
        let at = wanted.at();
        if at.port() != 0 && held.keys().any(|other| other.meets(&wanted)) {
            return Err(Error::PortTaken { at });
        }
        let inside = wanted.port;
        let socket = bind(&mut wanted).map_err(|source| Error::Bind { at, inside, source })?;
        held.insert(wanted, Some(socket));
        Ok(wanted)
    }

    pub fn release(&self, published: &[Published]) {
        let mut held = lock(&self.0);
        for one in published {
            held.remove(one);
        }
    }

    /// After a restart of the agent. Whoever has the port now keeps it for what begins on the
    /// host itself, and the container for the rest: that is told.
    pub fn adopt(&self, published: &[Published]) {
        for one in published {
            let mut wanted = *one;
            let socket = bind(&mut wanted)
                .inspect_err(|error| {
                    tracing::warn!(port = one.host_port, %error, "published port is in use, too");
                })
                .ok();
            lock(&self.0).insert(*one, socket);
        }
    }
}

/// Port 0 becomes what the kernel chose.
fn bind(wanted: &mut Published) -> io::Result<OwnedFd> {
    let kind = match wanted.port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC;
    let family = match wanted.host_address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if wanted.host_address.is_ipv6() {
        // The other family's addresses have a socket of their own.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &wanted.at())?;
    if wanted.host_port == 0 {
        let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        wanted.host_port = bound.port();
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn wish(address: IpAddr, ports: Option<(u16, u16)>) -> PortWish {
        let port = "80".parse().unwrap();
        PortWish { port, host_address: Some(address), host_ports: ports }
    }

    #[test]
    fn a_port_is_a_number_and_a_protocol() {
        for (text, shown) in [("80", "80/tcp"), ("80/TCP", "80/tcp"), ("53/udp", "53/udp")] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), shown);
        }
        for wrong in ["", "0", "65536", "80/sctp", "80/", "x/tcp", "-1"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_held_port_is_nobody_elses_and_free_after_its_release() {
        let all = Reservations::default();
        let made = all.reserve(&[wish(HOME, None)], false).unwrap();
        let port = made[0].host_port;
        assert!(port > 0);
        let taken = all.reserve(&[wish(HOME, Some((port, port)))], false).unwrap_err();
        let words = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
        assert_eq!(taken.to_string(), words);
        assert!(
            all.reserve(&[wish(Ipv4Addr::UNSPECIFIED.into(), Some((port, port)))], false).is_err()
        );
        // The kernel says so to everybody else.
        let error = std::net::TcpListener::bind((HOME, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        all.release(&made);
        std::net::TcpListener::bind((HOME, port)).unwrap();
    }

    #[test]
    fn what_a_stranger_has_is_refused_and_a_range_goes_on_to_the_next() {
        let all = Reservations::default();
        let stranger = std::net::TcpListener::bind((HOME, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        let refused = all.reserve(&[wish(HOME, Some((port, port)))], false).unwrap_err();
        assert!(matches!(refused, Error::Bind { .. }), "{refused}");
        let many =
            all.reserve(&[wish(HOME, Some((port, port.saturating_add(50))))], false).unwrap();
        assert_ne!(many[0].host_port, port);
        // All or none: the first of two is free again when the second is refused.
        let free = all.reserve(&[wish(HOME, None)], false).unwrap();
        let number = free[0].host_port;
        all.release(&free);
        let both = [wish(HOME, Some((number, number))), wish(HOME, Some((port, port)))];
        assert!(all.reserve(&both, false).is_err());
        std::net::TcpListener::bind((HOME, number)).unwrap();
    }

    #[test]
    fn a_container_with_ipv6_has_the_same_port_of_both_families() {
        let all = Reservations::default();
        let port = "80".parse().unwrap();
        let anywhere = PortWish { port, host_address: None, host_ports: None };
        let made = all.reserve(std::slice::from_ref(&anywhere), true).unwrap();
        let shown: Vec<String> = made.iter().map(|one| one.at().to_string()).collect();
        let number = made[0].host_port;
        assert_eq!(shown, [format!("0.0.0.0:{number}"), format!("[::]:{number}")]);
        // What one has of one family the other may have of the other.
        all.release(&made);
        let six = PortWish {
            host_address: Some(Ipv6Addr::UNSPECIFIED.into()),
            host_ports: Some((number, number)),
            ..anywhere
        };
        all.reserve(std::slice::from_ref(&six), true).unwrap();
        let four = wish(Ipv4Addr::UNSPECIFIED.into(), Some((number, number)));
        all.reserve(&[four], false).unwrap();
        let taken = all.reserve(&[six], true).unwrap_err().to_string();
        assert_eq!(taken, format!("Bind for [::]:{number} failed: port is already allocated"));
    }
}

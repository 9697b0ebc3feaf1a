//! Streams of datagrams that the kernel remembers, and that must be forgotten where a port
//! gets another meaning.
//!
//! Address translation asks the table at a stream's first packet alone. A stream of datagrams
//! has no end that the kernel could see: one that goes on while its container restarts would
//! keep to what it was told at first, without end. Connections (TCP) end with the container.
//!
//! Owns the conversation with the kernel (ctnetlink). All entries are read and those of our
//! ports chosen here: the kernels that we know do not agree on what may be chosen there. It
//! touches no entry but of a published port.
//!
//! Layouts: `linux/netfilter/nfnetlink_conntrack.h`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::decode::{Attributes, u32_at};
use crate::endpoint::Target;
use crate::error::{Error, Result};
use crate::netlink::{HEADER_BYTES, split_message};
use crate::ports::{Protocol, Published};

/// `NFNL_SUBSYS_CTNETLINK << 8`, and with it the two requests.
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
/// `struct nfgenmsg`: family, version, resource.
const GENERIC_BYTES: usize = 4;
/// In a question for a list: of all families.
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
const UDP: u8 = 17;
const BUFFER_BYTES: usize = 64 * 1024;
/// The answer is queued before `send` returns; this bounds only a kernel's fault.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one port's streams: what is beyond waits for its own end.
const MOST_FORGOTTEN: usize = 100_000;

/// One stream of datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stream {
    family: u8,
    /// Where the first packet wanted to go.
    to: SocketAddr,
    /// Where it was led.
    led_to: SocketAddr,
    /// What names it to the kernel, as the kernel said it: attributes with their headers.
    key: Vec<u8>,
}

/// Where a published port leads from now on, or led until now.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// What goes to these addresses of the host is to be led to the container.
    Publish {
        local: &'a [IpAddr],
    },
    Unpublish,
}

/// Blocking; returns how many streams were forgotten. Nothing is done where no datagrams are
/// published.
///
/// # Errors
/// [`Error::Io`]: this kernel has no ctnetlink.
pub(crate) fn forget(
    change: Change<'_>,
    container: Target,
    published: &[Published],
) -> Result<usize> {
    let of_datagrams = |one: &&Published| one.port.protocol == Protocol::Udp;
    let published: Vec<Published> = published.iter().filter(of_datagrams).copied().collect();
    if published.is_empty() {
        return Ok(0);
    }
    let failed = |e: io::Error| Error::io("forget streams to", container.four.to_string(), e);
    let mut kernel = Kernel::open().map_err(failed)?;
    let stale =
        |stream: &Stream| published.iter().any(|one| is_stale(stream, change, container, one));
    let streams = kernel.list(stale).map_err(failed)?;
    for stream in &streams {
        kernel.delete(stream).map_err(failed)?;
    }
    Ok(streams.len())
}

fn is_stale(stream: &Stream, change: Change<'_>, container: Target, one: &Published) -> bool {
    let to = stream.to.ip();
    let own = match to {
        IpAddr::V4(_) => Some(IpAddr::V4(container.four)),
        IpAddr::V6(_) => container.six.map(IpAddr::V6),
    };
    let leads_there = own.is_some_and(|own| stream.led_to == SocketAddr::new(own, one.port.number));
    let is_for_it = stream.to.port() == one.host_port
        && to.is_ipv4() == one.host_address.is_ipv4()
        && (one.host_address.is_unspecified() || one.host_address == to);
    match change {
        // A stream to somebody else's port of the same number only passes through.
        Change::Publish { local } => {
            is_for_it && !leads_there && (local.contains(&to) || to.is_loopback())
        }
        Change::Unpublish => is_for_it && leads_there,
    }
}

struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// In the network namespace of the calling thread.
    fn open() -> io::Result<Kernel> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Kernel { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    fn list(&mut self, wanted: impl Fn(&Stream) -> bool) -> io::Result<Vec<Stream>> {
        let mut found = Vec::new();
        self.exchange(GET, AF_UNSPEC, NLM_F_DUMP, &[], &mut |payload| {
            if found.len() < MOST_FORGOTTEN {
                found.extend(decode(payload).filter(|stream| wanted(stream)));
            }
        })?;
        Ok(found)
    }

    /// One that has ended meanwhile is as good.
    fn delete(&mut self, stream: &Stream) -> io::Result<()> {
        match self.exchange(DELETE, stream.family, NLM_F_ACK, &stream.key, &mut |_| {}) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    fn exchange(
        &mut self,
        kind: u16,
        family: u8,
        flags: u16,
        attributes: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = render(kind, family, NLM_F_REQUEST | flags, self.sequence, attributes);
        self.socket.send(&request, 0)?;
        loop {
            let received = self.receive()?;
            let mut rest = &self.buffer[..received];
            while let Some((header, payload, next)) = split_message(rest) {
                rest = next;
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = payload.get(..4).map_or(0, |b| u32_at(b, 0) as i32);
                        return match code {
                            0.. => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => visit(payload),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

fn render(kind: u16, family: u8, flags: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + GENERIC_BYTES + attributes.len();
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // Port 0: the kernel knows from whom it is.
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// `None` for what is no stream of datagrams.
fn decode(payload: &[u8]) -> Option<Stream> {
    let family = *payload.first()?;
    let (source, destination) = match family {
        AF_INET => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        AF_INET6 => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
        _ => return None,
    };
    let attributes = Attributes::new(payload.get(GENERIC_BYTES..)?);
    let original = attributes.get(CTA_TUPLE_ORIG)?;
    let to = end(original, destination, CTA_PROTO_DST_PORT)?;
    let led_to = end(attributes.get(CTA_TUPLE_REPLY)?, source, CTA_PROTO_SRC_PORT)?;
    let mut key = Vec::new();
    push(&mut key, CTA_TUPLE_ORIG | NLA_F_NESTED, original);
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = attributes.get(kind) {
            push(&mut key, kind, value);
        }
    }
    Some(Stream { family, to, led_to, key })
}

/// One end of one direction.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddr> {
    let tuple = Attributes::new(tuple);
    let protocol = tuple.nested(CTA_TUPLE_PROTO)?;
    if protocol.get(CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = u16::from_be_bytes(protocol.get(port)?.try_into().ok()?);
    let ends = tuple.nested(CTA_TUPLE_IP)?;
    let four = ends.address(address).map(IpAddr::V4);
    let address = four.or_else(|| ends.address6(address).map(IpAddr::V6))?;
    Some(SocketAddr::new(address, port))
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
    const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

    const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 5, 0, 0, 0, 0, 0, 2);
    const TARGET: Target = Target { four: CONTAINER, six: Some(SIX) };

    fn nested(kind: u16, parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut inner = Vec::new();
        parts.iter().for_each(|(kind, value)| push(&mut inner, *kind, value));
        let mut bytes = Vec::new();
        push(&mut bytes, kind | NLA_F_NESTED, &inner);
        bytes
    }

    fn tuple(kind: u16, protocol: u8, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
        let ends = [from, to].map(|end| end.ip().octets());
        let ports = [from, to].map(|end| end.port().to_be_bytes());
        let ip = nested(CTA_TUPLE_IP, &[(CTA_IP_V4_SRC, &ends[0]), (CTA_IP_V4_DST, &ends[1])]);
        let numbers: [(u16, &[u8]); 3] = [
            (CTA_PROTO_NUM, &[protocol]),
            (CTA_PROTO_SRC_PORT, &ports[0]),
            (CTA_PROTO_DST_PORT, &ports[1]),
        ];
        let inner = [ip, nested(CTA_TUPLE_PROTO, &numbers)].concat();
        let mut bytes = Vec::new();
        push(&mut bytes, kind | NLA_F_NESTED, &inner);
        bytes
    }

    /// From the client to `to`, led to `led_to`, as the kernel shows it.
    fn shown(protocol: u8, to: SocketAddrV4, led_to: SocketAddrV4) -> Vec<u8> {
        let client = SocketAddrV4::new(CLIENT, 40_000);
        let mut bytes = vec![AF_INET, 0, 0, 0];
        bytes.extend(tuple(CTA_TUPLE_ORIG, protocol, client, to));
        bytes.extend(tuple(CTA_TUPLE_REPLY, protocol, led_to, client));
        // What is not looked at, then the id.
        push(&mut bytes, 3, &[0; 4]);
        push(&mut bytes, CTA_ID, &[1, 2, 3, 4]);
        bytes
    }

    fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(address, port)
    }

    #[test]
    fn a_stream_is_read_with_what_names_it() {
        let bytes = shown(UDP, at(HOST, 8053), at(CONTAINER, 53));
        let stream = decode(&bytes).unwrap();
        assert_eq!(stream.to, at(HOST, 8053).into());
        assert_eq!(stream.led_to, at(CONTAINER, 53).into());
        let original = tuple(CTA_TUPLE_ORIG, UDP, at(CLIENT, 40_000), at(HOST, 8053));
        let mut key = original;
        push(&mut key, CTA_ID, &[1, 2, 3, 4]);
        assert_eq!(stream.key, key);
        assert_eq!(decode(&shown(6, at(HOST, 80), at(CONTAINER, 80))), None, "TCP");
        for length in 0..bytes.len() {
            let _ = decode(&bytes[..length]);
        }
    }

    #[test]
    fn a_request_has_its_length_its_kind_and_its_number() {
        let bytes = render(DELETE, AF_INET, NLM_F_REQUEST | NLM_F_ACK, 7, &[9; 8]);
        assert_eq!(bytes.len(), 28);
        let (header, payload, rest) = split_message(&bytes).unwrap();
        assert_eq!((header.kind, header.sequence), (0x102, 7));
        assert_eq!((payload, rest.len()), (&[2, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9][..], 0));
    }

    #[test]
    fn forgotten_is_what_leads_elsewhere_than_the_port_now_does() {
        let publish = Change::Publish { local: &[HOST.into()] };
        let check = |change: Change<'_>, address: Ipv4Addr, to, led_to, expected: bool| {
            let port = "53/udp".parse().unwrap();
            let one = Published { port, host_address: address.into(), host_port: 8053 };
            let stream = decode(&shown(UDP, to, led_to)).unwrap();
            let words = format!("{change:?} {address} {stream:?}");
            assert_eq!(is_stale(&stream, change, TARGET, &one), expected, "{words}");
        };
        let any = Ipv4Addr::UNSPECIFIED;
        let former = Ipv4Addr::new(10, 9, 0, 9);
        // It went to the host itself, or to who had the port before.
        check(publish, any, at(HOST, 8053), at(HOST, 8053), true);
        check(publish, any, at(HOST, 8053), at(former, 53), true);
        check(publish, any, at(Ipv4Addr::LOCALHOST, 8053), at(Ipv4Addr::LOCALHOST, 8053), true);
        // It is right already; another port; another host's port; another address of ours.
        check(publish, any, at(HOST, 8053), at(CONTAINER, 53), false);
        check(publish, any, at(HOST, 8054), at(HOST, 8054), false);
        check(publish, any, at(CLIENT, 8053), at(CLIENT, 8053), false);
        check(publish, Ipv4Addr::LOCALHOST, at(HOST, 8053), at(HOST, 8053), false);
        check(Change::Unpublish, any, at(HOST, 8053), at(CONTAINER, 53), true);
        check(Change::Unpublish, any, at(HOST, 8053), at(former, 53), false);
        check(Change::Unpublish, any, at(HOST, 8053), at(CONTAINER, 54), false);
    }

    #[test]
    fn each_family_has_its_own_streams() {
        let (home, former) = (Ipv6Addr::new(0xfd00, 5, 0, 0, 0, 0, 0, 1), "fd00:5::9");
        let six = |kind: u16, ends: [(u16, Ipv6Addr); 2]| {
            let octets = ends.map(|(_, address)| address.octets());
            let parts: [(u16, &[u8]); 2] = [(ends[0].0, &octets[0]), (ends[1].0, &octets[1])];
            let numbers: [(u16, &[u8]); 3] = [
                (CTA_PROTO_NUM, &[UDP]),
                (CTA_PROTO_SRC_PORT, &53u16.to_be_bytes()),
                (CTA_PROTO_DST_PORT, &8053u16.to_be_bytes()),
            ];
            let inner = [nested(CTA_TUPLE_IP, &parts), nested(CTA_TUPLE_PROTO, &numbers)].concat();
            let mut bytes = Vec::new();
            push(&mut bytes, kind | NLA_F_NESTED, &inner);
            bytes
        };
        let shown = |led_to: Ipv6Addr| {
            let mut bytes = vec![AF_INET6, 0, 0, 0];
            bytes.extend(six(CTA_TUPLE_ORIG, [(CTA_IP_V6_SRC, SIX), (CTA_IP_V6_DST, home)]));
            bytes.extend(six(CTA_TUPLE_REPLY, [(CTA_IP_V6_SRC, led_to), (CTA_IP_V6_DST, home)]));
            decode(&bytes).unwrap()
        };
        let (right, stale) = (shown(SIX), shown(former.parse().unwrap()));
        assert_eq!(right.to, SocketAddr::new(home.into(), 8053));
        assert_eq!((right.family, right.led_to), (AF_INET6, SocketAddr::new(SIX.into(), 53)));
        let local = [home.into()];
        let publish = Change::Publish { local: &local };
        let at = |host_address: IpAddr| {
            let port = "53/udp".parse().unwrap();
            Published { port, host_address, host_port: 8053 }
        };
        let anywhere = at(Ipv6Addr::UNSPECIFIED.into());
        assert!(is_stale(&stale, publish, TARGET, &anywhere));
        assert!(!is_stale(&right, publish, TARGET, &anywhere));
        assert!(is_stale(&right, Change::Unpublish, TARGET, &anywhere));
        let of_the_other = at(Ipv4Addr::UNSPECIFIED.into());
        assert!(!is_stale(&stale, publish, TARGET, &of_the_other));
    }
}

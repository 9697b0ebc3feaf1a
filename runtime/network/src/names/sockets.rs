//! Where a container asks: two sockets in its network namespace.
//!
//! They are at the resolver address that Docker's have and at port 53, so that no rule in the
//! container's namespace is needed and the meters see the questions as questions. Who wants
//! port 53 of all of its own addresses shares it where it says SO_REUSEADDR for datagrams, and
//! does not get it otherwise: a container that exposes port 53 has no server therefore
//! (`ContainerConfig::has_names`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::namespace::Namespace;

/// Docker's.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
const BACKLOG: i32 = 16;

/// Neither blocks.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub datagrams: UdpSocket,
    pub streams: TcpListener,
}

impl Sockets {
    /// The thread ends up in the container's namespace and must end after it.
    pub fn open(pid: u32) -> Result<Sockets> {
        Namespace::of_process(pid)?.enter()?;
        let failed = |e: io::Error| Error::io("open", format!("name server of process {pid}"), e);
        Sockets::bind(SocketAddrV4::new(RESOLVER, PORT)).map_err(failed)
    }

    pub fn bind(address: SocketAddrV4) -> io::Result<Sockets> {
        let open = |kind| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
            set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            io::Result::Ok(socket)
        };
        let datagrams = open(SocketType::DGRAM)?.into();
        let streams = open(SocketType::STREAM)?;
        rustix::net::listen(&streams, BACKLOG)?;
        Ok(Sockets { datagrams, streams: streams.into() })
    }
}

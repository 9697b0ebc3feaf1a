//! Names of hosts to addresses: by the host's list of hosts, then by its name servers.
//!
//! Not by the C library, which is linked statically: it would load the host's own modules for
//! names, and those may be of another version.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::TcpStream;
use tower::Service;

/// Reads the host's files at each question: what an administrator changes holds at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resolver;

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        // The port is put in by who connects.
        Box::pin(async move { Ok(lookup(name.as_str(), 0).await?.into_iter()) })
    }
}

async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, NetError> {
    let resolver = TokioResolver::builder_tokio()?.build()?;
    let found = resolver.lookup_ip(name).await?;
    Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// A connection to `HOST:PORT`, where an IPv6 address stands in brackets.
///
/// # Errors
/// A name that has no address, no port, and what the kernel answers at the last address.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return TcpStream::connect(address).await;
    }
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.ok_or(io::ErrorKind::InvalidInput)?;
    let addresses = lookup(host, port).await.map_err(io::Error::other)?;
    TcpStream::connect(addresses.as_slice()).await
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[tokio::test]
    async fn the_hosts_own_list_is_asked() {
        let name = Name::from_str("localhost").unwrap();
        let found: Vec<SocketAddr> = Resolver.call(name).await.unwrap().collect();
        assert!(!found.is_empty());
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    }

    #[tokio::test]
    async fn a_connection_is_made_by_address_and_by_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        connect(&format!("127.0.0.1:{port}")).await.unwrap();
        connect(&format!("localhost:{port}")).await.unwrap();
        assert_eq!(connect("localhost").await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

//! The way to a registry: straight, or through the proxy that the agent's environment names.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are read as curl reads them, in either
//! case. A proxy is asked for a tunnel (`CONNECT`), also to a registry without TLS: what passes is
//! between us and the registry. This host's own registries are never looked for elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::host::{host_of, is_loopback};
use crate::resolve::Resolver;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Error>> + Send>>;

#[derive(Debug, thiserror::Error)]
#[error("through the proxy {proxy}")]
struct Through {
    proxy: String,
    source: Error,
}

#[derive(Clone, Debug)]
pub(crate) struct Connector {
    direct: HttpConnector<Resolver>,
    proxies: Arc<Matcher>,
}

impl Connector {
    pub fn new(direct: HttpConnector<Resolver>, proxies: Arc<Matcher>) -> Connector {
        Connector { direct, proxies }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Error;
    type Future = Connecting;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Connecting {
        let is_own = to.authority().is_some_and(|to| is_loopback(host_of(to.as_str())));
        let Some(proxy) = self.proxies.intercept(&to).filter(|_| !is_own) else {
            let connecting = self.direct.call(to);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        // Without what stands before an `@`, which is a secret.
        let shown = proxy.uri().authority().map_or("", |to| to.as_str());
        let shown = shown.rsplit('@').next().unwrap_or_default().to_owned();
        let failed = move |source: Error| Error::from(Through { proxy: shown, source });
        if proxy.uri().scheme_str() != Some("http") {
            let error = failed("only a proxy that is named by http:// is spoken to".into());
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
        if let Some(value) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(value.clone());
        }
        let connecting = with_port(&to).map(|to| tunnel.call(to));
        Box::pin(async move {
            match connecting {
                Ok(connecting) => connecting.await.map_err(|error| failed(error.into())),
                Err(error) => Err(failed(error)),
            }
        })
    }
}

/// A tunnel leads to a port, which an address need not name.
fn with_port(to: &Uri) -> Result<Uri, Error> {
    let host = to.host().ok_or("no host")?;
    let default = if to.scheme_str() == Some("http") { 80 } else { 443 };
    let port = to.port_u16().unwrap_or(default);
    Ok(format!("{host}:{port}").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_leads_to_a_host_and_its_port() {
        let check = |to: &str, expected: (&str, u16)| {
            let found = with_port(&to.parse().unwrap()).unwrap();
            assert_eq!((found.host(), found.port_u16()), (Some(expected.0), Some(expected.1)));
        };
        check("https://registry.example.org/v2/", ("registry.example.org", 443));
        check("http://registry.example.org/v2/", ("registry.example.org", 80));
        check("http://registry.lan:5000/v2/x", ("registry.lan", 5000));
        check("https://[fd00::1]:5000/", ("[fd00::1]", 5000));
    }

    #[tokio::test]
    async fn this_hosts_own_registries_and_those_that_are_excepted_are_not_looked_for_elsewhere() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = format!("http://user:secret@{closed}");
        let matcher = Matcher::builder().all(proxy).no("excepted.invalid").build();
        let connector = Connector::new(HttpConnector::new_with_resolver(Resolver), matcher.into());
        for (to, proxied) in [
            (format!("https://{closed}/v2/"), false),
            (format!("http://{closed}/v2/"), false),
            ("https://registry.invalid/v2/".to_owned(), true),
            ("http://registry.invalid:5000/v2/".to_owned(), true),
            ("https://excepted.invalid/v2/".to_owned(), false),
        ] {
            let mut connector = connector.clone();
            let mut error = Some(connector.call(to.parse().unwrap()).await.unwrap_err());
            let text = error.take().unwrap().to_string();
            assert_eq!(text == format!("through the proxy {closed}"), proxied, "{to}: {text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

//! Where log records are sent: `http://HOST[:PORT]/PATH`. Pure.

use hyper::Uri;

/// As OTLP/HTTP has it for who does not choose one, of a collector on this host.
pub const ALLOWED: &str = "http://HOST[:PORT]/PATH, as http://127.0.0.1:4318/v1/logs; TLS is for a collector on this host to add";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `HOST:PORT`, to connect to; an IPv6 address stands in brackets.
    pub address: String,
    /// As the `Host` header has it.
    pub authority: String,
    pub path: String,
}

impl Endpoint {
    /// `None`: not of the form that [`ALLOWED`] tells.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let is_plain = uri.scheme_str() == Some("http") && !authority.as_str().contains('@');
        if !is_plain || authority.host().is_empty() {
            return None;
        }
        // A port that is no number is in the authority's text and is no port.
        let port = authority.port_u16();
        if port == Some(0) || (port.is_none() && authority.as_str() != authority.host()) {
            return None;
        }
        Some(Self {
            address: format!("{}:{}", authority.host(), port.unwrap_or(80)),
            authority: authority.to_string(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str)>) {
        let found = Endpoint::parse(text);
        let found = found.as_ref().map(|it| (it.address.as_str(), it.path.as_str()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn an_endpoint_is_plain_http() {
        check("http://127.0.0.1:4318/v1/logs", Some(("127.0.0.1:4318", "/v1/logs")));
        check("http://[::1]:4318/v1/logs", Some(("[::1]:4318", "/v1/logs")));
        check("http://collector/logs?tenant=a", Some(("collector:80", "/logs?tenant=a")));
        check("http://collector:4318", Some(("collector:4318", "/")));
        for text in [
            "",
            "127.0.0.1:4318",
            "https://127.0.0.1:4318/v1/logs",
            "http://",
            "http:///v1/logs",
            "http://a:b@c/",
            "http://c:99999/",
            "http://c:0/",
            "/v1/logs",
        ] {
            check(text, None);
        }
    }
}

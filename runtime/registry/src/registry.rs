//! One registry, as one caller knows it: its address, our credentials, and what came of them.
//!
//! Owns the loop around a request: a challenge is answered once, redirects are followed a few
//! times, and an answer that is no success becomes an error.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use rustls::RootCertStore;
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use url::Url;

use crate::auth::{Asker, Auth, Credentials};
use crate::challenge;
use crate::counts::{Counters, Counts, Limit};
use crate::error::{Error, Result, shown};
use crate::host::{Insecure, endpoint, may_be_plain};
use crate::retry::{self, Verdict};
use crate::tls;
use crate::transport::{self, Body, Transport};

pub(crate) const REDIRECTS: u32 = 5;
/// Of an answer that says what went wrong.
const FAILURE_BYTES: u64 = 64 << 10;
/// Of that, shown to people.
const DETAIL_CHARS: usize = 300;
const AGENT: &str = concat!("tenantry/", env!("CARGO_PKG_VERSION"));

/// What configuration says about registries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Beside this host's own, these may be spoken to without TLS.
    pub insecure: Vec<Insecure>,
    /// `HOST[:PORT]/*.crt` in it are authorities for one registry, as Docker has it.
    pub certs_dir: PathBuf,
    /// Token services that may be told any registry's password.
    pub token_hosts: Vec<String>,
    /// For an answer to begin, and for a stream to bring anything.
    pub patience: Duration,
    /// How often a request is tried at most.
    pub attempts: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            insecure: Vec::new(),
            certs_dir: "/etc/docker/certs.d".into(),
            token_hosts: Vec::new(),
            patience: Duration::from_secs(30),
            attempts: 5,
        }
    }
}

/// Makes [`Registry`]s.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    host_roots: OnceLock<RootCertStore>,
    proxies: Arc<Matcher>,
    counters: Arc<Counters>,
}

impl Client {
    /// Proxies are what this process' environment says.
    pub fn new(settings: Settings) -> Client {
        let proxies = Arc::new(Matcher::from_env());
        Client { settings, host_roots: OnceLock::new(), proxies, counters: Arc::default() }
    }

    /// What all its registries came to.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.settings.attempts
    }

    /// What is trusted for this name. Reads files.
    pub(crate) fn transport(&self, domain: &str) -> Result<Transport> {
        let roots = self.host_roots.get_or_init(tls::host_roots).clone();
        let tls = tls::config(roots, &self.settings.certs_dir, domain)?;
        let (proxies, counters) = (Arc::clone(&self.proxies), Arc::clone(&self.counters));
        Ok(Transport::new(tls, self.settings.patience, proxies, counters))
    }

    /// The registry that images name so: `docker.io`, `127.0.0.1:5000`. Connects to nobody yet.
    /// Called within a runtime, which its streams live in. Reads files.
    ///
    /// # Errors
    /// [`Error::Address`] and [`Error::Trust`].
    pub fn registry(&self, domain: &str, credentials: Option<Credentials>) -> Result<Registry> {
        let authority = endpoint(domain);
        let is_address = |url: &Url| url.host_str().is_some() && url.path() == "/";
        let https: Url = format!("https://{authority}/")
            .parse()
            .ok()
            .filter(|url| is_address(url) && !authority.contains(['/', '@', '?', '#']))
            .ok_or_else(|| Error::Address { registry: domain.to_owned() })?;
        Ok(Registry(Arc::new(Inner {
            authority: authority.to_owned(),
            https,
            transport: self.transport(domain)?,
            auth: Auth::new(credentials),
            settings: self.settings.clone(),
            base: OnceCell::new(),
            reached: AtomicBool::new(false),
            handle: Handle::current(),
        })))
    }
}

/// Cheap to clone; clones share connections and tokens.
#[derive(Clone, Debug)]
pub struct Registry(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    authority: String,
    https: Url,
    pub(crate) transport: Transport,
    auth: Auth,
    settings: Settings,
    /// Found out by the first request.
    base: OnceCell<Url>,
    reached: AtomicBool,
    pub(crate) handle: Handle,
}

/// A request that may have to be made several times.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What a token must allow.
    pub scopes: &'a [String],
    /// For errors.
    pub what: &'a str,
}

/// How often something was tried.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    failed: u32,
}

impl Registry {
    /// `HOST[:PORT]`, where it answers.
    pub fn authority(&self) -> &str {
        &self.0.authority
    }

    /// Whether the credentials are any good: asks for what anybody who is known may have.
    pub async fn login(&self) -> Result<()> {
        let url = self.url("").await?;
        let what = format!("login at {}", self.0.authority);
        let call = Call { method: Method::GET, url, headers: Vec::new(), scopes: &[], what: &what };
        self.persist(&call).await.map(drop)
    }

    /// Below `/v2/`.
    pub(crate) async fn url(&self, path: &str) -> Result<Url> {
        let base = self.0.base.get_or_try_init(|| self.find_base()).await?;
        base.join(&format!("/v2/{path}"))
            .map_err(|_| Error::Address { registry: format!("{}/v2/{path}", self.0.authority) })
    }

    /// TLS if it is spoken there; else plain HTTP, where that is allowed.
    async fn find_base(&self) -> Result<Url> {
        if !may_be_plain(&self.0.authority, &self.0.settings.insecure) {
            return Ok(self.0.https.clone());
        }
        let probe = self.0.https.join("/v2/").unwrap_or_else(|_| self.0.https.clone());
        let asked = request(Method::GET, &probe, transport::empty())?;
        match self.0.transport.send(asked, None).await {
            Ok(_) => Ok(self.0.https.clone()),
            // It speaks TLS, and is not who it should be: that is no reason to speak openly.
            Err(Error::Untrusted { address, source })
                if !matches!(source, rustls::Error::InvalidMessage(_)) =>
            {
                Err(Error::Untrusted { address, source })
            }
            Err(error @ Error::Late { .. }) => Err(error),
            Err(_) => {
                let mut plain = self.0.https.clone();
                let port = self.0.https.port();
                let changed = plain.set_scheme("http").and_then(|()| plain.set_port(port));
                changed.map_err(|()| Error::Address { registry: self.0.authority.clone() })?;
                Ok(plain)
            }
        }
    }

    fn is_own(&self, url: &Url) -> bool {
        self.0.base.get().is_some_and(|base| base.origin() == url.origin())
    }

    /// A call without a body, again and again as long as that may help.
    pub(crate) async fn persist(&self, call: &Call<'_>) -> Result<Response<Incoming>> {
        let mut tries = Tries::default();
        loop {
            match self.call(call, || Ok(transport::empty()), None).await {
                Ok(response) => return Ok(response),
                Err(error) => self.pause(&mut tries, error).await?,
            }
        }
    }

    /// Waits, if it is to be tried again; else gives the error back.
    pub(crate) async fn pause(&self, tries: &mut Tries, error: Error) -> Result<()> {
        tries.failed += 1;
        let reached = self.0.reached.load(Ordering::Relaxed);
        let counters = &self.0.transport.counters;
        match retry::decide(error, tries.failed, self.0.settings.attempts, reached) {
            Verdict::After(pause) => {
                counters.retried();
                tracing::debug!(registry = self.0.authority, failed = tries.failed, "trying again");
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Verdict::Exhausted(error) => {
                counters.reached(Limit::Attempts);
                Err(error)
            }
            Verdict::GiveUp(error) => {
                counters.failed(&error);
                Err(error)
            }
        }
    }

    /// One attempt; success is an answer of 2xx. `body` is asked for each time it is sent.
    pub(crate) async fn call(
        &self,
        call: &Call<'_>,
        body: impl Fn() -> Result<Body>,
        sent: Option<&AtomicU64>,
    ) -> Result<Response<Incoming>> {
        let mut url = call.url.clone();
        let (mut redirects, mut answered) = (0, false);
        loop {
            let mut asked = request(call.method.clone(), &url, body()?)?;
            for (name, value) in &call.headers {
                asked.headers_mut().insert(name, value.clone());
            }
            let is_own = self.is_own(&url);
            if is_own && let Some(value) = self.0.auth.header(call.scopes) {
                asked.headers_mut().insert(AUTHORIZATION, value);
            }
            let response = self.0.transport.send(asked, sent).await?;
            self.0.reached.store(true, Ordering::Relaxed);
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let may_follow = matches!(call.method, Method::GET | Method::HEAD);
            if status == StatusCode::UNAUTHORIZED && is_own && !answered {
                self.answer(call, response).await?;
                answered = true;
            } else if let Some(location) = location(&response)
                && status.is_redirection()
                && may_follow
            {
                redirects += 1;
                if redirects > REDIRECTS {
                    return Err(Error::Redirects { address: shown(&call.url), allowed: REDIRECTS });
                }
                url = follow(&url, location)?;
            } else {
                return Err(failure(&self.0.transport, response, call.what, &shown(&url)).await);
            }
        }
    }

    async fn answer(&self, call: &Call<'_>, response: Response<Incoming>) -> Result<()> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let Some(challenge) = challenge else {
            let detail = "it does not say what it wants to know who we are by".into();
            return Err(Error::Denied { registry: self.0.authority.clone(), detail });
        };
        let asker = Asker {
            authority: &self.0.authority,
            is_plain: call.url.scheme() == "http",
            token_hosts: &self.0.settings.token_hosts,
        };
        self.0.auth.answer(&self.0.transport, asker, challenge, call.scopes).await
    }
}

impl Tries {
    /// Something came: what failed before does not count.
    pub fn forget(&mut self) {
        self.failed = 0;
    }
}

/// What a repository's users may do, as tokens name it.
pub(crate) fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

pub(crate) fn request(method: Method, url: &Url, body: Body) -> Result<Request<Body>> {
    let built =
        Request::builder().method(method).uri(url.as_str()).header(USER_AGENT, AGENT).body(body);
    built.map_err(|error| Error::Answer { address: shown(url), reason: error.to_string() })
}

pub(crate) fn location(response: &Response<Incoming>) -> Option<&str> {
    response.headers().get(LOCATION)?.to_str().ok()
}

/// Where a redirect leads; never from TLS to none.
pub(crate) fn follow(from: &Url, location: &str) -> Result<Url> {
    let wrong = |reason: &str| Error::Answer { address: shown(from), reason: reason.to_owned() };
    let to = from.join(location).map_err(|_| wrong("it redirects to what is no address"))?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => Err(wrong(&format!("it redirects to {}, without TLS", shown(&to)))),
    }
}

#[derive(Deserialize)]
struct Failures {
    #[serde(default)]
    errors: Vec<Failure>,
    /// Token services' own way to say it.
    details: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error that an answer without success is.
pub(crate) async fn failure(
    transport: &Transport,
    response: Response<Incoming>,
    what: &str,
    address: &str,
) -> Error {
    let status = response.status();
    let wait = wait(response.headers());
    let content = transport.read(response, what, FAILURE_BYTES).await.unwrap_or_default();
    let detail = detail(&content);
    match status {
        StatusCode::NOT_FOUND => Error::NotFound { what: what.to_owned(), detail },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let detail = if detail.is_empty() {
                format!("{what}: {status}")
            } else {
                format!("{what}: {detail}")
            };
            Error::Denied { registry: authority_of(address), detail }
        }
        status => Error::Status { address: address.to_owned(), status, detail, wait },
    }
}

fn authority_of(address: &str) -> String {
    let url = address.parse::<Url>().ok();
    url.map_or_else(|| address.to_owned(), |url| url.authority().to_owned())
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    retry::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// In the registry's words, bounded and printable.
fn detail(content: &[u8]) -> String {
    let Ok(failures) = serde_json::from_slice::<Failures>(content) else { return String::new() };
    let said: Vec<String> = failures
        .errors
        .iter()
        .map(|failure| match (failure.code.as_str(), failure.message.as_str()) {
            (code, "") => code.to_lowercase().replace('_', " "),
            (_, message) => message.to_owned(),
        })
        .chain(failures.details)
        .collect();
    let said = said.join(", ");
    said.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_never_leads_out_of_tls() {
        let check = |from: &str, to: &str, expected: Option<&str>| {
            let found = follow(&from.parse().unwrap(), to).ok();
            assert_eq!(found.as_ref().map(Url::as_str), expected, "{from} {to}");
        };
        check("https://r/v2/x", "https://cdn/y?sig=1", Some("https://cdn/y?sig=1"));
        check("https://r/v2/x", "/y", Some("https://r/y"));
        check("https://r/v2/x", "http://r/y", None);
        check("https://r/v2/x", "file:///etc/passwd", None);
        check("http://r/v2/x", "http://cdn/y", Some("http://cdn/y"));
        check("http://r/v2/x", "https://cdn/y", Some("https://cdn/y"));
        check("http://r/v2/x", "http://[", None);
    }

    #[test]
    fn what_a_registry_says_is_shown_in_bounds() {
        let check =
            |content: &str, expected: &str| assert_eq!(detail(content.as_bytes()), expected);
        check(r#"{"errors":[{"code":"DENIED","message":"no access"}]}"#, "no access");
        check(r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#, "manifest unknown");
        check(r#"{"errors":[{"message":"a\u001b[31m"},{"message":"b"}]}"#, "a[31m, b");
        check(r#"{"details":"incorrect username or password"}"#, "incorrect username or password");
        check("<html>", "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(1000));
        assert_eq!(detail(long.as_bytes()).len(), DETAIL_CHARS);
    }

    #[tokio::test]
    async fn only_a_host_and_a_port_are_a_registrys_address() {
        let client = Client::new(Settings { certs_dir: "/nowhere".into(), ..Settings::default() });
        for domain in ["docker.io", "127.0.0.1:5000", "[::1]:5000", "registry.example.org"] {
            assert!(client.registry(domain, None).is_ok(), "{domain}");
        }
        for domain in ["", "a/b", "user@host", "host?x", "host:port", "a b"] {
            assert!(client.registry(domain, None).is_err(), "{domain}");
        }
    }
}

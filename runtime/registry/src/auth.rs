//! Who we are: passwords, and the tokens that token services give for them.
//!
//! Owns the answer to a challenge and what was learned from it. A password goes to the registry
//! it is for, or to that one's token service; which those are is `host`'s to say.

use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde::Deserialize;
use url::Url;

use crate::challenge::Challenge;
use crate::error::{Error, Result, shown};
use crate::host::is_trusted_realm;
use crate::registry::{failure, request};
use crate::transport::{self, Transport};

/// Of a token service's answer.
const ANSWER_BYTES: u64 = 256 << 10;
const CLIENT: &str = "tenantry";

/// What somebody gave us for one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// A refresh token, which the token service gave at a login (OAuth 2).
    IdentityToken(String),
    /// For the registry itself, as it is.
    RegistryToken(String),
}

/// No secret is ever printed.
impl Debug for Credentials {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Password { .. } => "Password(…)",
            Credentials::IdentityToken(_) => "IdentityToken(…)",
            Credentials::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}

#[derive(Debug)]
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    /// The registry takes the password itself.
    basic: bool,
    /// By the scopes asked for.
    tokens: HashMap<String, String>,
}

impl Debug for Learned {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned").field("basic", &self.basic).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// What the registry's address is, for the checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub authority: &'a str,
    /// It is spoken to without TLS.
    pub is_plain: bool,
    pub token_hosts: &'a [String],
}

impl Auth {
    pub fn new(credentials: Option<Credentials>) -> Auth {
        Auth { credentials, learned: Mutex::default() }
    }

    /// For a request of these scopes, as far as is known. `None`: as nobody.
    pub fn header(&self, scopes: &[String]) -> Option<HeaderValue> {
        let learned = self.learned();
        let text = match &self.credentials {
            Some(Credentials::RegistryToken(token)) => format!("Bearer {token}"),
            Some(Credentials::Password { username, password }) if learned.basic => {
                basic(username, password)
            }
            _ => format!("Bearer {}", learned.tokens.get(&scopes.join(" "))?),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Learns what [`header`](Self::header) is to say, from a challenge.
    pub async fn answer(
        &self,
        transport: &Transport,
        asker: Asker<'_>,
        challenge: Challenge,
        scopes: &[String],
    ) -> Result<()> {
        let denied = |detail: &str| Error::Denied {
            registry: asker.authority.to_owned(),
            detail: detail.to_owned(),
        };
        if let Some(Credentials::RegistryToken(_)) = self.credentials {
            return Err(denied("it does not take the token it was given"));
        }
        match challenge {
            Challenge::Basic => match &self.credentials {
                Some(Credentials::Password { .. }) => {
                    self.learned().basic = true;
                    Ok(())
                }
                Some(_) => Err(denied("it wants a password, not a token")),
                None => Err(denied("")),
            },
            Challenge::Bearer { realm, service, scope } => {
                let realm = self.realm(asker, &realm)?;
                let wanted =
                    if scopes.is_empty() { scope.into_iter().collect() } else { scopes.to_vec() };
                let token = self.token(transport, asker, realm, service, &wanted).await?;
                self.learned().tokens.insert(scopes.join(" "), token);
                Ok(())
            }
        }
    }

    /// Checks where a token is to be had.
    fn realm(&self, asker: Asker<'_>, realm: &str) -> Result<Url> {
        let registry = asker.authority.to_owned();
        let wrong = |reason: &str| Error::Answer {
            address: registry.clone(),
            reason: format!("its token service {realm:?} {reason}"),
        };
        let url: Url = realm.parse().map_err(|_| wrong("is no address"))?;
        let host = url.host_str().ok_or_else(|| wrong("has no host"))?.trim_matches(['[', ']']);
        match url.scheme() {
            "https" => {}
            "http" if asker.is_plain => {}
            _ => return Err(wrong("has no TLS, which the registry has")),
        }
        if self.credentials.is_some() && !is_trusted_realm(asker.authority, host, asker.token_hosts)
        {
            return Err(Error::Realm { registry, realm: shown(&url) });
        }
        Ok(url)
    }

    async fn token(
        &self,
        transport: &Transport,
        asker: Asker<'_>,
        mut realm: Url,
        service: Option<String>,
        scopes: &[String],
    ) -> Result<String> {
        let address = shown(&realm);
        let asked = match &self.credentials {
            Some(Credentials::IdentityToken(refresh)) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", CLIENT)
                    .append_pair("refresh_token", refresh)
                    .append_pair("scope", &scopes.join(" "));
                if let Some(service) = &service {
                    form.append_pair("service", service);
                }
                let body = transport::whole(Bytes::from(form.finish()));
                let mut asked = request(Method::POST, &realm, body)?;
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                asked.headers_mut().insert(CONTENT_TYPE, kind);
                asked
            }
            other => {
                let mut query = realm.query_pairs_mut();
                if let Some(service) = &service {
                    query.append_pair("service", service);
                }
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
                let mut password_header = None;
                if let Some(Credentials::Password { username, password }) = other {
                    query.append_pair("account", username);
                    query.append_pair("client_id", CLIENT);
                    password_header = HeaderValue::from_str(&basic(username, password)).ok();
                }
                drop(query);
                let mut asked: Request<_> = request(Method::GET, &realm, transport::empty())?;
                if let Some(mut value) = password_header {
                    value.set_sensitive(true);
                    asked.headers_mut().insert(AUTHORIZATION, value);
                }
                asked
            }
        };
        // A redirect is not followed: it would take the password along.
        let response = transport.send(asked, None).await?;
        if !response.status().is_success() {
            let what = format!("token of {address}");
            return Err(match failure(transport, response, &what, &address).await {
                Error::Denied { detail, .. } => {
                    Error::Denied { registry: asker.authority.to_owned(), detail }
                }
                error => error,
            });
        }
        let content =
            transport.read(response, &format!("token of {address}"), ANSWER_BYTES).await?;
        let wrong =
            |reason: &str| Error::Answer { address: address.clone(), reason: reason.into() };
        let answer: Answer =
            serde_json::from_slice(&content).map_err(|_| wrong("its token is no JSON"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| wrong("it gave no token"))
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        // Whole values are put in and taken out.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECURE: Asker<'_> =
        Asker { authority: "registry.example.org", is_plain: false, token_hosts: &[] };

    fn with_password() -> Auth {
        let (username, password) = ("jane".to_owned(), "secret".to_owned());
        Auth::new(Some(Credentials::Password { username, password }))
    }

    #[test]
    fn a_password_is_given_to_no_stranger_and_not_in_the_clear() {
        let check = |auth: &Auth, asker, realm: &str, expected: Option<&str>| {
            let found = auth.realm(asker, realm).err().map(|error| error.to_string());
            match (found, expected) {
                (None, None) => {}
                (Some(error), Some(expected)) => assert!(error.contains(expected), "{error}"),
                (found, expected) => panic!("{realm}: {found:?}, not {expected:?}"),
            }
        };
        let (known, nobody) = (with_password(), Auth::new(None));
        check(&known, SECURE, "https://auth.example.org/token", None);
        check(&known, SECURE, "https://evil.test/token?x=1", Some("https://evil.test/token for a"));
        check(&known, SECURE, "http://auth.example.org/token", Some("no TLS"));
        check(&known, SECURE, "ftp://registry.example.org/", Some("no TLS"));
        check(&known, SECURE, "no address", Some("is no address"));
        // Who gives nothing away may ask anywhere, but not in the clear.
        check(&nobody, SECURE, "https://evil.test/token", None);
        check(&nobody, SECURE, "http://registry.example.org/", Some("no TLS"));
        let hosts = ["evil.test".to_owned()];
        check(&known, Asker { token_hosts: &hosts, ..SECURE }, "https://evil.test/token", None);
        let plain = Asker { authority: "127.0.0.1:5000", is_plain: true, token_hosts: &[] };
        check(&known, plain, "http://127.0.0.1:5001/token", None);
        check(&known, plain, "http://127.0.0.2:5001/token", Some("not given its password"));
    }

    #[test]
    fn what_is_learned_decides_what_is_said() {
        let auth = with_password();
        let scopes = ["repository:demo:pull".to_owned()];
        assert_eq!(auth.header(&scopes), None);
        auth.learned().tokens.insert(scopes.join(" "), "abc".into());
        assert_eq!(auth.header(&scopes).unwrap(), "Bearer abc");
        assert_eq!(auth.header(&[]), None);
        auth.learned().basic = true;
        assert_eq!(auth.header(&scopes).unwrap(), "Basic amFuZTpzZWNyZXQ=");
        assert!(!format!("{auth:?}").contains("secret"));
        let given = Auth::new(Some(Credentials::RegistryToken("t".into())));
        assert_eq!(given.header(&[]).unwrap(), "Bearer t");
    }
}

//! `X-Registry-Auth`: the credentials that a client has for the registry of one request;
//! `X-Registry-Config`: all that it has, for a build. Pure.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tenantry_registry::Credentials;

use crate::api::error::{ApiError, ApiResult};

const HEADER: &str = "X-Registry-Auth";
const BUILD_HEADER: &str = "X-Registry-Config";

/// As Docker's `AuthConfig`, which `POST /auth` takes as its body, too.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    pub username: Option<String>,
    pub password: Option<String>,
    pub identitytoken: Option<String>,
    pub registrytoken: Option<String>,
    pub serveraddress: Option<String>,
}

/// No secret is ever printed.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("serveraddress", &self.serveraddress)
            .finish_non_exhaustive()
    }
}

/// Clients differ in whether they pad; the alphabet is that of URLs.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `None`: as nobody.
pub fn credentials(headers: &HeaderMap) -> ApiResult<Option<Credentials>> {
    let config: Option<AuthConfig> = read(headers, HEADER)?;
    Ok(config.unwrap_or_default().into_credentials())
}

/// Those of a build, which may need several registries: by an image's domain.
pub fn of_build(headers: &HeaderMap) -> ApiResult<BTreeMap<String, Credentials>> {
    let configs: Option<BTreeMap<String, AuthConfig>> = read(headers, BUILD_HEADER)?;
    let known = |(address, config): (String, AuthConfig)| {
        Some((domain(&address).to_owned(), config.into_credentials()?))
    };
    Ok(configs.unwrap_or_default().into_iter().filter_map(known).collect())
}

/// Clients keep the Docker Hub's under an address of its first version.
fn domain(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        domain => domain,
    }
}

/// A header's JSON in base64; `None` without the header, and for `null`.
fn read<T: DeserializeOwned>(headers: &HeaderMap, name: &str) -> ApiResult<Option<T>> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    // The value is a secret: it does not stand in the error.
    let wrong = || ApiError::invalid(name, "…", "JSON in base64");
    // Some clients write the other alphabet; neither has a letter that means two things.
    let letter = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    };
    let value: Vec<u8> = value.as_bytes().iter().map(letter).collect();
    let text = BASE64.decode(value).map_err(|_| wrong())?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice(&text).map_err(|_| wrong())
}

impl AuthConfig {
    pub fn into_credentials(self) -> Option<Credentials> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let password = self.password.unwrap_or_default();
        given(self.registrytoken)
            .map(Credentials::RegistryToken)
            .or_else(|| given(self.identitytoken).map(Credentials::IdentityToken))
            .or_else(|| {
                given(self.username).map(|username| Credentials::Password { username, password })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ApiResult<Option<Credentials>> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        credentials(&headers)
    }

    #[test]
    fn credentials_are_read_as_clients_write_them() {
        let encode = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        let check = |json: &str, expected: Option<Credentials>| {
            let padded = encode(json);
            assert_eq!(read(&padded).unwrap(), expected, "{json}");
            assert_eq!(read(padded.trim_end_matches('=')).unwrap(), expected, "{json}");
            let other = base64::engine::general_purpose::STANDARD.encode(json);
            assert_eq!(read(&other).unwrap(), expected, "{json}");
        };
        let (username, password) = ("jane".to_owned(), "s?>e".to_owned());
        check(
            r#"{"username":"jane","password":"s?>e","serveraddress":"r:5000"}"#,
            Some(Credentials::Password { username, password }),
        );
        check(r#"{"identitytoken":"t"}"#, Some(Credentials::IdentityToken("t".into())));
        let both = r#"{"registrytoken":"t","username":"x"}"#;
        check(both, Some(Credentials::RegistryToken("t".into())));
        check("{}", None);
        check(r#"{"username":null,"identitytoken":""}"#, None);
        check("null", None);
        assert_eq!(read("").unwrap(), None);
        assert_eq!(credentials(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_builds_credentials_are_by_domain() {
        let json = r#"{"https://index.docker.io/v1/":{"username":"a","password":"p"},
            "localhost:5000":{"identitytoken":"t"},"nothing":{}}"#;
        let mut headers = HeaderMap::new();
        let text = base64::engine::general_purpose::URL_SAFE.encode(json);
        headers.insert(BUILD_HEADER, text.parse().unwrap());
        let found = of_build(&headers).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["docker.io", "localhost:5000"]);
        assert_eq!(found["localhost:5000"], Credentials::IdentityToken("t".into()));
        assert!(of_build(&HeaderMap::new()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_such_header_is_refused_without_being_shown() {
        for text in ["!!!", "c2VjcmV0", "secret"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}

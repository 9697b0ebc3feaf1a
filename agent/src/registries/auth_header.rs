//! `X-Registry-Auth`: the credentials that a client has for the registry of one request. Pure.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tenantry_registry::Credentials;

use crate::api::error::{ApiError, ApiResult};

const HEADER: &str = "X-Registry-Auth";

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
    let Some(value) = headers.get(HEADER).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    // The value is a secret: it does not stand in the error.
    let wrong = || ApiError::invalid(HEADER, "…", "JSON in base64");
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
    let config: Option<AuthConfig> = serde_json::from_slice(&text).map_err(|_| wrong())?;
    Ok(config.unwrap_or_default().into_credentials())
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
    fn what_is_no_such_header_is_refused_without_being_shown() {
        for text in ["!!!", "c2VjcmV0", "secret"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}

//! Where the image store and the registries' protocol meet: pulls and pushes, and who asks for them.
//!
//! Owns what is told meanwhile (`lines`), and how many go on at a time. The store checks
//! everything that comes; the protocol knows no store.

pub mod auth_header;
pub mod counts;
mod describe;
mod import;
pub mod lines;
mod pull;
mod push;
pub mod settings;
pub mod watched;

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use axum::http::StatusCode;
use tenantry_image::{Name, Platform, Wanted};
use tenantry_registry::{Client, Credentials, Error as RegistryError, Registry, Settings};
use tokio::sync::Semaphore;

use crate::api::docker::images::events::ImageEvents;
use crate::api::error::{ApiError, ApiResult, chain};

use counts::Counters;

/// Pulls and pushes at a time; more wait for their turn.
const AT_ONCE: usize = 8;

#[derive(Debug)]
pub struct Registries {
    client: Client,
    turns: Arc<Semaphore>,
    counters: Counters,
    events: Arc<ImageEvents>,
}

/// What somebody wants from a registry, and as whom.
#[derive(Debug)]
pub struct PullRequest {
    pub what: Requested,
    pub platform: Option<Platform>,
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    One(Wanted),
    /// Whatever tags this name's repository has; its own means nothing.
    AllTags(Name),
}

impl Requested {
    pub fn name(&self) -> &Name {
        match self {
            Requested::One(wanted) => &wanted.name,
            Requested::AllTags(name) => name,
        }
    }
}

impl Display for Requested {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Requested::One(wanted) => Display::fmt(wanted, f),
            Requested::AllTags(name) => f.write_str(&name.repository()),
        }
    }
}

impl Registries {
    pub fn new(settings: Settings, events: Arc<ImageEvents>) -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { client: Client::new(settings), turns, counters: Counters::default(), events }
    }

    /// The registry of an image's domain. Reads files, and is called within a runtime.
    pub fn registry(
        &self,
        domain: &str,
        credentials: Option<Credentials>,
    ) -> Result<Registry, RegistryError> {
        self.client.registry(domain, credentials)
    }
}

/// Whatever came of a registry, as Docker's clients are told. `name` is the image's.
pub fn refusal(name: &str, error: &(dyn std::error::Error + 'static)) -> ApiError {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<RegistryError>() {
            return of_registry(name, found);
        }
        next = error.source();
    }
    ApiError::internal(chain(error))
}

fn of_registry(name: &str, error: &RegistryError) -> ApiError {
    let message = chain(error);
    let status = match error {
        RegistryError::NotFound { .. } => StatusCode::NOT_FOUND,
        RegistryError::Address { .. } => StatusCode::BAD_REQUEST,
        // Docker's clients would ask for a password on 401, and be asked again and again.
        RegistryError::Denied { .. } => {
            let message = format!(
                "access denied for {name}, repository does not exist or may require 'docker login': \
                 {message}"
            );
            return ApiError::new(StatusCode::NOT_FOUND, message);
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError::new(status, message)
}

/// `fromImage` and `tag` of a request: the tag may be a digest, and none at all means every tag.
pub fn requested(image: &str, tag: &str) -> ApiResult<Requested> {
    let has_tag = |text: &str| text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let text = match tag {
        "" if image.contains('@') || has_tag(image) => image.to_owned(),
        "" => return Ok(Requested::AllTags(image.parse::<Name>()?)),
        tag if tag.contains(':') => format!("{image}@{tag}"),
        tag => format!("{image}:{tag}"),
    };
    Ok(Requested::One(text.parse::<Wanted>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_in_the_name_or_beside_it() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let check = |image: &str, tag: &str, expected: Option<&str>| {
            let found = requested(image, tag).ok();
            let one =
                |found: &Requested| matches!(found, Requested::One(_)).then(|| found.to_string());
            assert_eq!(found.as_ref().and_then(one).as_deref(), expected, "{image} {tag}");
        };
        check("demo", "v1", Some("demo:v1"));
        check("demo:v1", "", Some("demo:v1"));
        check("localhost:5000/demo", "v1", Some("localhost:5000/demo:v1"));
        check("demo", digest, Some(&format!("demo@{digest}")));
        check(&format!("demo@{digest}"), "", Some(&format!("demo@{digest}")));
        check("demo", "", None);
        check("localhost:5000/demo", "", None);
        check("Demo", "v1", None);
        let all = requested("localhost:5000/demo", "").unwrap();
        assert!(matches!(&all, Requested::AllTags(name) if name.path() == "demo"), "{all:?}");
    }

    #[test]
    fn a_registrys_answer_is_found_below_the_stores_words() {
        let denied = RegistryError::Denied { registry: "r".into(), detail: "no".into() };
        let error = tenantry_image::Error::Fetch { what: "manifest".into(), source: denied.into() };
        let refusal = refusal("demo:v1", &error);
        assert_eq!(refusal.status, StatusCode::NOT_FOUND);
        assert!(refusal.message.contains("docker login"), "{}", refusal.message);
    }
}

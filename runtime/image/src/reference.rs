//! Image names as people type them, and what a name or id may refer to.
//!
//! Owns parsing and rendering, pure. Grammar and defaults are those of
//! github.com/distribution/reference, which Docker uses: `demo` is
//! `docker.io/library/demo:latest`. Called by the store and whoever shows names.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::Digest;
use crate::error::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const PATH_BYTES: usize = 255;
const TAG_BYTES: usize = 128;
/// As many hex digits as a prefix of an id needs to be looked up as one.
pub(crate) const ID_PREFIX_DIGITS: usize = 4;

/// A complete name: domain, path and tag. Shown short (`demo:latest`), stored
/// full (`docker.io/library/demo:latest`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    domain: String,
    path: String,
    tag: String,
}

impl Name {
    /// `docker.io/library/demo:latest`.
    pub fn full(&self) -> String {
        format!("{}/{}:{}", self.domain, self.path, self.tag)
    }

    /// The name without its tag, shortened as Docker shows it: `demo`.
    pub fn repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        match self.path.strip_prefix(DEFAULT_NAMESPACE) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The registry's name: `docker.io`, `127.0.0.1:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository as its registry calls it: `library/demo`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The repository's whole name with a digest: what `images.json` keeps of a pull.
    pub(crate) fn with_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

/// What a registry is asked for: `demo`, `demo:v1`, `demo@sha256:…`. With a digest, a tag
/// beside it means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: Name,
    pub digest: Option<Digest>,
}

impl Wanted {
    /// The tag or the digest.
    pub fn reference(&self) -> String {
        self.digest.map_or_else(|| self.name.tag.clone(), |digest| digest.to_string())
    }
}

impl Display for Wanted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "{}@{digest}", self.name.repository()),
            None => Display::fmt(&self.name, f),
        }
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Wanted> {
        match text.split_once('@') {
            Some((name, digest)) => {
                Ok(Wanted { name: name.parse()?, digest: Some(digest.parse()?) })
            }
            None => Ok(Wanted { name: text.parse()?, digest: None }),
        }
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository(), self.tag)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Name> {
        let wrong = |reason: String| Error::InvalidName { name: shown(text), reason };
        if text.is_empty() {
            return Err(wrong("it is empty".into()));
        }
        if text.contains('@') {
            return Err(wrong("it holds a digest, a name has a tag".into()));
        }
        // A colon after the last slash starts the tag; one before it is a port's.
        let tag_at = text.rfind(':').filter(|at| !text[*at..].contains('/'));
        let (repository, tag) = match tag_at {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, DEFAULT_TAG),
        };
        if Digest::from_hex(repository).is_some() {
            return Err(wrong("64 hex digits are an id, not a name".into()));
        }
        check_tag(tag).map_err(wrong)?;
        let (domain, path) = split_domain(repository);
        check_domain(&domain).map_err(wrong)?;
        check_path(&path).map_err(wrong)?;
        Ok(Name { domain, path, tag: tag.to_owned() })
    }
}

/// The first component is a domain if it could not be a path's: it holds a dot, a
/// colon or an uppercase letter, or is `localhost`.
fn split_domain(repository: &str) -> (String, String) {
    let (domain, path) = match repository.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, repository),
    };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{DEFAULT_NAMESPACE}{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn check_domain(domain: &str) -> Result<(), String> {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("host `[{address}]` is not an IPv6 address"));
            }
            let port = rest.strip_prefix(':');
            if port.is_none() && !rest.is_empty() {
                return Err(format!("`{}` stands behind the host", shown(rest)));
            }
            ("", port)
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !domain.starts_with('[') && !host.split('.').all(label) {
        return Err(format!("`{}` is not a host name", shown(host)));
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || !port.chars().all(|c| c.is_ascii_digit()) => {
            Err(format!("`{}` is not a port", shown(port)))
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES {
        return Err(format!("its path has {} bytes, allowed are {PATH_BYTES}", path.len()));
    }
    match path.split('/').find(|component| !is_path_component(component)) {
        Some("") => Err("a part of its path is empty".into()),
        Some(component) if component.chars().any(|c| c.is_ascii_uppercase()) => {
            Err(format!("`{}` has uppercase letters", shown(component)))
        }
        Some(component) => Err(format!("`{}` is not a part of a path", shown(component))),
        None => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component
            .split(alphanumeric)
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.chars().all(|c| c == '-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_empty() {
        return Err("its tag is empty".into());
    }
    if tag.len() > TAG_BYTES {
        return Err(format!("its tag has {} bytes, allowed are {TAG_BYTES}", tag.len()));
    }
    if !tag.starts_with(word) || !tag.chars().all(|c| word(c) || c == '.' || c == '-') {
        return Err(format!("tag `{}` is wrong", shown(tag)));
    }
    Ok(())
}

/// What a name or id given to the store means; several can apply, tried in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// `sha256:` and 64 digits: an image's id or its manifest's digest.
    pub digest: Option<Digest>,
    /// `name@sha256:…`: this repository must hold the manifest.
    pub repository: Option<String>,
    pub name: Option<Name>,
    pub id_prefix: Option<String>,
}

impl Query {
    /// Text that can mean nothing is an error that says what is allowed.
    pub fn parse(text: &str) -> Result<Query> {
        if let Some((repository, digest)) = text.split_once('@') {
            let name: Name = repository.parse()?;
            return Ok(Query {
                digest: Some(digest.parse()?),
                repository: Some(name.repository()),
                ..Query::default()
            });
        }
        // Without hex behind it, `sha256` may be an image's name with a tag.
        if let Some(hex) = text.strip_prefix("sha256:")
            && let Some(prefix) = id_prefix(hex)
        {
            let digest = Digest::from_hex(hex);
            let id_prefix = digest.is_none().then_some(prefix);
            return Ok(Query { digest, id_prefix, ..Query::default() });
        }
        if let Some(digest) = Digest::from_hex(text) {
            return Ok(Query { digest: Some(digest), ..Query::default() });
        }
        let name = text.parse::<Name>();
        match (name, id_prefix(text)) {
            (Err(error), None) => Err(error),
            (name, id_prefix) => Ok(Query { name: name.ok(), id_prefix, ..Query::default() }),
        }
    }
}

fn id_prefix(text: &str) -> Option<String> {
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    ((ID_PREFIX_DIGITS..=64).contains(&text.len()) && text.chars().all(hex))
        .then(|| text.to_owned())
}

/// Bounded and printable, for messages.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;

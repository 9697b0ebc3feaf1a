//! Manifests and indexes: documents by tag or digest.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::registry::{Call, Registry, scope};

/// As the store has it for every document of an image.
const BYTES: u64 = 4 << 20;
const KINDS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub content: Bytes,
    /// As the registry calls it.
    pub media_type: String,
    /// Of the content, `sha256:` and hex digits: ours, not what the registry says.
    pub digest: String,
}

impl Registry {
    /// What `reference`, a tag or a digest, means in `repository`. If it is a digest, the
    /// content has it.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Manifest> {
        let separator = if reference.contains(':') { '@' } else { ':' };
        let what = format!("manifest {}/{repository}{separator}{reference}", self.authority());
        let call = Call {
            method: Method::GET,
            url: self.url(&format!("{repository}/manifests/{reference}")).await?,
            headers: vec![(ACCEPT, HeaderValue::from_static(KINDS))],
            scopes: &[scope(repository, "pull")],
            what: &what,
        };
        let mut tries = Default::default();
        let (media_type, content) = loop {
            let response = self.persist(&call).await?;
            let media_type = response.headers().get(CONTENT_TYPE);
            let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            match self.0.transport.read(response, &what, BYTES).await {
                Ok(content) => break (media_type, content),
                Err(error) => self.pause(&mut tries, error).await?,
            }
        };
        let digest = digest_of(&content);
        if reference.contains(':') && reference != digest {
            return Err(Error::Digest { what, expected: reference.to_owned(), actual: digest });
        }
        Ok(Manifest { content, media_type, digest })
    }
}

pub(crate) fn digest_of(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

//! What a registry has under a name, without a pull; and whether it knows who asks.

use oci_types::{ImageConfiguration, ImageIndex, ImageManifest};
use serde_json::{Value, json};
use tenantry_image::{Wanted, spec as oci_types};
use tenantry_registry::{Credentials, Error as RegistryError};

use super::{Registries, refusal};
use crate::api::error::{ApiError, ApiResult};

/// Of an image's configuration, which is read for its platform.
const CONFIG_BYTES: u64 = 4 << 20;
/// Where Docker's client logs in without an address.
const HUB: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

impl Registries {
    /// As `GET /distribution/{name}/json` has it.
    pub async fn describe(
        &self,
        wanted: &Wanted,
        credentials: Option<Credentials>,
    ) -> ApiResult<Value> {
        let name = wanted.to_string();
        let refused = |error: RegistryError| refusal(&name, &error);
        let registry = self.registry(wanted.name.domain(), credentials).map_err(refused)?;
        let repository = wanted.name.path();
        let manifest = registry.manifest(repository, &wanted.reference()).await.map_err(refused)?;
        let platforms = if let Some(platforms) = index_platforms(&manifest.content) {
            platforms
        } else {
            let parsed: ImageManifest =
                serde_json::from_slice(&manifest.content).map_err(ApiError::internal)?;
            let (config, bytes) = (parsed.config().digest().to_string(), parsed.config().size());
            if bytes > CONFIG_BYTES {
                let reason =
                    format!("its configuration has {bytes} bytes, allowed are {CONFIG_BYTES}");
                return Err(ApiError::internal(reason));
            }
            let content = registry.blob(repository, &config, bytes).collect().await;
            vec![config_platform(&content.map_err(refused)?)]
        };
        Ok(json!({
            "Descriptor": {
                "mediaType": manifest.media_type,
                "digest": manifest.digest,
                "size": manifest.content.len(),
            },
            "Platforms": platforms,
        }))
    }

    /// Whether a registry takes these credentials.
    pub async fn login(&self, address: &str, credentials: Option<Credentials>) -> ApiResult<()> {
        let domain = domain_of(address);
        let registry =
            self.registry(domain, credentials).map_err(|error| refusal(domain, &error))?;
        registry.login().await.map_err(|error| match &error {
            RegistryError::Denied { .. } => ApiError::new(
                axum::http::StatusCode::UNAUTHORIZED,
                crate::api::error::chain(&error),
            ),
            error => refusal(domain, error),
        })
    }
}

/// `https://index.docker.io/v1/` is Docker Hub, `https://r:5000` is `r:5000`.
fn domain_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    if host.is_empty() || HUB.contains(&host) { "docker.io" } else { host }
}

fn index_platforms(content: &[u8]) -> Option<Vec<Value>> {
    let index: ImageIndex = serde_json::from_slice(content).ok()?;
    let platforms = index.manifests().iter().filter_map(|descriptor| descriptor.platform().clone());
    Some(platforms.filter_map(|platform| serde_json::to_value(platform).ok()).collect())
}

fn config_platform(content: &[u8]) -> Value {
    match serde_json::from_slice::<ImageConfiguration>(content) {
        Ok(config) => json!({ "architecture": config.architecture(), "os": config.os() }),
        Err(_) => json!({ "architecture": "", "os": "" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_its_host() {
        let check = |address, expected| assert_eq!(domain_of(address), expected, "{address}");
        check("https://index.docker.io/v1/", "docker.io");
        check("", "docker.io");
        check("127.0.0.1:5000", "127.0.0.1:5000");
        check("https://registry.example.org/v2/", "registry.example.org");
    }
}

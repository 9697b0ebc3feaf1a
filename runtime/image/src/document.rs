//! JSON documents of images: indexes, manifests, configurations.
//!
//! Owns lenient parsing of what Docker writes into OCI's types. Pure.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Parses a document that errors call `what`. Docker writes `null` where OCI leaves a
/// field out, so nulls are dropped.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, content: &[u8]) -> Result<T> {
    let wrong = |source| Error::Json { what: what.to_owned(), source };
    let mut value: Value = serde_json::from_slice(content).map_err(wrong)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(wrong)
}

/// The document's bytes, the same for the same value: maps are sorted.
pub(crate) fn render<T: serde::Serialize>(what: &str, document: &T) -> Result<Vec<u8>> {
    let wrong = |source| Error::Json { what: what.to_owned(), source };
    let value = serde_json::to_value(document).map_err(wrong)?;
    serde_json::to_vec(&value).map_err(wrong)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::ImageConfiguration;

    use super::*;

    #[test]
    fn a_docker_configuration_with_nulls_is_read() {
        let text = br#"{"architecture":"amd64","os":"linux","created":null,"config":{"Env":null,
            "Cmd":["/bin/sh"],"Volumes":null,"ExposedPorts":{"80/tcp":{}},"Labels":null,
            "Entrypoint":null,"OnBuild":null},"rootfs":{"type":"layers","diff_ids":[]},
            "history":null,"container_config":{"Hostname":"x"}}"#;
        let config: ImageConfiguration = parse("configuration", text).unwrap();
        let config = config.config().clone().unwrap();
        assert_eq!(config.cmd().clone().unwrap(), ["/bin/sh"]);
        assert_eq!(config.exposed_ports().clone().unwrap(), ["80/tcp"]);
        assert_eq!(config.volumes(), &None);
    }

    #[test]
    fn a_wrong_document_is_named() {
        let error = parse::<ImageConfiguration>("configuration x", b"[]").unwrap_err();
        assert_eq!(error.to_string(), "configuration x is not valid JSON of its kind");
    }
}

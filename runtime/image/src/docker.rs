//! `docker save` archives: `manifest.json`, with layers in directories of their own
//! (until Docker 24) or under `blobs/` (since 25).
//!
//! Owns the translation into an OCI manifest. Called by load.

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType, Sha256Digest};
use serde::Deserialize;

use crate::Digest;
use crate::document;
use crate::error::{Error, Result};
use crate::members::Members;
use crate::oci;
use crate::reference::Name;
use crate::refs::ImageRecord;
use crate::session::{NewImage, Session};

const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Vec<String>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The names that `manifest.json` gives to configurations; empty without one. For
/// archives that are OCI layouts as well, whose index may not hold the names.
pub(crate) fn names(
    session: &mut Session<'_>,
    members: &Members,
) -> Result<Vec<(Digest, Vec<Name>)>> {
    let mut names = Vec::new();
    for image in saved(session, members)?.unwrap_or_default() {
        let config = members.document(session, &image.config)?;
        let config = config.ok_or_else(|| missing(&image.config))?;
        names.push((Digest::of(&config), parse_names(&image.repo_tags)?));
    }
    Ok(names)
}

/// `None` if this is no `docker save` archive.
pub(crate) fn images(
    session: &mut Session<'_>,
    members: &Members,
) -> Result<Option<Vec<NewImage>>> {
    let Some(saved) = saved(session, members)? else { return Ok(None) };
    if saved.is_empty() {
        return Err(Error::Document { what: MANIFEST.into(), reason: "it lists no image".into() });
    }
    let images = saved.into_iter().map(|saved| image(session, members, saved));
    images.collect::<Result<_>>().map(Some)
}

fn saved(session: &Session<'_>, members: &Members) -> Result<Option<Vec<Saved>>> {
    let Some(content) = members.document(session, MANIFEST)? else { return Ok(None) };
    let saved: Vec<Saved> = document::parse(MANIFEST, &content)?;
    let (value, allowed) = (saved.len() as u64, session.limits().images);
    if value > allowed {
        return Err(Error::Limit { what: MANIFEST.into(), quantity: "images", value, allowed });
    }
    Ok(Some(saved))
}

fn image(session: &mut Session<'_>, members: &Members, saved: Saved) -> Result<NewImage> {
    let content = members.document(session, &saved.config)?;
    let content = content.ok_or_else(|| missing(&saved.config))?;
    let id = Digest::of(&content);
    let stem = saved.config.rsplit('/').next().unwrap_or_default();
    match Digest::from_hex(stem.strip_suffix(".json").unwrap_or(stem)) {
        Some(expected) if expected != id => {
            return Err(Error::DigestMismatch { what: saved.config, expected, actual: id });
        }
        _ => {}
    }
    let config = oci::parse_config(session, &id, &content, saved.layers.len())?;
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    for (path, diff_id) in saved.layers.iter().zip(oci::diff_ids(&id, &config)?) {
        let spooled = members.file(session, path)?.ok_or_else(|| missing(path))?;
        let (blob, bytes) = (spooled.digest, spooled.bytes);
        if !session.has_blob(&blob) && !session.pin_blob(blob) {
            session.add_blob(spooled);
        }
        layers.push(session.unpack_layer(blob, Some(diff_id))?);
        let media_type = session.compression(&blob)?.layer_media_type();
        descriptors.push(descriptor(media_type, bytes, &blob)?);
    }
    let manifest = manifest(&id, content.len() as u64, descriptors)?;
    let manifest = session.spool_bytes(&manifest)?;
    let digest = manifest.digest;
    session.add_blob(manifest);
    let content = session.spool_bytes(&content)?;
    session.add_blob(content);
    let record = ImageRecord { created: config.created().clone(), ..ImageRecord::new(id, layers) };
    Ok(NewImage { manifest: digest, record, names: parse_names(&saved.repo_tags)? })
}

/// The bytes of an OCI manifest, the same for the same parts.
pub(crate) fn manifest(id: &Digest, config_bytes: u64, layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, config_bytes, id)?)
        .layers(layers)
        .build()
        .map_err(|error| Error::Document { what: "manifest".into(), reason: error.to_string() })?;
    document::render("manifest", &manifest)
}

pub(crate) fn descriptor(media_type: MediaType, bytes: u64, digest: &Digest) -> Result<Descriptor> {
    let digest: Sha256Digest =
        digest.hex().parse().map_err(|_| Error::InvalidDigest { text: digest.to_string() })?;
    Ok(Descriptor::new(media_type, bytes, digest))
}

fn parse_names(names: &[String]) -> Result<Vec<Name>> {
    names.iter().map(|name| name.parse()).collect()
}

fn missing(path: &str) -> Error {
    Error::Missing { what: path.to_owned(), wanted_by: MANIFEST.to_owned() }
}

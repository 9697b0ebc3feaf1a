//! OCI image layouts: from `index.json` to images of this platform.
//!
//! Owns the choice among an index's entries and the checks of manifests and
//! configurations. Called by load.

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, OciLayout, Os,
};
use serde_json::Value;

use crate::Digest;
use crate::document;
use crate::error::{Error, Result};
use crate::members::{self, Members};
use crate::reference::Name;
use crate::refs::ImageRecord;
use crate::session::{NewImage, Session};

const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";

/// `None` if this is no OCI layout. Only images for this platform are taken; if
/// there is none, the error lists what there is.
pub(crate) fn images(
    session: &mut Session<'_>,
    members: &Members,
) -> Result<Option<Vec<NewImage>>> {
    let Some(content) = members.document(session, INDEX)? else { return Ok(None) };
    if let Some(content) = members.document(session, LAYOUT)? {
        let layout: OciLayout = document::parse(LAYOUT, &content)?;
        if !layout.image_layout_version().starts_with("1.") {
            let reason = format!("version {}, allowed is 1.x", layout.image_layout_version());
            return Err(Error::Document { what: LAYOUT.into(), reason });
        }
    }
    let index: ImageIndex = document::parse(INDEX, &content)?;
    let (value, allowed) = (index.manifests().len() as u64, session.limits().images);
    if value > allowed {
        return Err(Error::Limit { what: INDEX.into(), quantity: "images", value, allowed });
    }
    let mut chooser = Chooser { session, members, others: Vec::new() };
    let mut images: Vec<NewImage> = Vec::new();
    for descriptor in index.manifests() {
        let Some((manifest, content)) = chooser.choose(descriptor, INDEX, 0)? else { continue };
        let mut image = image(chooser.session, members, manifest, &content)?;
        image.names.extend(name_of(descriptor));
        // The same image may be listed once per name.
        match images.iter_mut().find(|other| other.manifest == manifest) {
            Some(other) => other.names.extend(image.names),
            None => images.push(image),
        }
    }
    if images.is_empty() {
        let mut available = chooser.others;
        available.dedup();
        if available.is_empty() {
            available.push("none at all".into());
        }
        return Err(Error::Platform { what: INDEX.into(), wanted: wanted(), available });
    }
    Ok(Some(images))
}

struct Chooser<'s, 'a, 'm> {
    session: &'s mut Session<'a>,
    members: &'m Members,
    /// Platforms that were passed over.
    others: Vec<String>,
}

impl Chooser<'_, '_, '_> {
    /// The manifest that a descriptor leads to on this platform, verified.
    fn choose(
        &mut self,
        descriptor: &Descriptor,
        wanted_by: &str,
        depth: u64,
    ) -> Result<Option<(Digest, Vec<u8>)>> {
        if is_attestation(descriptor) || !self.fits(descriptor) {
            return Ok(None);
        }
        let (digest, content) = document(self.session, self.members, descriptor, wanted_by)?;
        let what = format!("manifest {digest}");
        let value: Value = document::parse(&what, &content)?;
        if value.get("manifests").is_none() {
            return Ok(Some((digest, content)));
        }
        let (value, allowed) = (depth + 1, self.session.limits().index_depth);
        if value > allowed {
            return Err(Error::Limit { what, quantity: "depth of nested indexes", value, allowed });
        }
        let what = format!("index {digest}");
        let index: ImageIndex = document::parse(&what, &content)?;
        // A processor of the newest variant is not taken for granted.
        let rank = |descriptor: &&Descriptor| {
            let variant =
                descriptor.platform().as_ref().and_then(|platform| platform.variant().clone());
            !matches!(variant.as_deref(), None | Some("v1" | "v8"))
        };
        let mut descriptors: Vec<&Descriptor> = index.manifests().iter().collect();
        descriptors.sort_by_key(rank);
        for descriptor in descriptors {
            if let Some(found) = self.choose(descriptor, &what, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Without a platform in the descriptor, the image is meant whatever it is for.
    fn fits(&mut self, descriptor: &Descriptor) -> bool {
        let Some(platform) = descriptor.platform() else { return true };
        let fits = *platform.os() == Os::Linux && *platform.architecture() == Arch::default();
        if !fits {
            self.others.push(format!("{}/{}", platform.os(), platform.architecture()));
        }
        fits
    }
}

fn wanted() -> String {
    format!("{}/{}", Os::Linux, Arch::default())
}

/// BuildKit's provenance and SBOM documents look like images of platform unknown.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let annotations = descriptor.annotations().as_ref();
    annotations.is_some_and(|annotations| {
        annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
    })
}

/// containerd's annotation holds a whole name; OCI's may be just a tag, and is taken
/// as a name if it reads as one.
fn name_of(descriptor: &Descriptor) -> Option<Name> {
    let annotations = descriptor.annotations().as_ref()?;
    let text = annotations
        .get("io.containerd.image.name")
        .or_else(|| annotations.get("org.opencontainers.image.ref.name"))?;
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            tracing::warn!(%error, "the archive's name for an image is not used");
            None
        }
    }
}

/// A document that a descriptor names, verified by size and digest, and kept as a blob.
fn document(
    session: &mut Session<'_>,
    members: &Members,
    descriptor: &Descriptor,
    wanted_by: &str,
) -> Result<(Digest, Vec<u8>)> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    let path = members::blob_path(&digest);
    let missing = || Error::Missing { what: path.clone(), wanted_by: wanted_by.to_owned() };
    let content = members.document(session, &path)?.ok_or_else(missing)?;
    let actual = Digest::of(&content);
    if actual != digest {
        return Err(Error::DigestMismatch { what: path, expected: digest, actual });
    }
    check_size(&path, descriptor.size(), content.len() as u64)?;
    Ok((digest, content))
}

/// Whether it is an image's, and no other artifact's.
pub(crate) fn check_manifest(what: &str, manifest: &ImageManifest) -> Result<()> {
    let media_type = manifest.config().media_type().to_string();
    if *manifest.config().media_type() != MediaType::ImageConfig
        && media_type != "application/vnd.docker.container.image.v1+json"
    {
        let reason = format!("its configuration is {media_type}, so it is not an image");
        return Err(Error::Document { what: what.to_owned(), reason });
    }
    Ok(())
}

pub(crate) fn check_layer(what: &str, descriptor: &Descriptor) -> Result<()> {
    let media_type = descriptor.media_type().to_string();
    if !media_type.contains("tar") || media_type.contains("encrypted") {
        let reason = format!(
            "layer {} is {media_type}; allowed are tar, tar+gzip, tar+zstd",
            descriptor.digest()
        );
        return Err(Error::Document { what: what.to_owned(), reason });
    }
    Ok(())
}

pub(crate) fn check_size(what: &str, expected: u64, actual: u64) -> Result<()> {
    if expected != actual {
        return Err(Error::SizeMismatch { what: what.to_owned(), expected, actual });
    }
    Ok(())
}

/// Checks an image's documents and unpacks its layers.
fn image(
    session: &mut Session<'_>,
    members: &Members,
    digest: Digest,
    content: &[u8],
) -> Result<NewImage> {
    let what = format!("manifest {digest}");
    let manifest: ImageManifest = document::parse(&what, content)?;
    check_manifest(&what, &manifest)?;
    let (id, config_content) = document(session, members, manifest.config(), &what)?;
    let config = parse_config(session, &id, &config_content, manifest.layers().len())?;
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids(&id, &config)?) {
        check_layer(&what, descriptor)?;
        let blob: Digest = descriptor.digest().to_string().parse()?;
        let path = members::blob_path(&blob);
        if !session.has_blob(&blob) {
            match members.file(session, &path)? {
                Some(spooled) => {
                    check_size(&path, descriptor.size(), spooled.bytes)?;
                    if session.pin_blob(blob) {
                        members::discard(&spooled)
                    } else {
                        session.add_blob(spooled)
                    }
                }
                None if session.pin_blob(blob) => {}
                None => return Err(Error::Missing { what: path, wanted_by: what }),
            }
        }
        layers.push(session.unpack_layer(blob, Some(diff_id))?);
    }
    for content in [content, &config_content] {
        let spooled = session.spool_bytes(content)?;
        session.add_blob(spooled);
    }
    let record = ImageRecord { created: config.created().clone(), ..ImageRecord::new(id, layers) };
    Ok(NewImage { manifest: digest, record, names: Vec::new() })
}

/// Parses a configuration and checks that it fits the manifest and this system.
pub(crate) fn parse_config(
    session: &Session<'_>,
    id: &Digest,
    content: &[u8],
    layers: usize,
) -> Result<ImageConfiguration> {
    let what = format!("configuration {id}");
    let config: ImageConfiguration = document::parse(&what, content)?;
    let wrong = |reason| Err(Error::Document { what: what.clone(), reason });
    if *config.os() != Os::Linux {
        return wrong(format!("os is {}, allowed is linux", config.os()));
    }
    if config.rootfs().typ() != "layers" {
        return wrong(format!("rootfs.type is `{}`, allowed is layers", config.rootfs().typ()));
    }
    let diff_ids = config.rootfs().diff_ids().len();
    if diff_ids != layers {
        return wrong(format!(
            "rootfs.diff_ids has {diff_ids} entries, the manifest {layers} layers"
        ));
    }
    let (value, allowed) = (layers as u64, session.limits().layers);
    if value > allowed {
        return Err(Error::Limit { what, quantity: "layers", value, allowed });
    }
    Ok(config)
}

pub(crate) fn diff_ids(id: &Digest, config: &ImageConfiguration) -> Result<Vec<Digest>> {
    let parsed = config.rootfs().diff_ids().iter().map(|text| {
        text.parse().map_err(|_| Error::Document {
            what: format!("configuration {id}"),
            reason: format!("diff_id `{text}`; allowed is sha256: and 64 lowercase hex digits"),
        })
    });
    parsed.collect()
}

//! What a registry is to be given of an image: its documents and blobs as they are kept, which
//! keeps their digests.
//!
//! Owns the hold on them: nothing of it is removed until [`Outgoing`] is dropped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::sync::Arc;

use oci_spec::image::ImageManifest;
use serde_json::Value;

use crate::Digest;
use crate::document;
use crate::error::{Error, Result};
use crate::lookup::find;
use crate::reference::Name;
use crate::refs::Refs;
use crate::store::Store;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A blob of an image that goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingBlob {
    pub digest: Digest,
    pub bytes: u64,
    /// Of a layer: what Docker shows of it while it is pushed.
    pub diff_id: Option<Digest>,
    /// Repositories of the same registry that had it once, as the registry calls them.
    pub others: Vec<String>,
}

/// An image that goes out under a name.
#[derive(Debug)]
pub struct Outgoing {
    store: Arc<Store>,
    pins: Vec<Digest>,
    pub name: Name,
    pub manifest: Vec<u8>,
    pub digest: Digest,
    pub media_type: String,
    /// The layers, the lowest first, and then the configuration, each blob once.
    pub blobs: Vec<OutgoingBlob>,
}

impl Store {
    /// What has this name, for its registry.
    pub fn outgoing(self: &Arc<Self>, name: &str) -> Result<Outgoing> {
        let name: Name = name.parse()?;
        let (digest, record, others) = {
            let state = self.state();
            let digest = find(&state.refs, &name.to_string())?.manifest;
            let record = state.refs.images[&digest].clone();
            let blobs = record.layers.iter().map(|layer| layer.blob);
            let others: Vec<Vec<String>> =
                blobs.map(|blob| repositories_with(&state.refs, &name, &blob)).collect();
            (digest, record, others)
        };
        let mut outgoing = Outgoing {
            store: Arc::clone(self),
            pins: Vec::new(),
            name,
            manifest: Vec::new(),
            digest,
            media_type: String::new(),
            blobs: Vec::new(),
        };
        outgoing.pin(digest)?;
        let path = self.blob_path(&digest);
        outgoing.manifest = fs::read(&path).map_err(Error::io("read", &path))?;
        if Digest::of(&outgoing.manifest) != digest {
            return Err(Error::Corrupt { path, reason: "its content has another digest".into() });
        }
        let what = format!("manifest {digest}");
        let value: Value = document::parse(&what, &outgoing.manifest)?;
        let media_type = value.get("mediaType").and_then(Value::as_str);
        outgoing.media_type = media_type.unwrap_or(OCI_MANIFEST).to_owned();
        let manifest: ImageManifest = document::parse(&what, &outgoing.manifest)?;
        let mut seen = BTreeSet::new();
        for ((descriptor, layer), others) in
            manifest.layers().iter().zip(&record.layers).zip(others)
        {
            let blob = layer.blob;
            if seen.insert(blob) {
                outgoing.pin(blob)?;
                let (bytes, diff_id) = (descriptor.size(), Some(layer.diff_id));
                outgoing.blobs.push(OutgoingBlob { digest: blob, bytes, diff_id, others });
            }
        }
        let (id, bytes) = (record.id, manifest.config().size());
        outgoing.pin(id)?;
        let config = OutgoingBlob { digest: id, bytes, diff_id: None, others: Vec::new() };
        outgoing.blobs.push(config);
        Ok(outgoing)
    }
}

impl Outgoing {
    fn pin(&mut self, digest: Digest) -> Result<()> {
        let path = self.store.blob_path(&digest);
        if !self.store.pin(digest, &path) {
            return Err(Error::Corrupt { path, reason: "it is not there".into() });
        }
        self.pins.push(digest);
        Ok(())
    }

    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.store.blob_path(digest))
    }

    /// The registry has it now: its digest is remembered under this name.
    pub fn taken(&self) -> Result<()> {
        let mut state = self.store.state();
        let mut refs = state.refs.clone();
        if refs.images.contains_key(&self.digest) {
            refs.digests.insert(self.name.with_digest(&self.digest), self.digest);
            self.store.replace_refs(&mut state, refs)?;
        }
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.store.unpin(&self.pins);
    }
}

/// Other repositories of the name's registry that gave or took an image with this blob.
fn repositories_with(refs: &Refs, name: &Name, blob: &Digest) -> Vec<String> {
    let known = refs.digests.iter().filter(|(_, manifest)| {
        let image = refs.images.get(manifest);
        image.is_some_and(|image| image.layers.iter().any(|layer| layer.blob == *blob))
    });
    let of_registry = known.filter_map(|(full, _)| {
        let path = full.strip_prefix(name.domain())?.strip_prefix('/')?.split('@').next()?;
        (path != name.path()).then(|| path.to_owned())
    });
    let mut repositories: Vec<String> = of_registry.collect();
    repositories.dedup();
    repositories
}

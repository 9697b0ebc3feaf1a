//! `images.json`: which images there are, their names, and what they consist of.
//!
//! Owns the file's format and its atomic replacement. Whatever it does not mention
//! is rubbish: blobs and layers are reached only through it. Called by the store,
//! which holds the one copy in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::error::{Error, Result};
use crate::reference::{Name, Wanted};

const VERSION: u32 = 1;
pub(crate) const FILE: &str = "images.json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refs {
    version: u32,
    /// Full names to manifest digests.
    pub names: BTreeMap<String, Digest>,
    /// `docker.io/library/demo@sha256:…` to manifest digests: under what a registry gave or took
    /// an image. The digest may be an index's, which is not kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, Digest>,
    /// By manifest digest; an image may have no name.
    pub images: BTreeMap<Digest, ImageRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageRecord {
    /// The configuration's digest, which is what Docker calls an image's id.
    pub id: Digest,
    /// As the configuration says it: RFC 3339, or absent.
    pub created: Option<String>,
    /// The lowest first.
    pub layers: Vec<LayerRecord>,
    /// The id of the image that this one was made of, on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerRecord {
    /// The compressed blob.
    pub blob: Digest,
    /// Its uncompressed content, under which it is unpacked.
    pub diff_id: Digest,
    /// Bytes of file content when unpacked.
    pub size_bytes: u64,
}

impl Default for Refs {
    fn default() -> Refs {
        Refs {
            version: VERSION,
            names: BTreeMap::new(),
            digests: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }
}

impl ImageRecord {
    pub fn new(id: Digest, layers: Vec<LayerRecord>) -> ImageRecord {
        ImageRecord { id, created: None, layers, parent: None }
    }

    /// The blobs and layers that the image needs, its manifest's own blob among them.
    pub fn digests(&self, manifest: &Digest) -> BTreeSet<Digest> {
        let layers = self.layers.iter().flat_map(|layer| [layer.blob, layer.diff_id]);
        layers.chain([*manifest, self.id]).collect()
    }

    /// A layer that occurs twice counts once.
    pub fn size_bytes(&self) -> u64 {
        let sizes: BTreeMap<_, _> =
            self.layers.iter().map(|layer| (layer.diff_id, layer.size_bytes)).collect();
        sizes.values().sum()
    }
}

impl Refs {
    /// `None` if there is no file.
    pub fn read(dir: &Path) -> Result<Option<Refs>> {
        let path = dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { operation: "read", path, source }),
        };
        let corrupt = |reason: String| Error::Corrupt { path: path.clone(), reason };
        let refs: Refs =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if refs.version != VERSION {
            return Err(corrupt(format!("version {}, allowed is {VERSION}", refs.version)));
        }
        for (name, manifest) in &refs.names {
            if name.parse::<Name>().is_err() || !refs.images.contains_key(manifest) {
                return Err(corrupt(format!("name `{name}` is wrong or names no image")));
            }
        }
        if let Some((name, _)) = refs.digests.iter().find(|(name, manifest)| {
            short_digest(name).is_none() || !refs.images.contains_key(manifest)
        }) {
            return Err(corrupt(format!("`{name}` is wrong or names no image")));
        }
        Ok(Some(refs))
    }

    /// Digests of images that are gone mean nothing.
    pub fn forget_digests_of_no_image(&mut self) {
        let Refs { digests, images, .. } = self;
        digests.retain(|_, manifest| images.contains_key(manifest));
    }

    /// `demo@sha256:…`, under which registries know an image, sorted.
    pub fn digests_of(&self, manifest: &Digest) -> Vec<String> {
        let known = self.digests.iter().filter(|(_, of)| *of == manifest);
        known.filter_map(|(name, _)| short_digest(name)).collect()
    }

    /// Replaces the file: whatever happens, it is the old one or the new one.
    /// Returns its length.
    pub fn write(&self, dir: &Path, temp: &Path) -> Result<u64> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Json { what: FILE.to_owned(), source })?;
        let mut file = File::create_new(temp).map_err(Error::io("create", temp))?;
        let path = dir.join(FILE);
        let written = file
            .write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(Error::io("write", temp))
            .and_then(|()| fs::rename(temp, &path).map_err(Error::io("replace", path)));
        if written.is_err() {
            // It would stand in the way of what frees some room.
            let _ = fs::remove_file(temp);
        }
        written?;
        sync_directory(dir)?;
        Ok(text.len() as u64)
    }

    /// Short names of an image, sorted.
    pub fn names_of(&self, manifest: &Digest) -> Vec<String> {
        let named = self.names.iter().filter(|(_, of)| *of == manifest);
        named
            .filter_map(|(name, _)| name.parse::<Name>().ok())
            .map(|name| name.to_string())
            .collect()
    }

    /// Every blob and layer that some image needs.
    pub fn live(&self) -> BTreeSet<Digest> {
        self.images.iter().flat_map(|(manifest, image)| image.digests(manifest)).collect()
    }

    /// The layer's record if an image has just this blob for it: then the pair is
    /// verified already.
    pub fn known_layer(&self, blob: &Digest, diff_id: &Digest) -> Option<LayerRecord> {
        let layers = self.images.values().flat_map(|image| &image.layers);
        layers.copied().find(|layer| layer.blob == *blob && layer.diff_id == *diff_id)
    }
}

/// `docker.io/library/demo@sha256:…` as it is shown. `None`: it is not of that form.
fn short_digest(name: &str) -> Option<String> {
    let wanted = name.parse::<Wanted>().ok()?;
    wanted.digest.map(|_| wanted.to_string())
}

pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync directory", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Refs {
        let layer = |diff: &[u8], size_bytes| LayerRecord {
            blob: Digest::of(b"blob"),
            diff_id: Digest::of(diff),
            size_bytes,
        };
        let mut refs = Refs::default();
        let manifest = Digest::of(b"manifest");
        refs.names.insert("docker.io/library/demo:latest".into(), manifest);
        refs.names.insert("quay.io/x/demo:1".into(), manifest);
        let index = Digest::of(b"index");
        refs.digests.insert(format!("docker.io/library/demo@{index}"), manifest);
        let layers = vec![layer(b"a", 5), layer(b"b", 7), layer(b"a", 5)];
        refs.images.insert(manifest, ImageRecord::new(Digest::of(b"config"), layers));
        refs
    }

    #[test]
    fn what_is_written_is_read_and_a_repeated_layer_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Refs::read(dir.path()).unwrap(), None);
        sample().write(dir.path(), &dir.path().join("temp")).unwrap();
        let refs = Refs::read(dir.path()).unwrap().unwrap();
        assert_eq!(refs, sample());
        let manifest = Digest::of(b"manifest");
        assert_eq!(refs.images[&manifest].size_bytes(), 12);
        assert_eq!(refs.names_of(&manifest), ["demo:latest", "quay.io/x/demo:1"]);
        assert_eq!(refs.digests_of(&manifest), [format!("demo@{}", Digest::of(b"index"))]);
        assert_eq!(refs.live().len(), 5);
    }

    #[test]
    fn a_digest_goes_with_its_image() {
        let mut refs = sample();
        refs.forget_digests_of_no_image();
        assert_eq!(refs, sample());
        refs.images.clear();
        refs.forget_digests_of_no_image();
        assert!(refs.digests.is_empty());
    }

    #[test]
    fn a_damaged_file_is_named_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [
            ("{", "EOF"),
            (r#"{"version":2,"names":{},"images":{}}"#, "version 2, allowed is 1"),
            (r#"{"version":1,"names":{},"images":{},"x":1}"#, "unknown field `x`"),
            (
                r#"{"version":1,"names":{},"images":{},"digests":{"demo":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}"#,
                "`demo` is wrong",
            ),
        ];
        for (text, expected) in rows {
            fs::write(dir.path().join(FILE), text).unwrap();
            let message = Refs::read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(FILE) && message.contains(expected), "{message}");
        }
    }
}

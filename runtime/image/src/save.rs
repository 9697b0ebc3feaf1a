//! `image save`: an archive that is an OCI layout and what `docker save` writes at once.
//!
//! Owns the archive's documents. Blobs go out as they are, and stay in the store until
//! they have gone, whatever is removed meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::Digest;
use crate::archive::write::{self, padding};
use crate::archive::{Entry, Kind};
use crate::error::{Error, Result};
use crate::members;
use crate::reference::Name;
use crate::refs::ImageRecord;
use crate::session::Session;
use crate::store::Store;

const ARCHIVE: &str = "archive";

#[derive(Debug)]
struct Saved {
    manifest: Digest,
    record: ImageRecord,
    /// Those that were asked for.
    names: Vec<Name>,
}

/// Images that are about to be written; nothing of them is removed meanwhile.
#[derive(Debug)]
pub struct Save<'a> {
    store: &'a Store,
    images: Vec<Saved>,
    /// Its pins; nothing is staged.
    _session: Session<'a>,
}

impl Store {
    /// Prepares an archive of these images. A name is kept in it, an id is not; a name
    /// without a tag means all tags of that repository, as in Docker.
    ///
    /// # Errors
    /// [`Error::NotFound`] before anything is written.
    pub fn save(&self, names_or_ids: &[String]) -> Result<Save<'_>> {
        let mut session = Session::new(self)?;
        let mut images: Vec<Saved> = Vec::new();
        for text in names_or_ids {
            for (text, name) in self.expand(text) {
                let (manifest, record) = session.pin_content(&text)?;
                match images.iter_mut().find(|image| image.manifest == manifest) {
                    Some(image) => image.names.extend(name),
                    None => {
                        let names = name.into_iter().collect();
                        images.push(Saved { manifest, record, names });
                    }
                }
            }
        }
        for image in &mut images {
            image.names.sort();
            image.names.dedup();
        }
        Ok(Save { store: self, images, _session: session })
    }

    /// What one text asks for, and the name to keep for each.
    fn expand(&self, text: &str) -> Vec<(String, Option<Name>)> {
        let state = self.state();
        let Ok(name) = text.parse::<Name>() else { return vec![(text.to_owned(), None)] };
        let has_tag = text.rfind(':').is_some_and(|at| !text[at..].contains('/'));
        let known = state.refs.names.keys().filter_map(|known| known.parse::<Name>().ok());
        let fitting = known.filter(|known| match has_tag {
            true => *known == name,
            false => known.repository() == name.repository(),
        });
        let found: Vec<_> = fitting.map(|name| (name.full(), Some(name))).collect();
        if found.is_empty() { vec![(text.to_owned(), None)] } else { found }
    }
}

impl Save<'_> {
    /// # Errors
    /// [`Error::Io`] names the store's file that cannot be read, [`Error::Read`] the
    /// archive if `out` does not take it.
    pub fn write(&self, mut out: impl Write) -> Result<()> {
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        let mut blobs = BTreeMap::new();
        for image in &self.images {
            let bytes = self.blob_bytes(&image.manifest)?;
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let descriptor =
                json!({"mediaType": kind, "digest": image.manifest.to_string(), "size": bytes});
            manifests.extend(named(&descriptor, &image.names));
            let tags: Vec<String> = image.names.iter().map(Name::to_string).collect();
            let layers = image.record.layers.iter().map(|layer| layer.blob);
            docker.push(json!({
                "Config": members::blob_path(&image.record.id),
                "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
                "Layers": layers.clone().map(|blob| members::blob_path(&blob)).collect::<Vec<_>>(),
            }));
            for digest in layers.chain([image.manifest, image.record.id]) {
                blobs.insert(members::blob_path(&digest), digest);
            }
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        let documents = [
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("index.json", index),
            ("manifest.json", Value::Array(docker)),
        ];
        for (path, document) in documents {
            let content = document.to_string();
            member(&mut out, path, content.len() as u64, content.as_bytes())?;
        }
        for (path, digest) in blobs {
            let at = self.store.blob_path(&digest);
            let file = File::open(&at).map_err(Error::io("open", &at))?;
            member(&mut out, &path, self.blob_bytes(&digest)?, file)?;
        }
        out.write_all(&write::END).and_then(|()| out.flush()).map_err(failed)
    }

    fn blob_bytes(&self, digest: &Digest) -> Result<u64> {
        let path = self.store.blob_path(digest);
        Ok(path.metadata().map_err(Error::io("look at", &path))?.len())
    }
}

/// The index has an image once for each name: both annotations hold one.
fn named(descriptor: &Value, names: &[Name]) -> Vec<Value> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let with = |name: &Name| {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": name.full(),
            "org.opencontainers.image.ref.name": name.tag(),
        });
        descriptor
    };
    names.iter().map(with).collect()
}

fn member(out: &mut impl Write, path: &str, size: u64, content: impl Read) -> Result<()> {
    let entry = Entry {
        path: path.into(),
        link: Vec::new(),
        kind: Kind::File,
        size,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
        sparse: None,
    };
    out.write_all(&write::render(&entry)).map_err(failed)?;
    let copied = io::copy(&mut content.take(size), out).map_err(failed)?;
    if copied < size {
        let (what, reason) = (path.to_owned(), "a blob is shorter than it was".to_owned());
        return Err(Error::Document { what, reason });
    }
    out.write_all(&[0; 512][..padding(size)]).map_err(failed)
}

fn failed(source: io::Error) -> Error {
    Error::Read { what: ARCHIVE.to_owned(), source }
}

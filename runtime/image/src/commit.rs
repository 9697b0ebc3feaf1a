//! A new image from one that is here: its layers, at most one more, and a
//! configuration.
//!
//! Owns what `commit` and a build's steps have in common. Staged and published as
//! all else; the parent's blobs and layers are held meanwhile. Called by the agent.

use std::path::Path;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use oci_spec::image::History;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::members::discard;
use crate::owners::OwnerMapping;
use crate::reference::Name;
use crate::refs::{ImageRecord, LayerRecord};
use crate::session::{NewImage, Session};
use crate::store::{Loaded, Store};
use crate::{Digest, docker, document, oci, pack};

const NEW_LAYER: &str = "new layer";

/// What [`Store::commit`] makes an image of.
#[derive(Clone, Debug)]
pub struct Commit<'a> {
    /// Name or id of the image below; `None` begins with nothing (`scratch`).
    pub parent: Option<&'a str>,
    /// What lies over the parent's layers; `None` changes the configuration alone.
    pub changes: Option<Changes<'a>>,
    /// The image's whole configuration (OCI `config.md`), also with fields that OCI does
    /// not know, such as `config.Healthcheck`. `rootfs` and `history` are replaced.
    pub config: Value,
    /// This step; those of the parent come before it. `empty_layer` is set here.
    pub history: History,
    /// Names that the image takes, from others too; may be empty.
    pub names: &'a [String],
}

/// An overlay's upper directory. It is read and left as it is.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    pub upper: &'a Path,
    /// Set if the container that wrote it had a user namespace.
    pub owners: Option<OwnerMapping>,
}

impl Store {
    /// Makes an image of `commit.parent`, `commit.changes` packed as one gzip layer, and
    /// `commit.config`. Changes without an entry make no layer, as in Docker. The same
    /// input makes the same image.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the parent; [`Error::Refused`] or [`Error::Limit`] for what
    /// no layer may hold; [`Error::Document`] or [`Error::Json`] for a configuration
    /// which is none for this host; the store is then as before.
    pub fn commit(&self, commit: Commit<'_>) -> Result<Loaded> {
        self.commit_after(&[], commit)
    }

    /// The same; `earlier` are steps between the parent and this one that changed the
    /// configuration alone, and so need no image of their own.
    pub fn commit_after(&self, earlier: &[History], commit: Commit<'_>) -> Result<Loaded> {
        self.reached.count(self.commit_uncounted(earlier, commit))
    }

    fn commit_uncounted(&self, earlier: &[History], commit: Commit<'_>) -> Result<Loaded> {
        let names: Vec<Name> =
            commit.names.iter().map(|name| name.parse()).collect::<Result<_>>()?;
        let mut session = Session::new(self)?;
        let mut below = Below::default();
        if let Some(parent) = commit.parent {
            let record = session.hold_image(parent)?;
            below.history = self.document(&record)?["history"].take();
            below.layers = record.layers;
            below.id = Some(record.id);
        }
        let added =
            commit.changes.map(|changes| session.pack_layer(&changes)).transpose()?.flatten();
        let empty_layer = added.is_none();
        let layers: Vec<LayerRecord> = below.layers.into_iter().chain(added).collect();

        let mut config = commit.config;
        let mut history = below.history.as_array().cloned().unwrap_or_default();
        for step in earlier {
            history.push(render_history(step, true)?);
        }
        history.push(render_history(&commit.history, empty_layer)?);
        let Some(fields) = config.as_object_mut() else {
            let reason = "it is not an object".to_owned();
            return Err(Error::Document { what: "configuration".into(), reason });
        };
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        fields.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
        fields.insert("history".into(), history.into());

        let content = document::render("configuration", &config)?;
        let id = Digest::of(&content);
        let checked = oci::parse_config(&session, &id, &content, layers.len())?;
        let record = ImageRecord {
            created: checked.created().clone(),
            parent: below.id,
            ..ImageRecord::new(id, layers)
        };
        let image = session.stage_image(&content, record, names)?;
        let mut loaded = session.commit(vec![image])?;
        loaded.pop().ok_or(Error::NotAnImageArchive)
    }

    /// An image's configuration with all that it says, verified.
    pub(crate) fn document(&self, record: &ImageRecord) -> Result<Value> {
        let content = self.read_blob(&record.id)?;
        document::parse(&format!("configuration {}", record.id), &content)
    }
}

#[derive(Default)]
struct Below {
    id: Option<Digest>,
    layers: Vec<LayerRecord>,
    history: Value,
}

fn render_history(history: &History, empty_layer: bool) -> Result<Value> {
    let wrong = |source| Error::Json { what: "history".into(), source };
    let mut value = serde_json::to_value(history).map_err(wrong)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("empty_layer");
        if empty_layer {
            fields.insert("empty_layer".into(), true.into());
        }
    }
    Ok(value)
}

impl Session<'_> {
    /// The changes as a layer that is staged or in the store; `None` if there are none.
    fn pack_layer(&mut self, changes: &Changes<'_>) -> Result<Option<LayerRecord>> {
        let mut spool = self.spool()?;
        let mut gzip = GzEncoder::new(spool.writer(), Level::fast());
        let packed =
            pack::pack(NEW_LAYER, changes.upper, changes.owners, self.limits(), &mut gzip)?;
        gzip.finish().map_err(Error::io("write", NEW_LAYER))?;
        let spooled = spool.finish()?;
        if packed.entries == 0 {
            discard(&spooled);
            return Ok(None);
        }
        let blob = spooled.digest;
        if self.pin_blob(blob) {
            discard(&spooled);
        } else {
            self.add_blob(spooled);
        }
        // Unpacking what was packed is the proof that it can be, and a copy that the
        // container cannot change any more.
        self.unpack_layer(blob, Some(packed.diff_id)).map(Some)
    }

    /// Stages an image's two documents, its layers being staged or pinned.
    pub(crate) fn stage_image(
        &mut self,
        config: &[u8],
        record: ImageRecord,
        names: Vec<Name>,
    ) -> Result<NewImage> {
        let mut descriptors = Vec::new();
        for layer in &record.layers {
            let media_type = self.compression(&layer.blob)?.layer_media_type();
            let bytes = self.blob_bytes(&layer.blob)?;
            descriptors.push(docker::descriptor(media_type, bytes, &layer.blob)?);
        }
        let manifest = docker::manifest(&record.id, config.len() as u64, descriptors)?;
        let config = self.spool_bytes(config)?;
        self.add_blob(config);
        let manifest = self.spool_bytes(&manifest)?;
        let digest = manifest.digest;
        self.add_blob(manifest);
        Ok(NewImage { manifest: digest, record, names })
    }
}

//! One load or import: everything new is staged aside, then moved in together.
//!
//! Owns a directory below `tmp/` until it is committed or dropped, and the pins that
//! keep what the session relies on from being deleted meanwhile. Called by load and
//! import.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Digest;
use crate::compression::{Compression, Decoder};
use crate::digest::Hashing;
use crate::error::{Error, Result};
use crate::hold::Held;
use crate::limits::Limits;
use crate::publish::Move;
use crate::reference::Name;
use crate::refs::{ImageRecord, LayerRecord, sync_directory};
use crate::store::{LAYER_FILES, LAYER_RECORD, Loaded, Store};
use crate::unpack::{self, Budget, Unpacked};

/// A file in the session's directory, verified to have this digest.
#[derive(Clone, Debug)]
pub(crate) struct Spooled {
    pub path: PathBuf,
    pub digest: Digest,
    pub bytes: u64,
}

/// An image whose blobs and layers are all staged or in the store.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub manifest: Digest,
    pub record: ImageRecord,
    pub names: Vec<Name>,
}

#[derive(Debug)]
pub(crate) struct Session<'a> {
    store: &'a Store,
    dir: PathBuf,
    pins: Vec<Digest>,
    held: Vec<Held<'a>>,
    /// Blobs that are in the store already. Not the same as `pins`: a plain layer's
    /// blob and its unpacked directory have one digest.
    pinned_blobs: BTreeSet<Digest>,
    blobs: BTreeMap<Digest, Spooled>,
    layers: BTreeMap<Digest, PathBuf>,
    /// Layers that this session has verified.
    verified: Vec<LayerRecord>,
    /// Content that the session may still unpack.
    budget: Arc<Budget>,
    files: u64,
}

impl<'a> Session<'a> {
    pub fn new(store: &'a Store) -> Result<Session<'a>> {
        let dir = store.temp_path("session");
        fs::create_dir(&dir).map_err(Error::io("create directory", &dir))?;
        Ok(Session {
            store,
            dir,
            pins: Vec::new(),
            held: Vec::new(),
            pinned_blobs: BTreeSet::new(),
            blobs: BTreeMap::new(),
            layers: BTreeMap::new(),
            verified: Vec::new(),
            budget: Arc::new(Budget::new(store.limits().unpacked_bytes)),
            files: 0,
        })
    }

    pub fn limits(&self) -> &'a Limits {
        self.store.limits()
    }

    fn next_path(&mut self, kind: &str) -> PathBuf {
        self.files += 1;
        self.dir.join(format!("{kind}-{}", self.files))
    }

    /// A new file whose digest is known when [`Spool::finish`] is called.
    pub fn spool(&mut self) -> Result<Spool> {
        let path = self.next_path("spool");
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        Ok(Spool { writer: Hashing::new(file), path })
    }

    pub fn spool_bytes(&mut self, content: &[u8]) -> Result<Spooled> {
        let mut spool = self.spool()?;
        spool.write(content)?;
        spool.finish()
    }

    /// Copies `reader`, whose errors and limits name `what`.
    pub fn spool_reader(&mut self, what: &str, mut reader: impl Read) -> Result<Spooled> {
        let mut spool = self.spool()?;
        let allowed = self.limits().archive_bytes;
        let mut buffer = vec![0; 256 * 1024];
        let mut value = 0;
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return spool.finish(),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Read { what: what.to_owned(), source }),
            };
            value += n as u64;
            if value > allowed {
                return Err(Error::Limit {
                    what: what.to_owned(),
                    quantity: "size",
                    value,
                    allowed,
                });
            }
            spool.write(&buffer[..n])?;
        }
    }

    /// Makes a spooled file one of the store's blobs when the session is committed.
    pub fn add_blob(&mut self, spooled: Spooled) {
        self.blobs.insert(spooled.digest, spooled);
    }

    /// Whether the store has this blob already; if so it stays for this session.
    pub fn pin_blob(&mut self, digest: Digest) -> bool {
        let there = self.store.pin(digest, &self.store.blob_path(&digest));
        if there {
            self.pins.push(digest);
            self.pinned_blobs.insert(digest);
        }
        there
    }

    /// Holds an image of the store, found as [`Store::resolve`] does, with all that it
    /// consists of.
    pub fn hold_image(&mut self, name_or_id: &str) -> Result<ImageRecord> {
        let held = self.store.hold(name_or_id)?;
        let record = held.record.clone();
        self.pinned_blobs.extend([held.manifest, record.id]);
        self.pinned_blobs.extend(record.layers.iter().map(|layer| layer.blob));
        self.held.push(held);
        Ok(record)
    }

    /// Keeps what an image consists of, but not the image: it may lose its place in the
    /// store meanwhile.
    pub fn pin_content(&mut self, name_or_id: &str) -> Result<(Digest, ImageRecord)> {
        let (manifest, record) = self.store.state().pin_image(name_or_id)?;
        self.pins.extend(record.digests(&manifest));
        Ok((manifest, record))
    }

    /// Whether this session has added or pinned the blob.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest) || self.pinned_blobs.contains(digest)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        match self.blobs.get(digest) {
            Some(spooled) => spooled.path.clone(),
            None => self.store.blob_path(digest),
        }
    }

    pub fn blob_bytes(&self, blob: &Digest) -> Result<u64> {
        let path = self.blob_path(blob);
        Ok(fs::metadata(&path).map_err(Error::io("look at", &path))?.len())
    }

    /// How the blob of this digest is compressed.
    pub fn compression(&self, blob: &Digest) -> Result<Compression> {
        let path = self.blob_path(blob);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Decoder::new(&layer_name(blob), file)?.compression())
    }

    /// Unpacks a blob that was added or pinned, unless its content is there already.
    /// `expected` is what its image says; the blob's content must be that in any case.
    pub fn unpack_layer(&mut self, blob: Digest, expected: Option<Digest>) -> Result<LayerRecord> {
        if let Some(diff_id) = expected {
            let same = |layer: &&LayerRecord| (layer.blob, layer.diff_id) == (blob, diff_id);
            if let Some(layer) = self.verified.iter().find(same) {
                return Ok(*layer);
            }
            if let Some(layer) = self.known_in_store(&blob, &diff_id) {
                return Ok(layer);
            }
            // It was unpacked from this very blob, which was checked then.
            if let Some(layer) = self.layer_if_there(&diff_id).filter(|layer| layer.blob == blob) {
                return Ok(layer);
            }
        }
        let what = layer_name(&blob);
        let path = self.blob_path(&blob);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let stream = Decoder::new(&what, file)?;
        let there = expected.and_then(|diff_id| Some((diff_id, self.size_if_there(&diff_id)?)));
        let layer = match there {
            Some((expected, size_bytes)) => {
                check_content(&what, stream, self.limits(), expected)?;
                LayerRecord { blob, diff_id: expected, size_bytes }
            }
            None => self.unpack_new(&what, stream, blob, expected)?,
        };
        self.verified.push(layer);
        Ok(layer)
    }

    fn unpack_new(
        &mut self,
        what: &str,
        stream: impl Read,
        blob: Digest,
        expected: Option<Digest>,
    ) -> Result<LayerRecord> {
        let place = self.layer_place();
        let unpacked = place.unpack(what, stream, expected)?;
        let (layer, dir) = place.finish(blob, &unpacked)?;
        self.layers.insert(layer.diff_id, dir);
        Ok(layer)
    }

    /// Where a layer can be unpacked without the session, on another thread.
    pub fn layer_place(&mut self) -> LayerPlace<'a> {
        let dir = self.next_path("layer");
        LayerPlace { dir, limits: self.limits(), budget: Arc::clone(&self.budget) }
    }

    /// Takes what was unpacked there and the blob it came from into the store at once, where
    /// others find them. They stay for this session, and go with it if nobody needs them then.
    pub fn land_layer(
        &mut self,
        spooled: Spooled,
        layer: LayerRecord,
        dir: Option<PathBuf>,
    ) -> Result<()> {
        let to = self.store.blob_path(&layer.blob);
        let mut moves = vec![Move { from: spooled.path, to, digest: layer.blob }];
        if let Some(from) = dir {
            let to = self.store.layer_path(&layer.diff_id);
            moves.push(Move { from, to, digest: layer.diff_id });
        }
        self.store.land(&moves)?;
        self.pins.extend(moves.iter().map(|moved| moved.digest));
        self.pinned_blobs.insert(layer.blob);
        self.verified.push(layer);
        Ok(())
    }

    fn known_in_store(&mut self, blob: &Digest, diff_id: &Digest) -> Option<LayerRecord> {
        let known = self.store.known_layer(blob, diff_id)?;
        self.size_if_there(diff_id).map(|_| known)
    }

    /// The unpacked size of a layer that is staged or in the store, where it then stays.
    pub fn size_if_there(&mut self, diff_id: &Digest) -> Option<u64> {
        self.layer_if_there(diff_id).map(|layer| layer.size_bytes)
    }

    /// What the layer's own record says; its blob may be another one than what is at hand.
    fn layer_if_there(&mut self, diff_id: &Digest) -> Option<LayerRecord> {
        let dir = match self.layers.get(diff_id) {
            Some(dir) => dir.clone(),
            None => {
                let dir = self.store.layer_path(diff_id);
                if !self.store.pin(*diff_id, &dir) {
                    return None;
                }
                self.pins.push(*diff_id);
                dir
            }
        };
        let text = fs::read(dir.join(LAYER_RECORD)).ok()?;
        serde_json::from_slice::<LayerRecord>(&text).ok()
    }

    /// Moves everything in and makes the names point to it, or changes nothing.
    pub fn commit(self, images: Vec<NewImage>) -> Result<Vec<Loaded>> {
        self.commit_with(images, Vec::new())
    }

    /// The same, with names by digest (`docker.io/library/demo@sha256:…`) for these images.
    pub fn commit_with(
        mut self,
        images: Vec<NewImage>,
        digests: Vec<(String, Digest)>,
    ) -> Result<Vec<Loaded>> {
        self.sync()?;
        let store = self.store;
        let layers = std::mem::take(&mut self.layers).into_iter();
        let layers =
            layers.map(|(digest, from)| Move { from, to: store.layer_path(&digest), digest });
        let blobs = std::mem::take(&mut self.blobs).into_values();
        let blobs = blobs.map(|Spooled { path, digest, .. }| Move {
            from: path,
            to: store.blob_path(&digest),
            digest,
        });
        let moves = layers.chain(blobs).collect();
        store.publish(moves, images, digests)
    }

    /// One flush of the file system covers all layers' files; a flush per file takes
    /// far longer.
    fn sync(&self) -> Result<()> {
        let dir = File::open(&self.dir).map_err(Error::io("open", &self.dir))?;
        rustix::fs::syncfs(&dir).map_err(Error::io("flush", &self.dir))?;
        sync_directory(&self.dir)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "temporary files stay until the next start");
        }
        self.store.unpin(&self.pins);
    }
}

/// A directory of a session in which one layer is to be.
pub(crate) struct LayerPlace<'a> {
    dir: PathBuf,
    limits: &'a Limits,
    budget: Arc<Budget>,
}

impl LayerPlace<'_> {
    /// Unpacks a decompressed stream; `expected` is the digest that it must have.
    pub fn unpack(
        &self,
        what: &str,
        stream: impl Read,
        expected: Option<Digest>,
    ) -> Result<Unpacked> {
        fs::create_dir(&self.dir).map_err(Error::io("create directory", &self.dir))?;
        let files = self.dir.join(LAYER_FILES);
        let unpacked = unpack::unpack(what, stream, &files, self.limits, &self.budget)?;
        check_diff_id(what, expected, unpacked.diff_id)?;
        if expected.is_none() && unpacked.entries == 0 {
            return Err(Error::Document {
                what: what.to_owned(),
                reason: "it holds no files".into(),
            });
        }
        Ok(unpacked)
    }

    /// Writes the layer's record; returns where the layer is.
    pub fn finish(self, blob: Digest, unpacked: &Unpacked) -> Result<(LayerRecord, PathBuf)> {
        let Unpacked { diff_id, size_bytes, entries } = *unpacked;
        let layer = LayerRecord { blob, diff_id, size_bytes };
        write_record(&self.dir.join(LAYER_RECORD), &layer)?;
        tracing::debug!(layer = %diff_id, entries, size_bytes, "unpacked");
        Ok((layer, self.dir))
    }
}

fn write_record(path: &Path, layer: &LayerRecord) -> Result<()> {
    let text = serde_json::to_vec(layer)
        .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    fs::write(path, text).map_err(Error::io("write", path))
}

/// The digest of a decompressed stream whose layer is there already.
pub(crate) fn check_content(
    what: &str,
    stream: impl Read,
    limits: &Limits,
    expected: Digest,
) -> Result<()> {
    let archive = crate::archive::Archive::new(what, Hashing::new(stream), limits);
    let (_, diff_id, _) = archive.drain()?.finish();
    check_diff_id(what, Some(expected), diff_id)
}

/// A file of a session that is being written.
pub(crate) struct Spool {
    writer: Hashing<File>,
    path: PathBuf,
}

impl Spool {
    pub fn write(&mut self, content: &[u8]) -> Result<()> {
        self.writer.write_all(content).map_err(Error::io("write", &self.path))
    }

    /// For what writes by itself.
    pub fn writer(&mut self) -> &mut impl Write {
        &mut self.writer
    }

    pub fn finish(self) -> Result<Spooled> {
        let (_, digest, bytes) = self.writer.finish();
        Ok(Spooled { path: self.path, digest, bytes })
    }
}

pub(crate) fn layer_name(blob: &Digest) -> String {
    format!("layer {blob}")
}

fn check_diff_id(what: &str, expected: Option<Digest>, actual: Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != actual => {
            let what = format!("{what}, uncompressed (diff_id)");
            Err(Error::DigestMismatch { what, expected, actual })
        }
        _ => Ok(()),
    }
}

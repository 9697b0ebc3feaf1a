//! The store: blobs by digest, layers by diff_id, images by name.
//!
//! ```text
//! lock                  held by the one process that has the store open
//! images.json           names → manifests → configuration, layers
//! blobs/sha256/<hex>    manifests, configurations, layers as they came
//! layers/<hex>/fs       a layer, unpacked, by the digest of its uncompressed tar
//! layers/<hex>/layer.json
//! reserve               room for images.json, should the disk be full
//! tmp/                  whatever is not finished; emptied when the store is opened
//! empty/                the root of an image without layers
//! ```
//!
//! Owns these files and nothing else. Everything appears by rename and only
//! `images.json` makes it count, so a crash leaves nothing but rubbish, which the
//! next [`Store::open`] removes. Does not know containers: who uses an image is
//! asked through a callback.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;
use serde_json::Value;

use crate::Digest;
use crate::document;
use crate::error::{Error, Result};
use crate::flights::Flights;
use crate::limits::{Limits, Reached};
use crate::lookup::find;
use crate::publish::{delete, remove_all};
use crate::reference::Name;
use crate::refs::{ImageRecord, Refs};
use crate::removal::shared_bytes;
use crate::reserve::Reserve;

pub(crate) const LAYER_FILES: &str = "fs";
pub(crate) const LAYER_RECORD: &str = "layer.json";
pub(crate) const TEMP: &str = "tmp";
const EMPTY: &str = "empty";

/// What load and import made. An image with several names occurs once per name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Short, with tag: `demo:latest`. `None` if the archive does not name the image.
    pub name: Option<String>,
    /// The manifest's digest.
    pub digest: Digest,
    /// The configuration's digest: the image's id.
    pub id: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The configuration's digest.
    pub id: Digest,
    /// Short, with tags, sorted. Empty for an image that lost its names.
    pub names: Vec<String>,
    /// Short, `demo@sha256:…`: under what registries know it.
    pub digests: Vec<String>,
    pub manifest_digest: Digest,
    /// Bytes of file content of all layers, unpacked.
    pub size_bytes: u64,
    /// Of layers that another image has as well.
    pub shared_bytes: u64,
    /// RFC 3339, as the image's configuration says it.
    pub created: Option<String>,
    /// The id of the image that this one was made of, on this host; it may be gone.
    pub parent: Option<Digest>,
    /// Another image was made of this one.
    pub has_children: bool,
}

/// An image that is ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The configuration's digest.
    pub id: Digest,
    /// Short, with tags, sorted.
    pub names: Vec<String>,
    /// Short, `demo@sha256:…`: under what registries know it.
    pub digests: Vec<String>,
    pub config: ImageConfiguration,
    /// The same as a whole, also what OCI has no field for, such as `config.Healthcheck`.
    pub document: Value,
    /// Absolute directories, the topmost first, each once, as overlayfs wants its
    /// lower directories. At least one.
    pub layers: Vec<PathBuf>,
    pub manifest_digest: Digest,
    /// The id of the image that this one was made of, on this host; it may be gone.
    pub parent: Option<Digest>,
}

/// Shared between threads by reference; all methods block.
#[derive(Debug)]
pub struct Store {
    pub(crate) dir: PathBuf,
    limits: Limits,
    pub(crate) reached: Reached,
    /// Layers that pulls are fetching now.
    pub(crate) flights: Flights,
    pub(crate) reserve: Reserve,
    state: Mutex<State>,
    /// Numbers for names below `tmp/`.
    pub(crate) temps: AtomicU64,
    /// Holds the lock as long as the store lives.
    _lock: File,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub refs: Refs,
    /// How many sessions rely on a blob or layer that is in the store.
    pub pins: BTreeMap<Digest, usize>,
    /// How many rely on the image of a manifest as a whole, its record included.
    pub holds: BTreeMap<Digest, usize>,
}

impl Store {
    /// Opens the store in `dir`, which is created if missing, and removes what a
    /// crash left. One process at a time: [`Error::Locked`].
    pub fn open(dir: &Path) -> Result<Store> {
        Store::open_with(dir, Limits::default())
    }

    pub fn open_with(dir: &Path, limits: Limits) -> Result<Store> {
        // Private, since layers hold set-id programs of strangers.
        let create = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(Error::io("create directory", path))
        };
        create(dir)?;
        let dir = dir.canonicalize().map_err(Error::io("resolve", dir))?;
        let lock_path = dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(Error::io("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked { path: dir }),
            Err(errno) => return Err(Error::io("lock", lock_path)(errno)),
        }
        for part in ["blobs/sha256", "layers", TEMP] {
            create(&dir.join(part))?;
        }
        let empty = dir.join(EMPTY);
        create(&empty)?;
        let public = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&empty, public).map_err(Error::io("set mode of", &empty))?;
        let store = Store {
            limits,
            reached: Reached::default(),
            flights: Flights::default(),
            reserve: Reserve::new(&dir),
            state: Mutex::new(State::default()),
            temps: AtomicU64::new(0),
            _lock: lock,
            dir,
        };
        store.empty_temp()?;
        store.read_refs()?;
        Ok(store)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How often each bound ended a load, an import, a pull or a commit, by what it bounds.
    pub fn limits_reached(&self) -> Vec<(&'static str, u64)> {
        self.reached.read()
    }

    /// All images, the newest first.
    pub fn list(&self) -> Result<Vec<ImageSummary>> {
        let state = self.state();
        let users = state.refs.layer_users();
        let summary = |(manifest, image): (&Digest, &ImageRecord)| ImageSummary {
            id: image.id,
            names: state.refs.names_of(manifest),
            digests: state.refs.digests_of(manifest),
            manifest_digest: *manifest,
            size_bytes: image.size_bytes(),
            shared_bytes: shared_bytes(image, &users),
            created: image.created.clone(),
            parent: image.parent,
            has_children: state.refs.has_children(&image.id),
        };
        let mut images: Vec<_> = state.refs.images.iter().map(summary).collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.names.cmp(&b.names)));
        Ok(images)
    }

    /// Bytes of file content of all layers, each once.
    pub fn layers_bytes(&self) -> u64 {
        self.state().refs.layer_sizes().values().sum()
    }

    /// The image of this name, id (full, or at least 4 digits of it), manifest digest,
    /// or `name@sha256:…`. Its layers stay as long as [`Store::remove`] is told that
    /// the image is in use, or it is held ([`Store::hold`]).
    pub fn resolve(&self, name_or_id: &str) -> Result<Image> {
        let (manifest_digest, record, names, digests) = {
            let state = self.state();
            let found = find(&state.refs, name_or_id)?.manifest;
            let Refs { images, .. } = &state.refs;
            let (names, digests) = (state.refs.names_of(&found), state.refs.digests_of(&found));
            (found, images[&found].clone(), names, digests)
        };
        let content = self.read_blob(&record.id)?;
        let what = format!("configuration {}", record.id);
        let config = document::parse(&what, &content)?;
        let document = document::parse(&what, &content)?;
        let mut layers = Vec::new();
        for layer in record.layers.iter().rev() {
            let path = self.layer_path(&layer.diff_id).join(LAYER_FILES);
            // overlayfs refuses a directory twice; the topmost of them hides the others.
            if layers.contains(&path) {
                continue;
            }
            if !path.is_dir() {
                return Err(Error::Corrupt { path, reason: "the layer is not there".into() });
            }
            layers.push(path);
        }
        if layers.is_empty() {
            layers.push(self.dir.join(EMPTY));
        }
        let parent = record.parent;
        Ok(Image {
            id: record.id,
            names,
            digests,
            config,
            document,
            layers,
            manifest_digest,
            parent,
        })
    }

    /// A document's content, verified.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let content = fs::read(&path).map_err(Error::io("read", &path))?;
        if Digest::of(&content) != *digest {
            return Err(Error::Corrupt { path, reason: "its content has another digest".into() });
        }
        Ok(content)
    }

    /// Gives an image one more name, taking it from any other. Returns the short name.
    pub fn tag(&self, name_or_id: &str, name: &str) -> Result<String> {
        let name: Name = name.parse()?;
        let mut state = self.state();
        let manifest = find(&state.refs, name_or_id)?.manifest;
        let mut refs = state.refs.clone();
        refs.names.insert(name.full(), manifest);
        self.replace_refs(&mut state, refs)?;
        Ok(name.to_string())
    }

    fn empty_temp(&self) -> Result<()> {
        let temp = self.dir.join(TEMP);
        for entry in fs::read_dir(&temp).map_err(Error::io("list", &temp))? {
            let path = entry.map_err(Error::io("list", &temp))?.path();
            remove_all(&path).map_err(Error::io("remove unfinished", &path))?;
        }
        Ok(())
    }

    /// Without the file nobody knows what is rubbish: a store that has content but no
    /// `images.json` is damaged.
    fn read_refs(&self) -> Result<()> {
        let on_disk = self.on_disk()?;
        let mut state = self.state();
        match Refs::read(&self.dir)? {
            Some(refs) => {
                state.refs = refs;
                let written = fs::metadata(self.dir.join(crate::refs::FILE));
                self.reserve.keep(written.map_or(0, |file| file.len()));
            }
            None if on_disk.is_empty() => {
                let refs = Refs::default();
                self.replace_refs(&mut state, refs)?;
            }
            None => {
                let reason = "the store has blobs or layers, but this file is missing".into();
                return Err(Error::Corrupt { path: self.dir.join(crate::refs::FILE), reason });
            }
        }
        let trash = self.sweep(&state, on_disk);
        drop(state);
        if !trash.is_empty() {
            tracing::info!(count = trash.len(), "removing blobs and layers of no image");
        }
        delete(trash);
        Ok(())
    }

    fn on_disk(&self) -> Result<BTreeSet<Digest>> {
        let mut digests = BTreeSet::new();
        for part in ["blobs/sha256", "layers"] {
            let dir = self.dir.join(part);
            for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
                let name = entry.map_err(Error::io("list", &dir))?.file_name();
                digests.extend(name.to_str().and_then(Digest::from_hex));
            }
        }
        Ok(digests)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere left no half change: the state is replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

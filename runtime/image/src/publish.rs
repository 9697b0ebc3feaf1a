//! How things come into the store and leave it: by one rename each, under one lock.
//!
//! Owns places, pins and rubbish. A blob or layer is removed only when no image and
//! no session needs it; it is first renamed into `tmp/`, so that nobody sees it half
//! deleted. Called by sessions and by [`crate::store`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::Digest;
use crate::error::{Error, Result};
use crate::lookup::find;
use crate::refs::{ImageRecord, LayerRecord, Refs, sync_directory};
use crate::reserve::is_full;
use crate::session::NewImage;
use crate::store::{Loaded, State, Store, TEMP};

/// A staged blob or layer and the place it is to have.
#[derive(Debug)]
pub(crate) struct Move {
    pub from: PathBuf,
    pub to: PathBuf,
    pub digest: Digest,
}

impl State {
    /// Finds an image and keeps its blobs and layers from being deleted.
    pub fn pin_image(&mut self, name_or_id: &str) -> Result<(Digest, ImageRecord)> {
        let manifest = find(&self.refs, name_or_id)?.manifest;
        let record = self.refs.images[&manifest].clone();
        for digest in record.digests(&manifest) {
            *self.pins.entry(digest).or_default() += 1;
        }
        Ok((manifest, record))
    }
}

impl Store {
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// A name below `tmp/` that nothing has.
    pub(crate) fn temp_path(&self, kind: &str) -> PathBuf {
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        self.dir.join(TEMP).join(format!("{kind}-{number}"))
    }

    /// Keeps a blob or layer from being deleted, if `path`, its place, is there.
    pub(crate) fn pin(&self, digest: Digest, path: &Path) -> bool {
        let mut state = self.state();
        let there = path.exists();
        if there {
            *state.pins.entry(digest).or_default() += 1;
        }
        there
    }

    /// Moves staged blobs and layers in that no image has yet, and keeps them as [`Store::pin`]
    /// does. Nothing is flushed: who makes an image of them flushes all, and what belongs to no
    /// image after a crash is rubbish.
    pub(crate) fn land(&self, moves: &[Move]) -> Result<()> {
        let mut state = self.state();
        for Move { from, to, .. } in moves {
            move_one(from, to)?;
        }
        for Move { digest, .. } in moves {
            *state.pins.entry(*digest).or_default() += 1;
        }
        Ok(())
    }

    pub(crate) fn unpin(&self, digests: &[Digest]) {
        let mut state = self.state();
        for digest in digests {
            if let Some(count) = state.pins.get_mut(digest) {
                *count -= 1;
            }
        }
        state.pins.retain(|_, count| *count > 0);
        let trash = self.sweep(&state, digests.iter().copied());
        drop(state);
        delete(trash);
    }

    pub(crate) fn known_layer(&self, blob: &Digest, diff_id: &Digest) -> Option<LayerRecord> {
        self.state().refs.known_layer(blob, diff_id)
    }

    /// Moves staged blobs and layers in and records the images, with their names by digest
    /// (full) beside their own. If that fails, what
    /// was moved is removed again.
    pub(crate) fn publish(
        &self,
        moves: Vec<Move>,
        images: Vec<NewImage>,
        digests: Vec<(String, Digest)>,
    ) -> Result<Vec<Loaded>> {
        let mut state = self.state();
        let mut refs = state.refs.clone();
        let mut loaded = Vec::new();
        for NewImage { manifest, record, names } in images {
            let id = record.id;
            let one = |name| Loaded { name, digest: manifest, id };
            let known = refs.images.get(&manifest).and_then(|known| known.parent);
            let parent = record.parent.or(known);
            refs.images.insert(manifest, ImageRecord { parent, ..record });
            if names.is_empty() {
                loaded.push(one(None));
            }
            for name in names {
                refs.names.insert(name.full(), manifest);
                loaded.push(one(Some(name.to_string())));
            }
        }
        refs.digests.extend(digests);
        let done = self.move_in(&moves).and_then(|()| self.replace_refs(&mut state, refs));
        if let Err(error) = done {
            let trash = self.sweep(&state, moves.iter().map(|moved| moved.digest));
            drop(state);
            delete(trash);
            return Err(error);
        }
        Ok(loaded)
    }

    fn move_in(&self, moves: &[Move]) -> Result<()> {
        for Move { from, to, .. } in moves {
            move_one(from, to)?;
        }
        sync_directory(&self.dir.join("blobs/sha256"))?;
        sync_directory(&self.dir.join("layers"))
    }

    pub(crate) fn replace_refs(&self, state: &mut State, mut refs: Refs) -> Result<()> {
        refs.forget_digests_of_no_image();
        let bytes = refs.write(&self.dir, &self.temp_path("images"))?;
        state.refs = refs;
        self.reserve.keep(bytes);
        Ok(())
    }

    /// The same for what makes the file shorter: it finds room on a full disk, too.
    pub(crate) fn replace_refs_by_less(&self, state: &mut State, refs: Refs) -> Result<()> {
        match self.replace_refs(state, refs.clone()) {
            Err(error) if is_full(&error) && self.reserve.give_up() => {
                tracing::warn!("the disk is full: the room that is kept for removals is used");
                self.replace_refs(state, refs)
            }
            other => other,
        }
    }

    /// Takes candidates that nobody needs out of their place; returns where they are
    /// now, for [`delete`] after the lock is released.
    pub(crate) fn sweep(
        &self,
        state: &State,
        candidates: impl IntoIterator<Item = Digest>,
    ) -> Vec<PathBuf> {
        let live = state.refs.live();
        let mut trash = Vec::new();
        for digest in candidates {
            if live.contains(&digest) || state.pins.contains_key(&digest) {
                continue;
            }
            for path in [self.blob_path(&digest), self.layer_path(&digest)] {
                let temp = self.temp_path("trash");
                match fs::rename(&path, &temp) {
                    Ok(()) => trash.push(temp),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "stays until the next start");
                    }
                }
            }
        }
        trash
    }
}

fn move_one(from: &Path, to: &Path) -> Result<()> {
    // Content-addressed: what is there is the same.
    if to.exists() {
        return Ok(());
    }
    fs::rename(from, to).map_err(Error::io("move into place", to))
}

pub(crate) fn delete(trash: Vec<PathBuf>) {
    for path in trash {
        if let Err(error) = remove_all(&path) {
            tracing::warn!(path = %path.display(), %error, "stays until the next start");
        }
    }
}

pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

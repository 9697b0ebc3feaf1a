//! An image that stays while somebody begins to use it.
//!
//! Owns the moment between finding an image and being known as its user: a container that
//! is made is in nobody's list until its record is written. Called by the lifecycle engine
//! and by builds.

use crate::Digest;
use crate::error::Result;
use crate::refs::ImageRecord;
use crate::store::{Image, Store};

/// Dropped when whoever holds it is known to those whom [`Store::remove`] asks.
#[derive(Debug)]
pub struct Held<'a> {
    store: &'a Store,
    pub(crate) manifest: Digest,
    pub(crate) record: ImageRecord,
}

impl Store {
    /// Finds an image as [`Store::resolve`] does, and keeps it until the answer is
    /// dropped: [`Store::remove`] may take its names, never itself.
    pub fn hold(&self, name_or_id: &str) -> Result<Held<'_>> {
        let mut state = self.state();
        let (manifest, record) = state.pin_image(name_or_id)?;
        *state.holds.entry(manifest).or_default() += 1;
        drop(state);
        Ok(Held { store: self, manifest, record })
    }
}

impl Held<'_> {
    pub fn image(&self) -> Result<Image> {
        self.store.resolve(&self.manifest.to_string())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(count) = state.holds.get_mut(&self.manifest) {
            *count -= 1;
        }
        state.holds.retain(|_, count| *count > 0);
        drop(state);
        self.store.unpin(&self.record.digests(&self.manifest).into_iter().collect::<Vec<_>>());
    }
}

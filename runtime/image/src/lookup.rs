//! From what people type to an image.
//!
//! Owns the order of meanings; pure over [`Refs`]. Called by the store.

use std::collections::BTreeSet;

use crate::Digest;
use crate::error::{Error, Result};
use crate::reference::{Name, Query, Wanted};
use crate::refs::Refs;

pub(crate) struct Found {
    pub manifest: Digest,
    /// Set if it was found by this name.
    pub name: Option<Name>,
    /// Set if it was found by a repository and a digest under which a registry knows it:
    /// their name in [`Refs::digests`].
    pub digest_name: Option<String>,
}

/// As Docker: a full digest, then a name, then an id's beginning.
pub(crate) fn find(refs: &Refs, text: &str) -> Result<Found> {
    let query = Query::parse(text)?;
    let not_found = || Error::NotFound { name: text.to_owned() };
    let by_id = |manifest: Digest| Found { manifest, name: None, digest_name: None };
    if let Some(digest) = query.digest {
        if let Some(repository) = query.repository {
            let full = text.parse::<Wanted>()?.name.with_digest(&digest);
            if let Some(manifest) = refs.digests.get(&full) {
                return Ok(Found { manifest: *manifest, name: None, digest_name: Some(full) });
            }
            let names = refs.names.iter().filter(|(_, of)| **of == digest);
            let mut names = names.filter_map(|(name, _)| name.parse::<Name>().ok());
            let found = names.any(|name| name.repository() == repository);
            return found.then(|| by_id(digest)).ok_or_else(not_found);
        }
        if refs.images.contains_key(&digest) {
            return Ok(by_id(digest));
        }
        return with_id(refs, |id| *id == digest)
            .first()
            .map(|(_, of)| by_id(*of))
            .ok_or_else(not_found);
    }
    if let Some(name) = query.name
        && let Some(manifest) = refs.names.get(&name.full())
    {
        return Ok(Found { manifest: *manifest, name: Some(name), digest_name: None });
    }
    let prefix = query.id_prefix.ok_or_else(not_found)?;
    let matching = with_id(refs, |id| id.hex().starts_with(&prefix));
    let ids: BTreeSet<Digest> = matching.iter().map(|(id, _)| *id).collect();
    if ids.len() > 1 {
        let candidates = ids.iter().take(10).map(Digest::short).collect();
        return Err(Error::Ambiguous { prefix, candidates });
    }
    matching.first().map(|(_, of)| by_id(*of)).ok_or_else(not_found)
}

/// Images by id, named ones first: one configuration may have several manifests.
fn with_id(refs: &Refs, matches: impl Fn(&Digest) -> bool) -> Vec<(Digest, Digest)> {
    let images = refs.images.iter().filter(|(_, image)| matches(&image.id));
    let mut found: Vec<_> = images.map(|(manifest, image)| (image.id, *manifest)).collect();
    found.sort_by_key(|(_, manifest)| !refs.names.values().any(|of| of == manifest));
    found
}

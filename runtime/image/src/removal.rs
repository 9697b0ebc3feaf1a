//! What leaves the store, and what may not: names, images, and parents that nothing
//! needs any more.
//!
//! Owns the rules, which are Docker's (moby `daemon/images/image_delete.go`) but for one:
//! an image that a stopped container uses loses its names by force, never its layers.
//! [`Plan`] decides over a copy of the names and images; the store then replaces them
//! at once. Called by the agent.

use std::collections::{BTreeMap, BTreeSet};

use crate::Digest;
use crate::error::{Error, Result};
use crate::lookup::{Found, find};
use crate::publish::delete;
use crate::reference::Wanted;
use crate::refs::{ImageRecord, Refs};
use crate::store::Store;

/// Who keeps an image from being removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    Container {
        /// Short.
        id: String,
        running: bool,
    },
    /// One in progress.
    Build,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Takes all names, also from an image that a stopped container uses.
    pub force: bool,
    /// Leaves the images that this one was made of, though they have no name.
    pub keep_parents: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Short names that are gone.
    pub untagged: Vec<String>,
    /// Ids of images that are gone, with whatever no other image needs.
    pub deleted: Vec<Digest>,
    /// Bytes of file content of the layers that are gone.
    pub freed_bytes: u64,
}

impl Store {
    /// By name: removes the name, and the image too if that was its last one and it was
    /// made into no other; by id or digest: removes the image. Parents without names go
    /// with it.
    ///
    /// `users` is asked with image ids while the store is locked: it must not call the
    /// store. It should name a running container before a stopped one.
    ///
    /// # Errors
    /// [`Error::InUse`] and [`Error::NameInUse`], in Docker's words; nothing is changed then.
    pub fn remove(
        &self,
        name_or_id: &str,
        how: Removal,
        users: &dyn Fn(&Digest) -> Option<User>,
    ) -> Result<Removed> {
        self.change(users, |plan| {
            let found = find(&plan.refs, name_or_id)?;
            plan.remove(name_or_id, found, how)
        })
    }

    /// Removes the images that are `wanted` of those without names that were made into
    /// no other, or with `named` of all; and what nothing needs after that. Images in use
    /// stay. `wanted` and `users` are asked while the store is locked.
    pub fn prune(
        &self,
        named: bool,
        wanted: &dyn Fn(&Digest) -> bool,
        users: &dyn Fn(&Digest) -> Option<User>,
    ) -> Result<Removed> {
        self.change(users, |plan| plan.prune(named, wanted))
    }

    fn change(
        &self,
        users: &dyn Fn(&Digest) -> Option<User>,
        decide: impl FnOnce(&mut Plan<'_>) -> Result<()>,
    ) -> Result<Removed> {
        let mut state = self.state();
        let held = |manifest: &Digest| state.holds.contains_key(manifest);
        let mut plan =
            Plan { refs: state.refs.clone(), removed: Removed::default(), users, held: &held };
        decide(&mut plan)?;
        let Plan { refs, mut removed, .. } = plan;
        if refs == state.refs {
            return Ok(removed);
        }
        let before = state.refs.layer_sizes();
        let candidates = state.refs.live();
        self.replace_refs_by_less(&mut state, refs)?;
        let after = state.refs.layer_sizes();
        removed.freed_bytes = before
            .iter()
            .filter(|(layer, _)| !after.contains_key(layer))
            .map(|(_, size)| size)
            .sum();
        let trash = self.sweep(&state, candidates);
        drop(state);
        delete(trash);
        Ok(removed)
    }
}

/// Bytes of the layers that more than one image has.
pub(crate) fn shared_bytes(image: &ImageRecord, users: &BTreeMap<Digest, usize>) -> u64 {
    let layers: BTreeMap<_, _> =
        image.layers.iter().map(|layer| (layer.diff_id, layer.size_bytes)).collect();
    let shared =
        layers.iter().filter(|(layer, _)| users.get(layer).is_some_and(|users| *users > 1));
    shared.map(|(_, size)| size).sum()
}

impl Refs {
    /// How many images, by id, have a layer, by diff_id.
    pub(crate) fn layer_users(&self) -> BTreeMap<Digest, usize> {
        let of = |image: &ImageRecord| {
            let id = image.id;
            image.layers.iter().map(move |layer| (layer.diff_id, id)).collect::<Vec<_>>()
        };
        let pairs: BTreeSet<(Digest, Digest)> = self.images.values().flat_map(of).collect();
        let mut users = BTreeMap::new();
        for (layer, _) in pairs {
            *users.entry(layer).or_default() += 1;
        }
        users
    }

    /// Bytes of file content by diff_id.
    pub(crate) fn layer_sizes(&self) -> BTreeMap<Digest, u64> {
        let layers = self.images.values().flat_map(|image| &image.layers);
        layers.map(|layer| (layer.diff_id, layer.size_bytes)).collect()
    }

    /// Full names of all manifests of an image.
    fn names_of_id(&self, id: &Digest) -> Vec<String> {
        let of = |manifest: &Digest| self.images.get(manifest).is_some_and(|image| image.id == *id);
        self.names
            .iter()
            .filter(|(_, manifest)| of(manifest))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Names by tag and by digest, full.
    fn references_of_id(&self, id: &Digest) -> Vec<String> {
        let of = |manifest: &Digest| self.images.get(manifest).is_some_and(|image| image.id == *id);
        let digests = self.digests.iter().filter(|(_, manifest)| of(manifest));
        let mut references = self.names_of_id(id);
        references.extend(digests.map(|(name, _)| name.clone()));
        references
    }

    /// Whether another image was made of this one.
    pub(crate) fn has_children(&self, id: &Digest) -> bool {
        self.images.values().any(|image| image.parent == Some(*id) && image.id != *id)
    }
}

/// What the store is to be, and what that removes. Pure but for what it asks.
struct Plan<'a> {
    refs: Refs,
    removed: Removed,
    users: &'a dyn Fn(&Digest) -> Option<User>,
    /// Whether something that has just begun relies on the image of this manifest.
    held: &'a dyn Fn(&Digest) -> bool,
}

/// Why an image stays.
struct Conflict {
    hard: bool,
    /// By a container, or by what has just begun.
    used: bool,
    reason: String,
}

impl Plan<'_> {
    fn remove(&mut self, text: &str, found: Found, how: Removal) -> Result<()> {
        let id = self.refs.images[&found.manifest].id;
        let references = self.refs.references_of_id(&id);
        let single = is_single(&references);
        let Some(reference) = found.name.map(|name| name.full()).or(found.digest_name) else {
            if single {
                // Its one name goes with it.
                if let Some(conflict) = self.conflict(&id, how.force, false) {
                    return Err(in_use(&id, &conflict));
                }
                self.untag(references);
            }
            return self.delete(&id, how, false);
        };
        if !how.force
            && single
            && let Some(user) = (self.users)(&id)
        {
            let user = match user {
                User::Container { id, .. } => format!("container {id}"),
                User::Build => "a build".to_owned(),
            };
            return Err(Error::NameInUse { name: text.to_owned(), user, image: id.short() });
        }
        let repository = repository_of(&reference).to_owned();
        self.untag([reference]);
        // With the last tag in a repository goes what a registry called it there.
        let in_repository = |name: &String| repository_of(name) == repository;
        let left = self.refs.references_of_id(&id);
        if !left.iter().any(|name| in_repository(name) && !name.contains('@')) {
            self.untag(left.into_iter().filter(in_repository));
        }
        if !self.refs.references_of_id(&id).is_empty() {
            self.forget_second_manifest(&found.manifest, &id);
            return Ok(());
        }
        self.delete(&id, how, true)
    }

    fn prune(&mut self, named: bool, wanted: &dyn Fn(&Digest) -> bool) -> Result<()> {
        let ids: BTreeSet<Digest> = self.refs.images.values().map(|image| image.id).collect();
        for id in ids.into_iter().filter(wanted) {
            let names = self.refs.names_of_id(&id);
            if names.is_empty() && self.refs.has_children(&id) || !names.is_empty() && !named {
                continue;
            }
            if self.user(&id).is_none() {
                self.untag(self.refs.references_of_id(&id));
                self.delete(&id, Removal::default(), true)?;
            }
        }
        Ok(())
    }

    /// `quiet`: staying is no error where somebody uses it or needs it.
    fn delete(&mut self, id: &Digest, how: Removal, quiet: bool) -> Result<()> {
        let Some(record) = self.refs.images.values().find(|image| image.id == *id) else {
            return Ok(());
        };
        let parent = record.parent;
        if let Some(conflict) = self.conflict(id, how.force, true) {
            let nameless = self.refs.references_of_id(id).is_empty();
            let dangling = nameless && !self.refs.has_children(id);
            if quiet && (!dangling || conflict.used) {
                return Ok(());
            }
            return Err(in_use(id, &conflict));
        }
        let names = self.refs.references_of_id(id);
        if let Some(conflict) = self.user(id) {
            if names.is_empty() && self.removed.untagged.is_empty() {
                return Err(in_use(id, &Conflict { hard: true, ..conflict }));
            }
            self.untag(names);
            return Ok(());
        }
        self.untag(names);
        self.refs.images.retain(|_, image| image.id != *id);
        self.removed.deleted.push(*id);
        match parent {
            Some(parent) if !how.keep_parents => self.delete(&parent, Removal::default(), true),
            _ => Ok(()),
        }
    }

    /// What keeps the image, in Docker's order: what cannot be forced comes first.
    fn conflict(&self, id: &Digest, force: bool, names_count: bool) -> Option<Conflict> {
        let unused = |hard, reason: &str| Conflict { hard, used: false, reason: reason.to_owned() };
        if self.refs.has_children(id) {
            return Some(unused(true, "image has dependent child images"));
        }
        let user = self.user(id);
        if user.as_ref().is_some_and(|conflict| conflict.hard) {
            return user;
        }
        if force {
            return None;
        }
        if names_count && !self.refs.references_of_id(id).is_empty() {
            return Some(unused(false, "image is referenced in multiple repositories"));
        }
        user
    }

    fn user(&self, id: &Digest) -> Option<Conflict> {
        let used = |hard, reason| Some(Conflict { hard, used: true, reason });
        let mut manifests = self.refs.images.iter().filter(|(_, image)| image.id == *id);
        if manifests.any(|(manifest, _)| (self.held)(manifest)) {
            return used(true, "image is being used by what has just begun".into());
        }
        match (self.users)(id)? {
            User::Build => used(true, "image is being used by a build".into()),
            User::Container { id, running } => {
                let state = if running { "running" } else { "stopped" };
                used(running, format!("image is being used by {state} container {id}"))
            }
        }
    }

    fn untag(&mut self, names: impl IntoIterator<Item = String>) {
        for full in names {
            self.refs.names.remove(&full);
            self.refs.digests.remove(&full);
            let short = full.parse::<Wanted>().map_or(full, |name| name.to_string());
            self.removed.untagged.push(short);
        }
    }

    /// One configuration may have several manifests; one without a name is of no use
    /// while another has one.
    fn forget_second_manifest(&mut self, manifest: &Digest, id: &Digest) {
        let mut references = self.refs.names.values().chain(self.refs.digests.values());
        let named = references.any(|of| of == manifest);
        let others = self.refs.images.iter().any(|(of, image)| of != manifest && image.id == *id);
        if !named && others && !(self.held)(manifest) {
            self.refs.images.remove(manifest);
        }
    }
}

/// One tag at most, and no digests but of its repository; as Docker counts.
fn is_single(references: &[String]) -> bool {
    let tags = references.iter().filter(|name| !name.contains('@')).count();
    let mut repositories: Vec<_> = references.iter().map(|name| repository_of(name)).collect();
    repositories.dedup();
    tags <= 1 && repositories.len() <= 1
}

/// `docker.io/library/demo` of a full name, by tag or by digest.
fn repository_of(full: &str) -> &str {
    match full.split_once('@') {
        Some((repository, _)) => repository,
        None => full.rsplit_once(':').map_or(full, |(repository, _)| repository),
    }
}

fn in_use(id: &Digest, conflict: &Conflict) -> Error {
    let force = if conflict.hard { "cannot be forced" } else { "must be forced" };
    Error::InUse { image: id.short(), force, reason: conflict.reason.clone() }
}

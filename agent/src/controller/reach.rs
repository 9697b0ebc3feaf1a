//! Who writes a limit: the engine for our containers, `foreign` for other runtimes'. The
//! controller knows both by their ids alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenantry_container::{Engine, Error, InForce, Lease, Limits, Throttle};

use crate::foreign::Entry;
use crate::foreign::throttle::Throttles;
use crate::registry::Registry;

#[derive(Debug)]
pub struct Reach {
    engine: Engine,
    registry: Arc<Registry>,
    foreign: Arc<Throttles>,
    /// Each of the others that is throttled, by id: it is released when it is
    /// gone, too, or a service that begins anew in the same cgroup would inherit its past.
    throttled: Mutex<HashMap<String, Entry>>,
}

impl Reach {
    pub fn new(engine: Engine, registry: Arc<Registry>, foreign: Arc<Throttles>) -> Self {
        Self { engine, registry, foreign, throttled: Mutex::default() }
    }

    /// As [`Engine::throttle`]; an empty throttle releases.
    ///
    /// # Errors
    /// As there, and as [`Throttles::set`].
    pub async fn throttle(&self, id: &str, wanted: Throttle, lease: Lease) -> Result<(), Error> {
        let Some(entry) = self.foreign_entry(id) else {
            return self.engine.throttle(id, wanted, lease).await.map(drop);
        };
        let is_release = wanted.is_empty();
        let set = || self.foreign.set(&entry, wanted, lease);
        let done = tokio::task::block_in_place(set).map(drop);
        match is_release {
            true => self.throttled().remove(id),
            false => self.throttled().insert(id.to_owned(), entry),
        };
        done
    }

    /// What the files that a throttle has changed say now; empty without one.
    pub async fn in_force(&self, id: &str) -> Vec<InForce> {
        let Some(entry) = self.foreign_entry(id) else {
            return self.engine.in_force(id).await.unwrap_or_default();
        };
        let state = tokio::task::block_in_place(|| self.foreign.read_state(&entry.subject.cgroup));
        state.ok().flatten().map(|(_, files)| files).unwrap_or_default()
    }

    /// What another runtime gave its container. `None` if that cannot be read. Blocks.
    pub fn foreign_limits(&self, id: &str) -> Option<Limits> {
        self.foreign.operator_limits(&self.foreign_entry(id)?.subject.cgroup).ok()
    }

    fn foreign_entry(&self, id: &str) -> Option<Entry> {
        if let Some(entry) = self.throttled().get(id) {
            return Some(entry.clone());
        }
        let entry = self.registry.foreign()?.find(id)?;
        // What is called like one of ours is not that one.
        (entry.subject.id == id).then_some(entry)
    }

    fn throttled(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.throttled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

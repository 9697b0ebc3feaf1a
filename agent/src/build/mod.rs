//! `docker build`: a context and a Dockerfile become an image.
//!
//! ```text
//! body ─▶ context (a directory) ─▶ tenantry-build: stages, steps, keys
//!                                    │ cache: key ─▶ image
//!                    RUN ─▶ run ─▶ engine ─▶ upper ─▶ store.commit
//!                   COPY ─▶ place (in an overlay of its own: root) ─┘
//! ```
//!
//! Owns the builder's directory (contexts and scratch, emptied at each start, and
//! `cache.json`), what it holds of images while it builds, and the containers of `RUN`
//! steps, which carry [`LABEL`]: whichever an agent that died has left, the next one
//! removes. What an instruction means is `tenantry-build`'s, what a layer is the store's.
//! Called by `api/docker/build.rs`.

mod cache;
mod context;
mod copy;
mod error;
mod executor;
mod output;
mod place;
mod pull;
mod remote;
mod run;
mod scratch;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenantry_container::{Engine, LimitsPatch, NetworkMode};
use tenantry_registry::Credentials;
use tokio::sync::Semaphore;

use cache::Cache;
pub use context::Context;
pub use error::{BuildError, StepError};
pub use executor::build;
pub use output::{Line, Output};
pub use scratch::Scratch;

/// Marks the containers of `RUN` steps.
pub const LABEL: &str = "tenantry.build";

/// More wait for their turn: each may run a container and unpack a context.
const AT_ONCE: usize = 4;

/// What a client asks for, checked.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its path in the context.
    pub dockerfile: String,
    /// Names that the image takes.
    pub names: Vec<String>,
    pub arguments: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: Option<String>,
    pub no_cache: bool,
    /// Base images are pulled even if they are here.
    pub pull: bool,
    /// Only the image's id is told.
    pub quiet: bool,
    pub network: NetworkMode,
    /// For base images, by their domain.
    pub credentials: BTreeMap<String, Credentials>,
    /// Of each `RUN` step.
    pub limits: LimitsPatch,
}

/// All builds of this agent.
#[derive(Debug)]
pub struct Builds {
    dir: PathBuf,
    cache: Mutex<Cache>,
    /// Images that builds in progress rely on, each with how many do.
    held: Mutex<BTreeMap<String, usize>>,
    turns: Arc<Semaphore>,
}

impl Builds {
    /// Takes `dir` over: what an earlier agent left there but the cache is removed.
    ///
    /// # Errors
    /// The directory cannot be made or emptied. A damaged cache is an empty one.
    pub fn open(dir: PathBuf) -> std::io::Result<Builds> {
        scratch::clear(&dir)?;
        let cache = Mutex::new(Cache::read(dir.join(cache::FILE)));
        Ok(Builds { dir, cache, held: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// A directory of one build's own, gone when it is dropped.
    pub fn scratch(&self) -> std::io::Result<Scratch> {
        Scratch::make(&self.dir)
    }

    /// Whether a build in progress relies on the image: it must stay.
    pub fn holds(&self, image: &str) -> bool {
        self.held().contains_key(image)
    }

    /// Forgets the cache; returns the images that it knew.
    pub fn forget(&self) -> BTreeSet<String> {
        self.cache().clear()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the containers of steps: those that an earlier agent left, and those that an
/// agent which ends will not follow any more.
pub async fn remove_left(engine: &Engine) {
    for container in engine.list() {
        let record = &container.record;
        if !record.config.labels.contains_key(LABEL) {
            continue;
        }
        match engine.remove(&record.id, true).await {
            Ok(()) => tracing::info!(container_id = record.id, "a build's step, removed"),
            Err(error) => {
                tracing::error!(container_id = record.id, error = error.chain(), "left by a build");
            }
        }
    }
}

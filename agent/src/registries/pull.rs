//! One pull: the store asks, the registry answers, the client is told.

use std::collections::HashSet;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use bytes::Bytes;
use tenantry_image::{
    Digest, Event, LayerState, Name, Platform, Pulled, Source, SourceError, Store, Wanted,
};
use tenantry_registry::{Error as RegistryError, Registry};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::counts::Outcome;
use super::lines::Lines;
use super::watched::{Stream, Watched, wanted_still};
use super::{PullRequest, Registries, Requested, refusal};
use crate::api::docker::images::events::Action;
use crate::api::error::{ApiError, ApiResult};

impl Registries {
    /// Begins to pull; returns when there is something to tell: the lines, or why not. What goes
    /// wrong later is a line as well. Ends when the lines are dropped.
    pub async fn pull(
        self: &Arc<Self>,
        store: Arc<Store>,
        request: PullRequest,
    ) -> ApiResult<(Bytes, mpsc::Receiver<Bytes>)> {
        let (lines, mut receiver) = Lines::new();
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(ApiError::internal)?;
        let registries = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let counters = &registries.counters;
            let failed = |name: &str, error: RegistryError| {
                counters.pulled(Outcome::Failed);
                refusal(name, &error)
            };
            let PullRequest { what, platform, credentials } = request;
            let name = what.to_string();
            let registry = registries.registry(what.name().domain(), credentials);
            let registry = registry.map_err(|error| failed(&name, error))?;
            let lines = Arc::new(lines);
            let wanted = match what {
                Requested::One(wanted) => vec![wanted],
                Requested::AllTags(repository) => {
                    let tags = Handle::current().block_on(registry.tags(repository.path()));
                    let tags = tags.map_err(|error| failed(&name, error))?;
                    all_tags(&repository, tags)?
                }
            };
            for (at, wanted) in wanted.iter().enumerate() {
                let from = FromRegistry::new(registry.clone(), wanted, Arc::clone(&lines));
                let Err(refusal) = registries.pull_one(&store, wanted, platform.as_ref(), &from)
                else {
                    continue;
                };
                if at == 0 && !from.has_begun() {
                    return Err(refusal);
                }
                lines.error(&refusal.message);
                break;
            }
            Ok(())
        });
        match receiver.recv().await {
            Some(first) => Ok((first, receiver)),
            None => match task.await.map_err(ApiError::internal)? {
                Ok(()) => Err(ApiError::internal("a pull that told nothing")),
                Err(refusal) => Err(refusal),
            },
        }
    }

    fn pull_one(
        &self,
        store: &Store,
        wanted: &Wanted,
        platform: Option<&Platform>,
        from: &FromRegistry,
    ) -> ApiResult<()> {
        let name = wanted.to_string();
        let tell = |event| {
            if let Event::Layer { state, .. } = event {
                self.counters.layer(state);
            }
            from.tell(event);
        };
        match store.pull(wanted, platform, from, &tell) {
            Ok(pulled) => {
                let outcome = if pulled.is_new { Outcome::Done } else { Outcome::Same };
                self.counters.pulled(outcome);
                from.tell_end(wanted, &pulled);
                self.events.tell(Action::Pull, name, wanted.name.repository());
                Ok(())
            }
            Err(error) => {
                let gone = from.lines.is_closed();
                self.counters.pulled(if gone { Outcome::Abandoned } else { Outcome::Failed });
                let refusal = match error {
                    tenantry_image::Error::Fetch { .. } => refusal(&name, &error),
                    error => error.into(),
                };
                tracing::info!(image = name, error = refusal.message, "not pulled");
                Err(refusal)
            }
        }
    }
}

/// What each of a repository's tags names.
fn all_tags(repository: &Name, tags: Vec<String>) -> ApiResult<Vec<Wanted>> {
    let repository = repository.repository();
    if tags.is_empty() {
        let message = format!("{repository} has no tags");
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    let named = tags.into_iter().map(|tag| format!("{repository}:{tag}").parse::<Wanted>());
    Ok(named.collect::<Result<_, _>>()?)
}

/// A repository of a registry, as the store asks for it.
struct FromRegistry {
    registry: Registry,
    repository: String,
    reference: String,
    runtime: Handle,
    lines: Arc<Lines>,
    /// Layers whose progress is told; a configuration's is not.
    layers: Mutex<HashSet<Digest>>,
    begun: std::sync::atomic::AtomicBool,
}

impl FromRegistry {
    fn new(registry: Registry, wanted: &Wanted, lines: Arc<Lines>) -> Self {
        Self {
            registry,
            repository: wanted.name.path().to_owned(),
            reference: wanted.reference(),
            runtime: Handle::current(),
            lines,
            layers: Mutex::default(),
            begun: Default::default(),
        }
    }

    fn has_begun(&self) -> bool {
        self.begun.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// In Docker's words.
    fn tell(&self, event: Event) {
        let (blob, state) = match event {
            Event::Begins => {
                self.begun.store(true, std::sync::atomic::Ordering::Relaxed);
                let text = format!("Pulling from {}", self.repository);
                return self.lines.heading(&self.reference, &text);
            }
            Event::Layer { blob, state, .. } => (blob, state),
        };
        let id = blob.short();
        match state {
            LayerState::There => self.lines.state(&id, "Already exists"),
            LayerState::Wanted => {
                self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(blob);
                self.lines.state(&id, "Pulling fs layer");
            }
            LayerState::Awaited => self.lines.state(&id, "Waiting"),
            LayerState::Fetched => {
                self.lines.state(&id, "Verifying Checksum");
                self.lines.state(&id, "Download complete");
            }
            LayerState::Unpacked => self.lines.state(&id, "Pull complete"),
        }
    }

    fn tell_end(&self, wanted: &Wanted, pulled: &Pulled) {
        self.lines.status(format!("Digest: {}", pulled.digest));
        self.lines.status(match pulled.is_new {
            true => format!("Status: Downloaded newer image for {wanted}"),
            false => format!("Status: Image is up to date for {wanted}"),
        });
        tracing::info!(image = %wanted, digest = %pulled.digest, is_new = pulled.is_new, "pulled");
    }
}

impl Source for FromRegistry {
    fn manifest(&self, reference: &str) -> Result<Vec<u8>, SourceError> {
        let asked = self.registry.manifest(&self.repository, reference);
        let answer = self.runtime.block_on(wanted_still(&self.lines, asked));
        Ok(answer??.content.into())
    }

    fn blob(&self, digest: &Digest, bytes: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        let blob = self.registry.blob(&self.repository, &digest.to_string(), bytes);
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let id = layers.contains(digest).then(|| digest.short());
        let stream = Stream::Blob(blob);
        Ok(Box::new(Watched::new(stream, id, bytes, &self.lines, &self.runtime)))
    }

    fn origin(&self) -> &str {
        self.registry.authority()
    }

    fn is_wanted(&self) -> bool {
        !self.lines.is_closed()
    }
}

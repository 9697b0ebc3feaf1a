//! One pull: the store asks, the registry answers, the client is told.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use tenantry_image::{Digest, Event, LayerState, Pulled, Source, SourceError, Store, Wanted};
use tenantry_registry::{Blob, Registry};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::lines::Lines;
use super::{PullRequest, Registries, refusal};
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
            let name = request.wanted.to_string();
            let domain = request.wanted.name.domain();
            let registry = registries.registry(domain, request.credentials);
            let registry = registry.map_err(|error| refusal(&name, &error))?;
            let from = FromRegistry::new(registry, &request.wanted, lines);
            let wanted = &request.wanted;
            let pulled =
                store.pull(wanted, request.platform.as_ref(), &from, &|event| from.tell(event));
            match pulled {
                Ok(pulled) => from.tell_end(wanted, &pulled),
                Err(error) => {
                    let refusal = match error {
                        tenantry_image::Error::Fetch { .. } => refusal(&name, &error),
                        error => error.into(),
                    };
                    tracing::info!(image = name, error = refusal.message, "not pulled");
                    if !from.has_begun() {
                        return Err(refusal);
                    }
                    from.lines.error(&refusal.message);
                }
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
    fn new(registry: Registry, wanted: &Wanted, lines: Lines) -> Self {
        Self {
            registry,
            repository: wanted.name.path().to_owned(),
            reference: wanted.reference(),
            runtime: Handle::current(),
            lines: Arc::new(lines),
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
        Ok(Box::new(Watched {
            blob,
            piece: Bytes::new(),
            id: layers.contains(digest).then(|| digest.short()),
            lines: Arc::clone(&self.lines),
            runtime: self.runtime.clone(),
            done: 0,
            bytes,
        }))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("whoever asked for it has gone")]
struct Unwanted;

/// What comes of `work`, unless the client goes away meanwhile.
async fn wanted_still<T>(lines: &Lines, work: impl Future<Output = T>) -> Result<T, Unwanted> {
    tokio::select! {
        done = work => Ok(done),
        () = lines.closed() => Err(Unwanted),
    }
}

/// A stream whose progress is told, and which ends when nobody wants to know.
struct Watched {
    blob: Blob,
    piece: Bytes,
    id: Option<String>,
    lines: Arc<Lines>,
    runtime: Handle,
    done: u64,
    bytes: u64,
}

impl Watched {
    /// The next piece; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let next = self.runtime.block_on(wanted_still(&self.lines, self.blob.next()));
        let piece = next.map_err(io::Error::other)?.transpose().map_err(io::Error::other)?;
        Ok(piece.unwrap_or_default())
    }
}

/// Blocks: for the store's threads.
impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.next()?;
            self.done += self.piece.len() as u64;
            if let Some(id) = &self.id {
                self.lines.progress(id, "Downloading", self.done, self.bytes);
            }
        }
        let n = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

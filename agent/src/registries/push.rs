//! One push: blobs that are not there, several at a time, then the manifest that names them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tenantry_image::{Outgoing, OutgoingBlob};
use tenantry_registry::{Credentials, Error as RegistryError, Pushed, Registry};
use tokio::sync::mpsc;

use super::counts::Outcome;
use super::lines::Lines;
use super::{Registries, refusal};
use crate::api::docker::images::events::Action;
use crate::api::error::{ApiError, ApiResult};

const PARALLEL: usize = 4;
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl Registries {
    /// Begins to push. What goes wrong is a line. Ends when the lines are dropped.
    pub async fn push(
        self: &Arc<Self>,
        outgoing: Outgoing,
        credentials: Option<Credentials>,
    ) -> ApiResult<mpsc::Receiver<Bytes>> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(ApiError::internal)?;
        let name = outgoing.name.to_string();
        let registry = self.registry(outgoing.name.domain(), credentials);
        let registry = registry.map_err(|error| {
            self.counters.pushed(Outcome::Failed);
            refusal(&name, &error)
        })?;
        let (lines, receiver) = Lines::new();
        let registries = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = turn;
            let push = Push { registry, outgoing, lines };
            tokio::select! {
                done = push.run() => match done {
                    Ok(()) => {
                        registries.counters.pushed(Outcome::Done);
                        let repository = push.outgoing.name.repository();
                        registries.events.tell(Action::Push, name, repository);
                    }
                    Err(error) => {
                        registries.counters.pushed(Outcome::Failed);
                        let refusal = refusal(&name, &error);
                        tracing::info!(image = name, error = refusal.message, "not pushed");
                        push.lines.error(&refusal.message);
                    }
                },
                () = push.lines.closed() => {
                    registries.counters.pushed(Outcome::Abandoned);
                    tracing::info!(image = name, "nobody waits: not pushed");
                }
            }
        });
        Ok(receiver)
    }
}

struct Push {
    registry: Registry,
    outgoing: Outgoing,
    lines: Lines,
}

impl Push {
    async fn run(&self) -> Result<(), RegistryError> {
        let name = &self.outgoing.name;
        self.lines.status(format!(
            "The push refers to repository [{}/{}]",
            name.domain(),
            name.path()
        ));
        for blob in &self.outgoing.blobs {
            self.tell(blob, "Preparing");
        }
        let blobs = self.outgoing.blobs.iter().map(|blob| self.push_blob(blob).boxed());
        let blobs: Vec<BoxFuture<'_, _>> = blobs.collect();
        stream::iter(blobs).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        let content = Bytes::copy_from_slice(&self.outgoing.manifest);
        let (tag, media_type) = (name.tag(), &self.outgoing.media_type);
        self.registry.push_manifest(name.path(), tag, media_type, content).await?;
        if let Err(error) = self.outgoing.taken() {
            // It is there all the same.
            tracing::warn!(image = %name, %error, "its digest is not remembered");
        }
        let (digest, size) = (self.outgoing.digest.to_string(), self.outgoing.manifest.len());
        self.lines.status(format!("{tag}: digest: {digest} size: {size}"));
        self.lines.aux(&json!({ "Tag": tag, "Digest": digest, "Size": size }));
        tracing::info!(image = %name, digest, "pushed");
        Ok(())
    }

    async fn push_blob(&self, blob: &OutgoingBlob) -> Result<(), RegistryError> {
        let sent = Arc::new(AtomicU64::new(0));
        let outgoing = tenantry_registry::Outgoing {
            digest: blob.digest.to_string(),
            bytes: blob.bytes,
            sent: Arc::clone(&sent),
        };
        let open = || self.outgoing.open(&blob.digest);
        let repository = self.outgoing.name.path();
        let pushing = self.registry.push_blob(repository, &outgoing, &blob.others, &open);
        tokio::pin!(pushing);
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        let pushed = loop {
            tokio::select! {
                pushed = &mut pushing => break pushed?,
                _ = tick.tick() => if let Some(diff_id) = blob.diff_id {
                    let sent = sent.load(Ordering::Relaxed);
                    if sent > 0 {
                        self.lines.progress(&diff_id.short(), "Pushing", sent, blob.bytes);
                    }
                },
            }
        };
        match pushed {
            Pushed::WasThere => self.tell(blob, "Layer already exists"),
            Pushed::Mounted(other) => self.tell(blob, &format!("Mounted from {other}")),
            Pushed::Sent => self.tell(blob, "Pushed"),
        }
        Ok(())
    }

    /// Docker shows layers alone.
    fn tell(&self, blob: &OutgoingBlob, state: &str) {
        if let Some(diff_id) = blob.diff_id {
            self.lines.state(&diff_id.short(), state);
        }
    }
}

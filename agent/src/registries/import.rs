//! `docker import ADDRESS`: a root filesystem from elsewhere becomes an image.

use std::sync::Arc;

use axum::http::StatusCode;
use bytes::Bytes;
use tenantry_image::{ImportOptions, Store};
use tenantry_registry::{Download, Error};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Registries;
use super::lines::Lines;
use super::watched::{Stream, Watched};
use crate::api::docker::images::events::Action;
use crate::api::error::{ApiError, ApiResult, chain};

impl Registries {
    /// Begins to fetch a file that is no image's, of which at most so many bytes are taken.
    pub async fn download(&self, address: &str, allowed: u64) -> ApiResult<Download> {
        let download = self.client.download(address, allowed).await;
        download.map_err(|error| {
            let status = match &error {
                Error::NoDownload { .. } => StatusCode::BAD_REQUEST,
                Error::NotFound { .. } => StatusCode::NOT_FOUND,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            ApiError::new(status, chain(&error))
        })
    }

    /// Begins to import; what goes wrong later is a line. Ends when the lines are dropped.
    pub async fn import(
        self: &Arc<Self>,
        store: Arc<Store>,
        address: &str,
        name: String,
        options: ImportOptions,
    ) -> ApiResult<mpsc::Receiver<Bytes>> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(ApiError::internal)?;
        let download = self.download(address, store.limits().archive_bytes).await?;
        let (lines, receiver) = Lines::new();
        lines.status(format!("Downloading from {address}"));
        let (registries, lines) = (Arc::clone(self), Arc::new(lines));
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let bytes = download.bytes.unwrap_or(0);
            let stream = Stream::Download(Box::new(download));
            let id = Some("rootfs".to_owned());
            let mut rootfs = Watched::new(stream, id, bytes, &lines, &Handle::current());
            match store.import(&name, &mut rootfs, options) {
                Ok(image) => {
                    let id = image.id.to_string();
                    lines.status(id.clone());
                    registries.events.tell(Action::Import, id, image.name.unwrap_or(name));
                }
                Err(error) => {
                    let message = chain(&error);
                    tracing::info!(image = name, error = message, "not imported");
                    lines.error(&message);
                }
            }
        });
        Ok(receiver)
    }
}

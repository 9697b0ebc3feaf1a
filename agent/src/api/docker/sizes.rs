//! `docker ps -s`, `docker inspect -s`: what a container wrote over its image. From the
//! walker's cache: asked for the first time, it has a second to count, and a tree that
//! takes longer has its size in a later answer.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tenantry_container::Snapshot;
use tokio::time::Instant;

use crate::api::App;

const PATIENCE: Duration = Duration::from_secs(1);

/// Of one request.
#[derive(Debug)]
pub struct Sizes<'a> {
    app: &'a App,
    images: HashMap<String, u64>,
    deadline: Instant,
}

impl<'a> Sizes<'a> {
    pub fn new(app: &'a App) -> Self {
        // Without the store's answer the images' share is left out.
        let images = app.images.list().unwrap_or_default().into_iter();
        let images = images.map(|image| (image.id.to_string(), image.size_bytes)).collect();
        Self { app, images, deadline: Instant::now() + PATIENCE }
    }

    /// `SizeRw` and `SizeRootFs`, in bytes; neither if they are not known yet.
    pub async fn add(&self, container: &Snapshot, view: &mut Value) {
        let Some(own) = self.own_bytes(container).await else { return };
        let image = self.images.get(&container.record.image.id.to_string()).copied().unwrap_or(0);
        view["SizeRw"] = own.into();
        view["SizeRootFs"] = (own + image).into();
    }

    /// What it wrote; `None`: not known yet.
    pub async fn own_bytes(&self, container: &Snapshot) -> Option<u64> {
        let root = container.upper_path();
        loop {
            let found = self.app.collector.fs_usage.ask(&container.record.id, &root, None);
            if found.is_some() || Instant::now() >= self.deadline {
                return found.map(|reading| reading.usage.bytes);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

//! Looking at what a container wrote, for `commit` and builds.
//!
//! Owns that nothing moves meanwhile: no start, end or removal of the container is handled
//! until the look is over, and with `pause` its processes stand still. An agent that is
//! killed meanwhile leaves them so; the next one lets them go on (`adopt`).

use std::path::Path;

use tenantry_cgroupfs::Group;
use tenantry_shim::spec::IdMapping;

use super::{Engine, blocking, create, detached};
use crate::error::Error;
use crate::events::Action;

impl Engine {
    /// Gives `look` the overlay's upper directory, on a thread that may block, and the ids
    /// that its owners have if the container has a user namespace.
    ///
    /// # Errors
    /// [`Error::Failed`] if a process could not be paused within two seconds.
    pub async fn look<T: Send + 'static>(
        &self,
        reference: &str,
        pause: bool,
        look: impl FnOnce(&Path, Option<IdMapping>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move {
            let _op = cell.op.lock().await;
            let snapshot = cell.snapshot();
            let owners = create::id_mapping(&shared.config, &snapshot.record);
            let group = cell.lock().running.as_ref().map(|running| running.group.clone());
            blocking("look at a container's files", move || {
                // One that a user paused stays so.
                let freezes = pause && !snapshot.record.paused;
                let _paused = group.filter(|_| freezes).map(Paused::new).transpose()?;
                Ok(look(&snapshot.upper_path(), owners))
            })
            .await
        })
        .await
    }

    /// Tells whoever listens that what was looked at became an image.
    pub fn tell_commit(&self, reference: &str, attributes: &[(&str, String)]) -> Result<(), Error> {
        let (shared, cell) = self.target(reference)?;
        shared.tell(&cell, Action::Commit, attributes);
        Ok(())
    }
}

/// Thaws what it froze, however the look ends.
struct Paused(Group);

impl Paused {
    fn new(group: Group) -> Result<Paused, Error> {
        group.freeze().map_err(|error| Error::failed("pause the container", error))?;
        Ok(Paused(group))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // A group that is gone has nothing to thaw.
        if let Err(error) = self.0.thaw()
            && self.0.exists()
        {
            tracing::error!(%error, "the container's processes stay paused");
        }
    }
}

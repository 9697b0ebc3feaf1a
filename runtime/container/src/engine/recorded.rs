//! What the engine tells the history of limits, and who holds which limit now.

use super::{Engine, Shared, blocking, cell::Cell, unix_ns};
use crate::{
    error::Error,
    limit_changes::{self, Act, Difference, HeldLimit, Subject},
    limits::Limits,
};

impl Engine {
    /// Each limit that somebody set, with who holds it now: some reads of the container's
    /// files.
    pub async fn held_limits(&self, reference: &str) -> Result<Vec<HeldLimit>, Error> {
        let cell = self.shared.find(reference)?;
        let (operator, running) = {
            let inner = cell.lock();
            (inner.record.limits.clone(), inner.running.clone())
        };
        let Some(running) = running else {
            return Ok(limit_changes::held(&operator, None, None));
        };
        let group = running.group.clone();
        let resources = blocking("read limits in force", move || {
            group.read_resources().map_err(|e| Error::failed("read the present limits", e))
        });
        let now = Limits { resources: resources.await?, ..Limits::default() };
        Ok(limit_changes::held(&operator, running.throttled.as_deref(), Some(&now)))
    }
}

impl Shared {
    pub(super) fn record(&self, cell: &Cell, act: Act, differences: Vec<Difference>) {
        if differences.is_empty() {
            return;
        }
        let snapshot = cell.snapshot();
        let container = Subject {
            id: cell.id.clone(),
            name: snapshot.record.name.clone(),
            image: snapshot.record.image.name.clone(),
        };
        let changes = limit_changes::changes(unix_ns(), &container, act, differences);
        self.config.limit_history.record(changes);
    }
}

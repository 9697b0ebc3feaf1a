//! The network of another container (`--network container:NAME`).
//!
//! Owns who lends to whom, and when. Who borrows has the lender's network namespace and its
//! `hosts`, `hostname` and `resolv.conf`, and none of its own: addresses, published ports, names
//! and bandwidth limits are the lender's, and serve both. What each of them does is counted and
//! blamed for each by itself, as processes are known by their cgroups. A lender that starts
//! again has another namespace; who borrowed the former one keeps that until its own next
//! start.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Shared, cell::Cell, launch};
use crate::{config::ContainerConfig, error::Error};

/// For a lender that starts at the same time.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// What one start borrows.
pub(super) struct Loan {
    /// Where the lender's files are.
    pub dir: PathBuf,
    pub namespace: OwnedFd,
}

/// Whose network it is: who has only borrowed it has lent it on.
///
/// # Errors
/// [`Error::Invalid`]: not `NotFound`, which clients take for a missing image.
pub(super) fn find(shared: &Shared, reference: &str) -> Result<Arc<Cell>, Error> {
    let unknown = |_| {
        let value = format!("container:{reference}");
        Error::invalid("network", value, "container: and a container that exists")
    };
    let cell = shared.find(reference).map_err(unknown)?;
    let lender = cell.lock().record.config.network_of.clone();
    match lender {
        // In a record it is never one who has borrowed.
        Some(lender) => shared.find(&lender).map_err(unknown),
        None => Ok(cell),
    }
}

/// `None` for who has a network of its own, or the host's.
///
/// # Errors
/// [`Error::Conflict`] if the lender does not run.
pub(super) fn borrow(shared: &Shared, config: &ContainerConfig) -> Result<Option<Loan>, Error> {
    let Some(lender) = &config.network_of else { return Ok(None) };
    let cell = find(shared, lender)?;
    let running = cell.lock().running.clone();
    // Docker's words.
    let rests =
        || Error::Conflict(format!("cannot join network of a non running container: {lender}"));
    let running = running.ok_or_else(rests)?;
    let path = format!("/proc/{}/ns/net", running.live.pid);
    let namespace = File::open(&path).map_err(|_| rests())?;
    let found = namespace.metadata().map_err(|e| Error::failed(format!("stat {path}"), e))?;
    // It may have ended a moment ago, and the number be another's.
    if running.live.namespaces.get("net") != Some(&found.ino()) {
        return Err(rests());
    }
    Ok(Some(Loan { dir: cell.dir.clone(), namespace: namespace.into() }))
}

/// After a boot of the host all containers begin at once: who borrows a network or another
/// namespace begins after its lender. One that waits in vain is told so by its start.
pub(super) async fn wait_for_lenders(shared: &Shared, config: &ContainerConfig) {
    let deadline = Instant::now() + PATIENCE;
    let rests = || {
        matches!(borrow(shared, config), Err(Error::Conflict(_)))
            || matches!(launch::namespaces(shared, config), Err(Error::Conflict(_)))
    };
    while rests() && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

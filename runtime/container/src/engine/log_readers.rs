//! Who still reads the log of a container that is about to remove itself.
//!
//! A reader that must not miss anything holds the piece that it reads (`tenantry_shim::log_pieces`).
//! What is open can be removed and is read on; pieces after it can not be opened any more.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{fs::FlockOperation, io::Errno};
use tenantry_shim::log_pieces;

use super::cell::Cell;
use crate::snapshot::LOG_FILE;

/// For a reader that comes no further. It then misses the rest.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Returns at once for a log in one piece, which is most.
pub(super) async fn wait(cell: &Cell) {
    let base = cell.dir.join(LOG_FILE);
    let mut place = None;
    let mut since = Instant::now();
    while let Some(held) = first_held(&base) {
        if place != Some(held) {
            (place, since) = (Some(held), Instant::now());
        }
        if since.elapsed() > PATIENCE {
            tracing::warn!(container_id = cell.id, "removed before an attached client read it all");
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The oldest piece that is held and has others behind it.
fn first_held(base: &Path) -> Option<u64> {
    let entries = fs::read_dir(base.parent()?).ok()?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let pieces = log_pieces::numbers(base, names);
    let (_, earlier) = pieces.split_last()?;
    earlier.iter().copied().find(|number| {
        let lock = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        File::open(log_pieces::path(base, *number)).map(lock).ok() == Some(Err(Errno::WOULDBLOCK))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_waited_for_if_it_is_held_and_is_not_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("log");
        assert_eq!(first_held(&base), None);
        let hold = |number| {
            let file = File::create(log_pieces::path(&base, number)).unwrap();
            rustix::fs::flock(&file, FlockOperation::LockShared).unwrap();
            file
        };
        let first = hold(0);
        assert_eq!(first_held(&base), None);
        let last = hold(1);
        assert_eq!(first_held(&base), Some(0));
        drop(first);
        assert_eq!(first_held(&base), None);
        drop(last);
    }
}

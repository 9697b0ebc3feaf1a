//! Layers that are on their way, so that two pulls of the same image fetch each once.
//!
//! Owns who fetches what; the layer itself appears in the store before its claim ends. A pull
//! waits for others' claims only while it has none of its own to work on, and holds none while
//! it waits: nobody waits in a circle. What failed for one is tried by the next itself.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Digest;

/// The longest that a waiter sleeps before it looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// By where it comes from: a registry that is slow keeps only those waiting who asked it.
type Key = (String, Digest);

#[derive(Debug, Default)]
pub(crate) struct Flights {
    claimed: Mutex<BTreeSet<Key>>,
    changed: Condvar,
}

impl Flights {
    /// The first of these blobs that nobody fetches from there; it is the caller's now.
    pub fn claim(
        &self,
        origin: &str,
        blobs: impl IntoIterator<Item = Digest>,
    ) -> Option<(usize, Claim<'_>)> {
        let mut claimed = self.lock();
        for (at, blob) in blobs.into_iter().enumerate() {
            let key = (origin.to_owned(), blob);
            if claimed.insert(key.clone()) {
                return Some((at, Claim { flights: self, key }));
            }
        }
        None
    }

    /// Until a claim ends, or not for long.
    pub fn wait(&self) {
        let claimed = self.lock();
        // Whether it was woken or is late makes no difference: the caller looks.
        let _ = self.changed.wait_timeout(claimed, LOOK_EVERY);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when it is dropped, however the fetching ended.
#[derive(Debug)]
pub(crate) struct Claim<'f> {
    flights: &'f Flights,
    key: Key,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
        self.flights.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_claimed_once_for_each_origin_until_the_claim_ends() {
        let flights = Flights::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let at = |claim: &Option<(usize, Claim<'_>)>| claim.as_ref().map(|(at, _)| *at);
        let first = flights.claim("r", [a, b]);
        assert_eq!(at(&first), Some(0));
        let second = flights.claim("r", [a, b]);
        assert_eq!(at(&second), Some(1));
        assert_eq!(at(&flights.claim("r", [a, b])), None);
        assert_eq!(at(&flights.claim("elsewhere", [a])), Some(0));
        drop(first);
        assert_eq!(at(&flights.claim("r", [b, a])), Some(1));
    }
}

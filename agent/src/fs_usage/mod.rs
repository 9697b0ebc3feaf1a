//! How much each container's writable layer takes, without walking it when somebody asks.
//!
//! Who asks gets what the last walk found and how old that is. If the container did
//! something since ([`due`]), the question also puts its tree in a queue, and one thread
//! of the lowest priority walks it, a few entries at a time with pauses between. Nobody
//! asks, nobody walks: there is no timer here either.
//!
//! Volumes, when there are some, are trees like this one: `ask` takes any directory.

mod due;
mod idle;
mod walk;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use due::Last;
pub use due::{Sign, sign};
use walk::Walk;
pub use walk::{FileSystem, Usage};

/// With the pause, at most 20,000 entries a second: about 2 % of a processor if the
/// inodes are in memory.
const STEP_ENTRIES: usize = 256;
const STEP_PAUSE: Duration = Duration::from_micros(12_800);

/// What the last walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub usage: Usage,
    pub file_system: FileSystem,
    pub age: Duration,
}

/// Since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub walks: u64,
    pub entries: u64,
    /// Trees that could not be opened.
    pub errors: u64,
}

/// The cache and its thread, which ends soon after this is dropped.
#[derive(Debug)]
pub struct FsUsage {
    /// `None`: switched off.
    interval: Option<Duration>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    trees: HashMap<String, Tree>,
    /// At most one for each tree.
    queue: VecDeque<Job>,
    totals: Totals,
    ended: bool,
}

#[derive(Debug, Default)]
struct Tree {
    found: Option<(Usage, FileSystem)>,
    last: Option<Last>,
    /// In the queue or under way.
    wanted: bool,
}

#[derive(Debug)]
struct Job {
    name: String,
    root: PathBuf,
    sign: Option<Sign>,
}

impl FsUsage {
    /// A walk of one tree rests at least for the interval; without one nothing is walked.
    pub fn start(interval: Option<Duration>) -> FsUsage {
        let shared = Arc::<Shared>::default();
        if interval.is_some() {
            let thread = Arc::clone(&shared);
            let started =
                std::thread::Builder::new().name("fs-usage".into()).spawn(move || work(&thread));
            if let Err(error) = started {
                tracing::warn!(%error, "writable layers are not counted");
                return FsUsage { interval: None, shared };
            }
        }
        FsUsage { interval, shared }
    }

    /// What is known about a tree; `None` before its first walk. A walk is begun if it is
    /// due: `sign` tells whether the tree may have changed.
    pub fn ask(&self, name: &str, root: &Path, sign: Option<Sign>) -> Option<Reading> {
        let interval = self.interval?;
        let now = Instant::now();
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let tree = match state.trees.get_mut(name) {
            Some(tree) => tree,
            None => state.trees.entry(name.to_owned()).or_default(),
        };
        if !tree.wanted && due::is_due(tree.last.as_ref(), sign, now, interval) {
            tree.wanted = true;
            state.queue.push_back(Job { name: name.into(), root: root.into(), sign });
            self.shared.wake.notify_one();
        }
        let (usage, file_system) = tree.found?;
        let age = now.saturating_duration_since(tree.last?.ended);
        Some(Reading { usage, file_system, age })
    }

    /// Forgets the trees of containers that are no more.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        let mut state = self.shared.lock();
        state.trees.retain(|name, _| exists(name));
        state.queue.retain(|job| exists(&job.name));
    }

    pub fn totals(&self) -> Totals {
        self.shared.lock().totals
    }
}

impl Drop for FsUsage {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when the agent ends.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    if let Err(error) = idle::give_way() {
        tracing::debug!(%error, "counting files with ordinary priority");
    }
    while let Some(job) = shared.next() {
        let began = Instant::now();
        let outcome = Walk::start(&job.root).map(|walk| finish(shared, walk));
        let ended = Instant::now();
        let mut state = shared.lock();
        let Some(tree) = state.trees.get_mut(&job.name) else { continue };
        tree.wanted = false;
        match outcome {
            Ok(Some(found)) => {
                tree.found = Some(found);
                tree.last = Some(Last { ended, took: ended - began, sign: job.sign });
                state.totals.walks += 1;
            }
            // The agent ends.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, path = %job.root.display(), "not counted");
                state.totals.errors += 1;
            }
        }
    }
}

fn finish(shared: &Shared, mut walk: Walk) -> Option<(Usage, FileSystem)> {
    loop {
        let usage = walk.step(STEP_ENTRIES);
        let mut state = shared.lock();
        state.totals.entries += walk.take_entries();
        if state.ended {
            return None;
        }
        drop(state);
        if let Some(usage) = usage {
            return Some((usage, walk.file_system));
        }
        std::thread::sleep(STEP_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(what: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !what() {
            assert!(Instant::now() < end, "waited in vain");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signed(calls: u64) -> Option<Sign> {
        Some(Sign { calls, ..Sign::default() })
    }

    #[test]
    fn who_asks_gets_the_last_walks_result_and_a_change_brings_the_next_walk() {
        let root = tempfile::tempdir().unwrap();
        let cache = FsUsage::start(Some(Duration::from_millis(1)));
        let ask = |calls| cache.ask("web", root.path(), signed(calls));
        assert_eq!(ask(1), None);
        wait_for(|| ask(1).is_some());
        assert_eq!(ask(1).unwrap().usage.inodes, 1);
        std::fs::write(root.path().join("file"), "text").unwrap();
        // Nothing was done, as far as one can tell.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(ask(1).unwrap().usage.inodes, 1);
        assert_eq!(cache.totals().walks, 1);
        wait_for(|| ask(2).is_some_and(|reading| reading.usage.inodes == 2));
        assert!(cache.totals().walks == 2 && cache.totals().entries >= 3, "{:?}", cache.totals());
    }

    #[test]
    fn a_tree_that_is_not_there_is_an_error_and_a_forgotten_one_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let cache = FsUsage::start(Some(Duration::from_millis(1)));
        assert_eq!(cache.ask("gone", Path::new("/nonexistent"), None), None);
        wait_for(|| cache.totals().errors >= 1);
        wait_for(|| cache.ask("web", root.path(), None).is_some());
        cache.keep(|name| name != "web");
        assert_eq!(cache.ask("web", root.path(), None), None);
    }

    #[test]
    fn without_an_interval_nothing_is_walked() {
        let cache = FsUsage::start(None);
        assert_eq!(cache.ask("web", Path::new("/"), None), None);
        assert_eq!(cache.totals(), Totals::default());
    }
}

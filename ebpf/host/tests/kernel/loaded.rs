//! Meters that are loaded, for one test or for all.
//!
//! To load takes seconds, so that tests which need nothing special share what one of them
//! loaded, each after a reset of all slots. A test that fails, or leaves the meters in another
//! state than it found them in, has them thrown away.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tenantry_ebpf::{EventReader, LoadOptions, Lost, Meters, ProbeStatus};

use crate::groups::Groups;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What no test has at the moment, and the next one may.
static SHARED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Meters, and the cgroups below which they count.
pub struct Loaded {
    pub options: LoadOptions,
    pub meters: Option<Meters>,
    pub reader: Option<EventReader>,
    pub root: Groups,
}

impl Loaded {
    /// What the test before gave back, reset; or what is loaded for it and for those to come.
    pub fn take() -> Loaded {
        let loaded = lock(&SHARED).take().unwrap_or_else(|| {
            // SAFETY: the function takes and returns nothing, and does not unwind.
            unsafe { libc::atexit(remove_shared) };
            Loaded::new(|_| ())
        });
        let meters = loaded.meters.as_ref().expect("just loaded, or given back so");
        for slot in 1..loaded.options.slots {
            meters.reset(slot).expect("reset");
        }
        loaded
    }

    pub fn give_back(self) {
        *lock(&SHARED) = Some(self);
    }

    /// For the test that asks alone.
    pub fn new(change: impl FnOnce(&mut LoadOptions)) -> Loaded {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tenantry-test-{}-{number}", std::process::id());
        let root = Groups::top().below(&name);
        let mut options = LoadOptions::new(format!("/sys/fs/bpf/{name}"), &root.unified);
        options.blkio_v1 = root.blkio.is_some();
        options.slots = 16;
        change(&mut options);
        let (meters, reader) = Meters::load(&options).expect("load");
        Loaded { options, meters: Some(meters), reader: Some(reader), root }
    }

    pub fn remove(self) {
        let loaded_again = || Meters::load(&self.options).ok().map(|(meters, _)| meters);
        // Links that are still pinned would keep counting for nobody.
        if let Some(meters) = self.meters.or_else(loaded_again) {
            let _ = meters.unpin();
        }
        self.root.remove();
    }
}

/// What one test could spoil for the next.
#[derive(PartialEq)]
pub struct Condition {
    options: LoadOptions,
    statuses: Vec<ProbeStatus>,
    pins: usize,
    lost: Lost,
    unseen_completions: u64,
}

impl Condition {
    pub fn of(options: &LoadOptions, meters: &Meters) -> Self {
        Self {
            options: options.clone(),
            statuses: meters.probes().into_iter().map(|probe| probe.status).collect(),
            pins: fs::read_dir(&options.pin_dir).map_or(0, Iterator::count),
            lost: meters.lost().expect("lost"),
            unseen_completions: meters.unseen_completions().expect("unseen completions"),
        }
    }
}

extern "C" fn remove_shared() {
    if let Some(loaded) = lock(&SHARED).take() {
        loaded.remove();
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

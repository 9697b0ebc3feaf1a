//! Containers of other runtimes, and systemd's services: found, named, given back.
//!
//! The kernel gives such a container a slot when its cgroup is made, from a pool that is
//! kept filled here, and tells; what was there before the agent is found by one walk over
//! the tree. Nothing is polled. Owns the slots from `first_slot` on. A container that is not
//! ours is never started or stopped; [`throttle`] alone may limit it, for a while.

pub mod classify;
mod follow;
mod links;
mod names;
mod oci;
mod own;
mod process;
mod table;
pub mod throttle;
mod walk;
mod wholes;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenantry_cgroupfs::Hierarchy;
use tenantry_ebpf::{CgroupReader, MapError, Meters, POOL_SLOTS, Slot};
use tokio::sync::Semaphore;

pub use self::links::Links;
pub use self::names::Sources;
use self::own::Own;
use self::process::Process;
pub use self::table::Entry;
use self::table::Table;
pub use self::wholes::{Whole, Wholes};
use crate::delivered::{Delivered, Ledger};
use crate::registry::{Holder, is_drained, note};

/// News that are handled before others have their turn.
const BATCH: usize = 256;
/// Runtimes that are asked at the same time.
const ASKED_AT_ONCE: usize = 4;

#[derive(Clone, Debug)]
pub struct Settings {
    pub first_slot: Slot,
    /// One more than the last.
    pub end_slot: Slot,
    pub services: bool,
    /// Slices and pods that are shown as a whole.
    pub max_wholes: usize,
    pub sources: Sources,
}

impl Settings {
    /// Some slots stay here for those that were born when the pool was empty.
    fn pool(&self) -> usize {
        let all = (self.end_slot - self.first_slot) as usize;
        POOL_SLOTS.min(all.div_ceil(2))
    }
}

#[derive(Debug)]
pub struct Foreign {
    meters: Arc<Meters>,
    hierarchy: Hierarchy,
    settings: Settings,
    /// What the next agent cannot find out.
    ledger: Ledger,
    own: Own,
    table: Mutex<Table>,
    asking: Semaphore,
    /// Containers for which there was no slot at all.
    refused: AtomicU64,
    said_refused: AtomicBool,
    /// Of the kernel's counter of lost news, what a walk made good.
    seen_lost: AtomicU64,
}

impl Foreign {
    /// Finds what is there. Call once, before events are read.
    pub fn open(
        meters: Arc<Meters>,
        hierarchy: Hierarchy,
        settings: Settings,
        ledger: Ledger,
    ) -> Result<(Arc<Self>, CgroupReader), MapError> {
        let mut reader = meters.cgroup_events()?;
        // What an earlier agent did not read is in the table and the tree by now.
        while reader.read(BATCH).len() == BATCH {}
        meters.take_back()?;
        let known = meters.foreign_cgroups()?;
        let is_known = |slot: &Slot| known.iter().any(|cgroup| cgroup.slot == *slot);
        let free: Vec<Slot> =
            (settings.first_slot..settings.end_slot).filter(|slot| !is_known(slot)).collect();
        if meters.adopted() {
            for slot in &free {
                meters.reset(*slot)?;
                note(&ledger, *slot, Delivered::default());
            }
        }
        let seen_lost = AtomicU64::new(meters.lost()?.cgroup_events);
        let foreign = Arc::new(Self {
            meters,
            hierarchy,
            settings,
            ledger,
            own: Own::read(),
            table: Mutex::new(Table::new(free)),
            asking: Semaphore::new(ASKED_AT_ONCE),
            refused: AtomicU64::new(0),
            said_refused: AtomicBool::new(false),
            seen_lost,
        });
        foreign.adopt(&known)?;
        foreign.look_around();
        foreign.refill();
        Ok((foreign, reader))
    }

    /// All that run now.
    pub fn list(&self) -> Vec<Entry> {
        self.lock().entries().cloned().collect()
    }

    /// Slots of those that the agent itself runs in.
    pub fn agents_slots(&self) -> Vec<Slot> {
        let table = self.lock();
        table.entries().filter(|entry| entry.holds_agent).map(|entry| entry.slot).collect()
    }

    /// By name, id, the id's beginning, or cgroup.
    pub fn find(&self, wanted: &str) -> Option<Entry> {
        self.lock().find(wanted).cloned()
    }

    pub fn has(&self, slot: Slot) -> bool {
        (self.settings.first_slot..self.settings.end_slot).contains(&slot)
    }

    pub fn holder(&self, slot: Slot) -> Option<Holder> {
        self.lock().holder(slot)
    }

    pub fn delivered(&self, slot: Slot) -> Delivered {
        self.lock().delivered(slot)
    }

    /// Slots in use, and all.
    pub fn usage(&self) -> (usize, usize) {
        self.lock().usage()
    }

    /// Containers that found no slot since the agent started.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn deliver(&self, batch: &[(Slot, Delivered)]) {
        let mut table = self.lock();
        for (slot, more) in batch {
            table.deliver(*slot, *more);
            note(&self.ledger, *slot, table.delivered(*slot));
        }
        drop(table);
        self.sweep();
        self.refill();
    }

    pub fn has_read_all(&self) -> bool {
        let table = self.lock();
        table.draining().iter().all(|(slot, delivered)| is_drained(&self.meters, *slot, *delivered))
            && table.entries().all(|entry| is_drained(&self.meters, entry.slot, entry.delivered))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is whole before a panic could come.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slices and pods above these.
    pub fn wholes(&self, entries: &[Entry]) -> Wholes {
        let max = self.settings.max_wholes;
        let root = self.hierarchy.unified_mount();
        let tops = if max == 0 { BTreeSet::new() } else { wholes::tops(root) };
        wholes::above(entries, &tops, max)
    }

    /// The interfaces of each network namespace, under the container that shows them
    /// ([`links::holders`]).
    pub fn links(&self, entries: &[Entry]) -> HashMap<Slot, Links> {
        let holders = links::holders(entries, process::network_of(std::process::id() as i32));
        let read = |entry: &Entry| {
            let found = process::links(entry.pid?, entry.network()?);
            let found = found.or_else(|| {
                // Its first process is gone; another one is the first now.
                let process = self.first_process(&entry.subject.cgroup)?;
                let network = process.network()?;
                if let Some(known) = self.lock().get_mut(entry.slot) {
                    known.found(&process);
                }
                (Some(network) == entry.network()).then(|| process::links(process.pid, network))?
            });
            Some((entry.slot, found?))
        };
        holders.into_iter().filter_map(read).collect()
    }

    fn first_process(&self, cgroup: &str) -> Option<Process> {
        Process::first(self.hierarchy.group(cgroup.trim_start_matches('/')).pids().ok()?)
    }
}

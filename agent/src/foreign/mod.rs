//! Containers of other runtimes, and systemd's services: found, named, given back.
//!
//! The kernel gives such a container a slot when its cgroup is made, from a pool that is
//! kept filled here, and tells; what was there before the agent is found by one walk over
//! the tree. Nothing is polled. Owns the slots from `first_slot` on; it only meters: it
//! never starts, stops, limits or changes a container that is not ours.

pub mod classify;
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
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tenantry_cgroupfs::Hierarchy;
use tenantry_ebpf::{
    CgroupEvent, CgroupIds, CgroupReader, ForeignCgroup, MapError, Meters, POOL_SLOTS, Slot, Tree,
};
use tokio::sync::Semaphore;

use self::classify::{Subject, classify};
pub use self::links::Links;
pub use self::names::Sources;
use self::oci::Description;
use self::own::Own;
use self::process::Process;
pub use self::table::Entry;
use self::table::Table;
use self::walk::{Found, id_of, nested, walk};
pub use self::wholes::{Whole, Wholes};
use crate::delivered::{Delivered, Ledger};
use crate::origin::Runtime;
use crate::readable;
use crate::registry::{Holder, clear, is_drained, note};

/// Runtimes write a container's notes a little before or after they make its cgroup.
const ASK_AGAIN: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];
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

    /// Reads the kernel's news until the agent ends.
    pub fn start(self: &Arc<Self>, mut reader: CgroupReader) -> std::io::Result<()> {
        use std::os::fd::AsFd as _;
        for entry in self.list() {
            tokio::spawn(Arc::clone(self).learn(entry));
        }
        let ready = readable::register(reader.as_fd().try_clone_to_owned()?)?;
        let foreign = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok(mut ready) = ready.readable().await {
                ready.clear_ready();
                loop {
                    let events = reader.read(BATCH);
                    let is_full = events.len() == BATCH;
                    // Maps and directories: quick, but no business of the other tasks' thread.
                    let new = tokio::task::block_in_place(|| foreign.handle(events));
                    for entry in new {
                        tokio::spawn(Arc::clone(&foreign).learn(entry));
                    }
                    if !is_full {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(())
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

    /// Takes over what the kernel counted for while no agent was there.
    fn adopt(&self, known: &[ForeignCgroup]) -> Result<(), MapError> {
        let mut places: HashMap<(Tree, u64), Subject> = HashMap::new();
        if !known.is_empty() {
            for (tree, root) in self.roots() {
                let found = walk(&root, self.settings.services).found;
                places.extend(found.into_iter().map(|found| ((tree, found.id), found.subject)));
            }
        }
        for cgroup in known {
            let Some(subject) = places.get(&(cgroup.tree, cgroup.id)) else { continue };
            self.place(cgroup.slot, subject.clone(), cgroup.tree, cgroup.id);
        }
        let mut table = self.lock();
        for ForeignCgroup { slot, .. } in known {
            match table.get_mut(*slot) {
                Some(entry) => entry.delivered = self.ledger.read(*slot),
                None => {
                    // It ended meanwhile; nobody can tell its name any more.
                    self.meters.reset(*slot)?;
                    note(&self.ledger, *slot, Delivered::default());
                    table.give_back(*slot);
                }
            }
        }
        Ok(())
    }

    /// Registers what is there and was not known.
    fn look_around(&self) -> Vec<Entry> {
        let mut new = Vec::new();
        for (tree, root) in self.roots() {
            let walk = walk(&root, self.settings.services);
            if walk.cut {
                tracing::warn!(root = %root.display(), "too many cgroups: some were not looked at");
            }
            for Found { subject, id } in walk.found {
                new.extend(self.register_late(subject, tree, id));
            }
        }
        new
    }

    /// The containers that are new.
    fn handle(&self, events: Vec<CgroupEvent>) -> Vec<Entry> {
        let mut new = Vec::new();
        for event in events {
            match event {
                CgroupEvent::Born { tree, id, slot, path } => {
                    let Some(subject) = classify(&path).filter(|own| own.cgroup == path) else {
                        if let Some(slot) = slot {
                            self.take_away(slot);
                        }
                        continue;
                    };
                    match slot {
                        Some(slot) => new.extend(self.place(slot, subject, tree, id)),
                        None => new.extend(self.register_late(subject, tree, id)),
                    }
                }
                CgroupEvent::Gone { tree, id, slot } => {
                    let mut table = self.lock();
                    if table.remove_id(slot, tree, id) {
                        table.end(slot);
                    }
                }
            }
            // At each, so that a burst finds slots.
            self.refill();
        }
        if self.has_lost_news() {
            self.end_the_gone();
            new.extend(self.look_around());
        }
        self.sweep();
        self.refill();
        new
    }

    /// The kernel gave it a slot. New unless it is known from its other hierarchy.
    fn place(&self, slot: Slot, subject: Subject, tree: Tree, id: u64) -> Option<Entry> {
        let mut table = self.lock();
        if table.at(&subject.cgroup).is_some_and(|entry| entry.slot == slot) {
            table.add_id(slot, tree, id);
            return None;
        }
        let holds_agent = self.own.is_in(&subject.cgroup);
        let entry = Entry { holds_agent, ..Entry::new(slot, subject, ids(tree, id)) };
        tracing::info!(slot, cgroup = %entry.subject.cgroup, runtime = %entry.origin.runtime, "foreign container");
        table.insert(entry.clone());
        Some(entry)
    }

    /// The kernel had no slot for it, or it is older than the agent. New unless it is known.
    fn register_late(&self, subject: Subject, tree: Tree, id: u64) -> Option<Entry> {
        let dir = self.dir(tree, &subject.cgroup)?;
        let mut table = self.lock();
        let known = table.at(&subject.cgroup).map(|entry| (entry.slot, entry.ids));
        let slot = match known {
            Some((_, had)) if holds(&had, tree, id) => return None,
            Some((slot, _)) => slot,
            None => match table.take_free().or_else(|| self.take_from_pool(&mut table)) {
                Some(slot) => slot,
                None => {
                    self.refuse(&subject, tree);
                    return None;
                }
            },
        };
        let below: Vec<CgroupIds> = nested(&dir).into_iter().map(|id| ids(tree, id)).collect();
        if let Err(error) = self.meters.register_foreign(slot, &ids(tree, id), &below) {
            tracing::warn!(cgroup = %subject.cgroup, %error, "foreign container not registered");
            if known.is_none() {
                table.give_back(slot);
            }
            return None;
        }
        // Those that have processes will not execute their program again to say so.
        let runs = std::fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|p| !p.is_empty());
        if (runs || !below.is_empty() || subject.runtime == Runtime::Systemd)
            && let Err(error) = self.meters.arm(slot)
        {
            tracing::warn!(cgroup = %subject.cgroup, %error, "foreign container does not count");
        }
        if known.is_some() {
            table.add_id(slot, tree, id);
            return None;
        }
        drop(table);
        self.place(slot, subject, tree, id)
    }

    /// The last slots may have gone to the kernel since it had none for this container.
    fn take_from_pool(&self, table: &mut Table) -> Option<Slot> {
        let taken = self.meters.take_one_back();
        let slot = taken.inspect_err(|error| tracing::warn!(%error, "pool not read")).ok()??;
        table.not_offered(slot);
        table.take_free()
    }

    fn refuse(&self, subject: &Subject, tree: Tree) {
        // Once for each container, not for each of its cgroups.
        if tree == Tree::Unified {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        if !self.said_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                cgroup = %subject.cgroup,
                "no slot for another runtime's container: raise foreign.max (said once)"
            );
        }
    }

    /// The kernel took something for a container that is none.
    fn take_away(&self, slot: Slot) {
        let mut table = self.lock();
        if clear(&self.meters, &self.ledger, slot) {
            table.not_offered(slot);
        }
    }

    /// News were lost: containers whose directory is gone are gone.
    fn end_the_gone(&self) {
        let mut table = self.lock();
        let is_gone = |entry: &&Entry| {
            let tree = if entry.ids.unified == 0 { Tree::Blkio } else { Tree::Unified };
            let id = self.dir(tree, &entry.subject.cgroup).and_then(|dir| id_of(&dir));
            !id.is_some_and(|id| holds(&entry.ids, tree, id))
        };
        let gone: Vec<Slot> = table.entries().filter(is_gone).map(|entry| entry.slot).collect();
        for slot in gone {
            table.end(slot);
        }
    }

    fn has_lost_news(&self) -> bool {
        let Ok(lost) = self.meters.lost() else { return false };
        self.seen_lost.swap(lost.cgroup_events, Ordering::Relaxed) != lost.cgroup_events
    }

    /// Slots whose last holder's events were all read are zeroed and free again.
    fn sweep(&self) {
        let mut table = self.lock();
        for (slot, delivered) in table.draining() {
            let drained = is_drained(&self.meters, slot, delivered);
            if drained && clear(&self.meters, &self.ledger, slot) {
                table.drained(slot);
            }
        }
    }

    fn refill(&self) {
        let mut table = self.lock();
        while let Some(slot) = table.next_offer(self.settings.pool()) {
            match self.meters.offer(slot) {
                Ok(true) => {}
                Ok(false) => return table.not_offered(slot),
                Err(error) => {
                    tracing::warn!(slot, %error, "slot not offered to the kernel");
                    return table.not_offered(slot);
                }
            }
        }
    }

    /// Asks what it is called until somebody knows, and looks at its first process.
    async fn learn(self: Arc<Self>, entry: Entry) {
        let is_there = |foreign: &Self| {
            foreign.lock().at(&entry.subject.cgroup).is_some_and(|e| e.slot == entry.slot)
        };
        let (mut described, mut process) = (None, None);
        for wait in ASK_AGAIN {
            tokio::time::sleep(wait).await;
            if !is_there(&self) {
                return;
            }
            if described.is_none() {
                let Ok(_one) = self.asking.acquire().await else { return };
                described = self.settings.sources.describe(&entry.subject).await;
            }
            process = self.first_process(&entry.subject.cgroup).or(process);
            let mut table = self.lock();
            if let Some(entry) = table.get_mut(entry.slot) {
                if let Some(described) = &described {
                    apply(described, entry);
                }
                if let Some(process) = &process {
                    entry.found(process);
                }
            }
            // A container's root is made while its first process waits; a service has none.
            let is_whole = process.as_ref().is_some_and(|process| {
                process.upper.is_some() || entry.subject.runtime == Runtime::Systemd
            });
            if described.is_some() && is_whole && wait >= Duration::from_millis(200) {
                return;
            }
        }
        if described.is_none() {
            tracing::debug!(cgroup = %entry.subject.cgroup, "nobody told what it is called");
        }
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

    fn roots(&self) -> Vec<(Tree, PathBuf)> {
        let all = [Tree::Unified, Tree::Blkio];
        all.into_iter().filter_map(|tree| Some((tree, self.dir(tree, "/")?))).collect()
    }

    /// The directory of a cgroup; `None` if there is no such hierarchy.
    fn dir(&self, tree: Tree, cgroup: &str) -> Option<PathBuf> {
        let group = self.hierarchy.group(cgroup.trim_start_matches('/'));
        match tree {
            Tree::Unified => Some(group.unified_dir().to_path_buf()),
            Tree::Blkio => {
                let has_blkio = |names: &str| names.split(',').any(|name| name == "blkio");
                let dirs = group.v1_dirs();
                dirs.into_iter().find(|(names, _)| has_blkio(names)).map(|(_, dir)| dir)
            }
        }
    }
}

fn ids(tree: Tree, id: u64) -> CgroupIds {
    match tree {
        Tree::Unified => CgroupIds { unified: id, blkio: None },
        Tree::Blkio => CgroupIds { unified: 0, blkio: Some(id) },
    }
}

fn holds(ids: &CgroupIds, tree: Tree, id: u64) -> bool {
    match tree {
        Tree::Unified => ids.unified == id,
        Tree::Blkio => ids.blkio == Some(id),
    }
}

fn apply(description: &Description, entry: &mut Entry) {
    if !description.name.is_empty() {
        entry.name.clone_from(&description.name);
    }
    entry.image.clone_from(&description.image);
    entry.origin.runtime = description.runtime.unwrap_or(entry.subject.runtime);
    entry.origin.pod.clone_from(&description.pod);
    entry.origin.compose.clone_from(&description.compose);
}

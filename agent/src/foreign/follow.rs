//! Follows what comes and goes: each gets its slot and its name, and gives the slot back when
//! everything that it did was read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenantry_ebpf::{CgroupEvent, CgroupIds, CgroupReader, ForeignCgroup, MapError, Slot, Tree};

use super::classify::{Subject, classify};
use super::oci::Description;
use super::table::Table;
use super::walk::{Found, id_of, nested, walk};
use super::{BATCH, Entry, Foreign};
use crate::delivered::Delivered;
use crate::origin::Runtime;
use crate::readable;
use crate::registry::{clear, is_drained, note};

/// Runtimes write a container's notes a little before or after they make its cgroup.
const ASK_AGAIN: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
];

impl Foreign {
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

    /// Takes over what the kernel counted for while no agent was there.
    pub(super) fn adopt(&self, known: &[ForeignCgroup]) -> Result<(), MapError> {
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
    pub(super) fn look_around(&self) -> Vec<Entry> {
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
    pub(super) fn sweep(&self) {
        let mut table = self.lock();
        for (slot, delivered) in table.draining() {
            let drained = is_drained(&self.meters, slot, delivered);
            if drained && clear(&self.meters, &self.ledger, slot) {
                table.drained(slot);
            }
        }
    }

    pub(super) fn refill(&self) {
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

//! Which foreign container has which slot: the bookkeeping without the kernel.
//!
//! A slot is free, offered (in the kernel's pool), a container's, or draining: its
//! container is gone and its last events may be unread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use tenantry_ebpf::{CgroupIds, Slot, Tree};

use super::classify::Subject;
use super::process::{Process, network_in};
use crate::delivered::Delivered;
use crate::origin::Origin;
use crate::registry::Holder;

/// One container of another runtime.
#[derive(Clone, Debug)]
pub struct Entry {
    pub slot: Slot,
    pub subject: Subject,
    /// The agent itself runs in it or below: it may be metered, and never limited.
    pub holds_agent: bool,
    /// The beginning of the id until the runtime told the name.
    pub name: String,
    pub image: String,
    pub origin: Origin,
    /// `unified` is 0 if it has no cgroup there.
    pub ids: CgroupIds,
    pub delivered: Delivered,
    /// When its first process began.
    pub started_unix_s: Option<f64>,
    /// Of its first process, by type as in `/proc/PID/ns`.
    pub namespaces: Vec<(String, u64)>,
    pub pid: Option<i32>,
    /// The directory of the writable layer, where the root is an overlay.
    pub upper: Option<PathBuf>,
}

impl Entry {
    pub fn new(slot: Slot, subject: Subject, ids: CgroupIds) -> Self {
        let name = short(&subject.id);
        let origin = Origin { runtime: subject.runtime, ..Origin::default() };
        Self {
            slot,
            subject,
            holds_agent: false,
            name,
            image: String::new(),
            origin,
            ids,
            delivered: Delivered::default(),
            started_unix_s: None,
            namespaces: Vec::new(),
            pid: None,
            upper: None,
        }
    }

    pub fn network(&self) -> Option<u64> {
        network_in(&self.namespaces)
    }

    pub fn found(&mut self, process: &Process) {
        self.pid = Some(process.pid);
        self.started_unix_s = Some(process.started_unix_s);
        self.namespaces.clone_from(&process.namespaces);
        self.upper.clone_from(&process.upper);
    }

    fn holder(&self) -> Holder {
        let (id, name, image) = (self.subject.id.clone(), self.name.clone(), self.image.clone());
        Holder { id, name, image }
    }
}

/// Ids as people write them; a unit's name stays whole.
fn short(id: &str) -> String {
    if id.len() == 64 { id[..12].to_owned() } else { id.to_owned() }
}

#[derive(Debug, Default)]
pub struct Table {
    entries: HashMap<Slot, Entry>,
    by_cgroup: HashMap<String, Slot>,
    /// Longest unused first; their counters are zero.
    free: VecDeque<Slot>,
    offered: HashSet<Slot>,
    draining: HashMap<Slot, Entry>,
}

impl Table {
    /// `free`: slots that nobody has, not even the kernel's pool.
    pub fn new(free: impl IntoIterator<Item = Slot>) -> Self {
        Self { free: free.into_iter().collect(), ..Self::default() }
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(&slot)
    }

    pub fn at(&self, cgroup: &str) -> Option<&Entry> {
        self.entries.get(self.by_cgroup.get(cgroup)?)
    }

    /// By name, id, the id's beginning, or cgroup.
    pub fn find(&self, wanted: &str) -> Option<&Entry> {
        let exact = |entry: &&Entry| {
            entry.name == wanted || entry.subject.id == wanted || entry.subject.cgroup == wanted
        };
        let begins = |entry: &&Entry| wanted.len() >= 4 && entry.subject.id.starts_with(wanted);
        let mut all = self.entries.values();
        all.clone().find(exact).or_else(|| all.find(begins))
    }

    pub fn holder(&self, slot: Slot) -> Option<Holder> {
        self.entries.get(&slot).or_else(|| self.draining.get(&slot)).map(Entry::holder)
    }

    pub fn delivered(&self, slot: Slot) -> Delivered {
        let entry = self.entries.get(&slot).or_else(|| self.draining.get(&slot));
        entry.map(|entry| entry.delivered).unwrap_or_default()
    }

    pub fn deliver(&mut self, slot: Slot, more: Delivered) {
        let Self { entries, draining, .. } = self;
        if let Some(entry) = entries.get_mut(&slot).or_else(|| draining.get_mut(&slot)) {
            entry.delivered.add(more);
        }
    }

    /// Slots that a container has or had a moment ago, and all.
    pub fn usage(&self) -> (usize, usize) {
        let used = self.entries.len() + self.draining.len();
        (used, used + self.free.len() + self.offered.len())
    }

    pub fn insert(&mut self, entry: Entry) {
        // Whoever had it is gone, and nobody said so: news can be lost.
        self.end(entry.slot);
        if let Some(slot) = self.by_cgroup.get(&entry.subject.cgroup).copied() {
            self.end(slot);
        }
        self.draining.remove(&entry.slot);
        self.offered.remove(&entry.slot);
        self.free.retain(|slot| *slot != entry.slot);
        self.by_cgroup.insert(entry.subject.cgroup.clone(), entry.slot);
        self.entries.insert(entry.slot, entry);
    }

    /// The container is gone: its slot drains. False if there was none.
    pub fn end(&mut self, slot: Slot) -> bool {
        let Some(entry) = self.entries.remove(&slot) else { return false };
        self.by_cgroup.remove(&entry.subject.cgroup);
        self.draining.insert(slot, entry);
        true
    }

    /// Another of the container's cgroups.
    pub fn add_id(&mut self, slot: Slot, tree: Tree, id: u64) {
        if let Some(entry) = self.entries.get_mut(&slot) {
            match tree {
                Tree::Unified => entry.ids.unified = id,
                Tree::Blkio => entry.ids.blkio = Some(id),
            }
        }
    }

    /// A cgroup is gone; whether with it the container is. The v2 cgroup is the one that
    /// holds the processes; where a runtime made none, the other one says it.
    pub fn remove_id(&mut self, slot: Slot, tree: Tree, id: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&slot) else { return false };
        match tree {
            Tree::Unified if entry.ids.unified == id => true,
            Tree::Blkio if entry.ids.blkio == Some(id) => {
                entry.ids.blkio = None;
                entry.ids.unified == 0
            }
            _ => false,
        }
    }

    pub fn take_free(&mut self) -> Option<Slot> {
        self.free.pop_front()
    }

    pub fn give_back(&mut self, slot: Slot) {
        self.free.push_front(slot);
    }

    /// The next slot for the kernel's pool, if fewer than `wanted` are there. The caller
    /// offers it, or gives it back.
    pub fn next_offer(&mut self, wanted: usize) -> Option<Slot> {
        if self.offered.len() >= wanted {
            return None;
        }
        let slot = self.free.pop_front()?;
        self.offered.insert(slot);
        Some(slot)
    }

    pub fn not_offered(&mut self, slot: Slot) {
        self.offered.remove(&slot);
        self.give_back(slot);
    }

    pub fn draining(&self) -> Vec<(Slot, Delivered)> {
        self.draining.iter().map(|(slot, entry)| (*slot, entry.delivered)).collect()
    }

    /// Its events were read and its counters are zero.
    pub fn drained(&mut self, slot: Slot) {
        if self.draining.remove(&slot).is_some() {
            self.free.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::EventKind;

    use super::*;
    use crate::origin::Runtime;

    fn entry(slot: Slot, letter: &str, unified: u64, blkio: Option<u64>) -> Entry {
        let id = letter.repeat(64);
        let cgroup = format!("/docker/{id}");
        let subject = Subject { runtime: Runtime::Docker, id, cgroup };
        Entry::new(slot, subject, CgroupIds { unified, blkio })
    }

    #[test]
    fn slots_go_round_from_free_to_offered_to_a_container_to_draining() {
        let mut table = Table::new([5, 6]);
        assert_eq!(table.next_offer(1), Some(5));
        assert_eq!(table.next_offer(1), None);
        table.insert(entry(5, "a", 50, None));
        assert_eq!(table.usage(), (1, 2));
        assert_eq!(table.next_offer(1), Some(6));
        assert_eq!(table.next_offer(2), None);
        assert!(table.remove_id(5, Tree::Unified, 50) && table.end(5));
        assert_eq!(table.entries().count(), 0);
        // Its last events still find a name.
        assert_eq!(table.holder(5).unwrap().name, "a".repeat(12));
        table.deliver(5, Delivered::one(EventKind::Exec));
        assert_eq!(table.draining(), [(5, Delivered::one(EventKind::Exec))]);
        table.drained(5);
        assert_eq!((table.holder(5), table.take_free()), (None, Some(5)));
    }

    #[test]
    fn a_slot_that_comes_back_from_the_pool_is_the_next_to_be_taken() {
        let mut table = Table::new([5]);
        assert_eq!((table.next_offer(1), table.take_free()), (Some(5), None));
        table.not_offered(5);
        assert_eq!(table.take_free(), Some(5));
    }

    #[test]
    fn a_container_ends_with_its_v2_cgroup_or_the_only_one_it_has() {
        let mut table = Table::new([]);
        table.insert(entry(5, "a", 50, Some(51)));
        assert!(!table.remove_id(5, Tree::Blkio, 51));
        assert!(!table.remove_id(5, Tree::Unified, 99));
        assert!(table.remove_id(5, Tree::Unified, 50));
        table.insert(entry(6, "b", 0, None));
        table.add_id(6, Tree::Blkio, 61);
        assert!(table.remove_id(6, Tree::Blkio, 61));
        assert!(!table.remove_id(7, Tree::Blkio, 61));
    }

    #[test]
    fn a_new_holder_ends_the_old_one_and_so_does_a_new_slot_for_the_same_cgroup() {
        let mut table = Table::new([]);
        table.insert(entry(5, "a", 50, None));
        table.insert(entry(5, "b", 60, None));
        assert_eq!(table.at(&format!("/docker/{}", "a".repeat(64))).map(|e| e.slot), None);
        table.insert(entry(6, "b", 70, None));
        assert_eq!(table.entries().map(|e| e.slot).collect::<Vec<_>>(), [6]);
        assert_eq!(table.draining().len(), 1);
    }

    #[test]
    fn containers_are_found_by_name_id_or_its_beginning() {
        let mut table = Table::new([]);
        let mut web = entry(5, "a", 50, None);
        web.name = "web".into();
        table.insert(web);
        table.insert(entry(6, "b", 60, None));
        let find = |wanted: &str| table.find(wanted).map(|entry| entry.slot);
        assert_eq!(find("web"), Some(5));
        assert_eq!(find("bbbb"), Some(6));
        assert_eq!(find(&"a".repeat(64)), Some(5));
        assert_eq!((find("b"), find("we"), find("")), (None, None, None));
    }
}

//! Which container holds which slot: the one place where the runtime and the
//! kernel meters meet.
//!
//! The runtime calls [`Registry`] through its [`Identity`] trait before a
//! container's first process exists, so that no event is ever of an unknown
//! container. The audit reader asks it for names and tells it what it delivered:
//! a slot is handed out again only when every event of its last holder was read,
//! so that no event is ever of the wrong one either.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tenantry_cgroupfs::CgroupIds;
use tenantry_container::Identity;
use tenantry_ebpf::{AuditFilter, EventKind, Meters, SetFilterError, Slot, Subjects, SwitchError};

use crate::audit_filter::RawAuditFilter;
use crate::delivered::{Delivered, Ledger};
use crate::foreign::Foreign;

/// What events and metrics say about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub id: String,
    pub name: String,
    pub image: String,
}

#[derive(Debug)]
pub struct Registry {
    meters: Arc<Meters>,
    table: Mutex<Table>,
    /// Until the engine is open, whoever registers is running already.
    opening: AtomicBool,
    /// Rewritten at each change of a holder: the pinned maps outlive the agent, and so must
    /// the meaning of their slots.
    path: PathBuf,
    /// Beside it: what changes with each batch of events.
    ledger: Ledger,
    foreign: Option<Arc<Foreign>>,
    /// How long a removed container keeps its slot, so that its last values can be scraped.
    linger: Duration,
}

/// A container that was removed and still has its slot.
#[derive(Clone, Debug)]
pub struct Departed {
    pub slot: Slot,
    pub holder: Holder,
}

impl Registry {
    /// `slots`: how many our containers can have, slot 0 included, which is nobody's; those
    /// above are `foreign`'s.
    pub fn open(
        meters: Arc<Meters>,
        slots: u32,
        path: PathBuf,
        foreign: Option<Arc<Foreign>>,
    ) -> std::io::Result<Self> {
        let saved = match meters.adopted().then(|| std::fs::read(&path)) {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
            _ => HashMap::new(),
        };
        let ledger = Ledger::open(&path.with_extension("delivered"), meters.adopted())?;
        let mut table = Table::new(slots, saved);
        for (slot, taken) in &mut table.taken {
            taken.delivered = ledger.read(*slot);
        }
        if meters.adopted() {
            // What an agent of another time left in a slot that nobody holds.
            for slot in &table.free {
                meters.reset(*slot).map_err(std::io::Error::other)?;
                ledger.write(*slot, Delivered::default())?;
            }
        }
        let opening = AtomicBool::new(true);
        let linger = Duration::ZERO;
        let table = Mutex::new(table);
        let registry = Self { meters, table, opening, path, ledger, linger, foreign };
        registry.save(&registry.lock())?;
        Ok(registry)
    }

    /// From now on slots of removed containers are kept that long, but for want of others.
    #[must_use]
    pub fn with_linger(self, linger: Duration) -> Self {
        Self { linger, ..self }
    }

    /// Containers that were removed less than the linger time ago.
    pub fn departed(&self) -> Vec<Departed> {
        let mut table = self.lock();
        self.sweep(&mut table, Sweep::Due);
        let now = Instant::now();
        let lingers = |gone: &&Gone| now.duration_since(gone.since) < self.linger;
        let departed = table.draining.iter().filter(lingers).filter_map(|gone| {
            let holder = table.taken.get(&gone.slot)?.holder.clone();
            Some(Departed { slot: gone.slot, holder })
        });
        departed.collect()
    }

    /// Containers of other runtimes; `None` if nobody wants to know of them.
    pub fn foreign(&self) -> Option<&Arc<Foreign>> {
        self.foreign.as_ref()
    }

    pub fn holder(&self, slot: Slot) -> Option<Holder> {
        if let Some(foreign) = self.foreign.as_ref().filter(|foreign| foreign.has(slot)) {
            return foreign.holder(slot);
        }
        self.lock().taken.get(&slot).map(|taken| taken.holder.clone())
    }

    /// Slots of those that the agent itself runs in.
    pub fn agents_slots(&self) -> Vec<Slot> {
        self.foreign.as_ref().map(|foreign| foreign.agents_slots()).unwrap_or_default()
    }

    pub fn slot(&self, id: &str) -> Option<Slot> {
        self.lock().slots.get(id).copied()
    }

    pub fn delivered(&self, slot: Slot) -> Delivered {
        if let Some(foreign) = self.foreign.as_ref().filter(|foreign| foreign.has(slot)) {
            return foreign.delivered(slot);
        }
        self.lock().taken.get(&slot).map(|taken| taken.delivered).unwrap_or_default()
    }

    /// Slots in use (a removed container's counts until its events are read) and in all.
    pub fn usage(&self) -> (usize, usize) {
        let foreign = self.foreign.as_ref().map(|foreign| foreign.usage()).unwrap_or_default();
        let table = self.lock();
        (table.taken.len() + foreign.0, table.capacity() + foreign.1)
    }

    /// Whether every event that the kernel produced so far was delivered or counted as lost.
    pub fn has_read_all(&self) -> bool {
        let table = self.lock();
        table.taken.iter().all(|(slot, taken)| is_drained(&self.meters, *slot, taken.delivered))
            && self.foreign.as_ref().is_none_or(|foreign| foreign.has_read_all())
    }

    /// Names a container: before its first start, so that its first event has its
    /// name, or after an agent's restart that found it running.
    pub fn introduce(&self, holder: Holder) {
        self.lock().introduce(holder);
    }

    /// Records a container's calls for a profile: from its first start on if it has not had
    /// one, else from now on. Fine if it is recorded already. `is_idle`: it has no process.
    pub fn record(&self, id: &str, subjects: Subjects, is_idle: bool) -> Result<(), SwitchError> {
        let slot = {
            let mut table = self.lock();
            let slot = table.slots.get(id).copied();
            if slot.is_none() {
                table.to_record.insert(id.into(), subjects);
            }
            slot
        };
        match slot {
            Some(slot) => self.meters.record(slot, subjects, is_idle).map(drop),
            None => Ok(()),
        }
    }

    /// As [`record`](Self::record), unless there is a recording, or was one.
    pub fn record_once(
        &self,
        id: &str,
        subjects: Subjects,
        is_idle: bool,
    ) -> Result<(), SwitchError> {
        let has_one = match self.slot(id) {
            Some(slot) => self.meters.read_recording(slot)?.is_some(),
            None => false,
        };
        if has_one { Ok(()) } else { self.record(id, subjects, is_idle) }
    }

    /// Ends a container's recording, or the wish for one.
    pub fn end_recording(&self, id: &str) -> Result<(), SwitchError> {
        let slot = {
            let mut table = self.lock();
            table.to_record.remove(id);
            table.slots.get(id).copied()
        };
        slot.map_or(Ok(()), |slot| self.meters.end_recording(slot))
    }

    /// Whether a container will be recorded as soon as it starts.
    pub fn will_record(&self, id: &str) -> bool {
        self.lock().to_record.contains_key(id)
    }

    /// Gives a container the events that it was asked to have, or (`own` is `None`) those of
    /// all. Kept over the container's restarts and the agent's. Whether it has a slot: one that
    /// was never started has none.
    pub fn choose_events(
        &self,
        id: &str,
        own: Option<RawAuditFilter>,
        filter: &AuditFilter,
    ) -> Result<bool, SetFilterError> {
        let mut table = self.lock();
        let Some(slot) = table.slots.get(id).copied() else { return Ok(false) };
        self.meters.set_slot_audit_filter(slot, filter)?;
        if let Some(taken) = table.taken.get_mut(&slot) {
            taken.audit_filter = own;
        }
        self.save_or_warn(&table);
        Ok(true)
    }

    /// What [`choose_events`](Self::choose_events) was told of a container.
    pub fn chosen_events(&self, id: &str) -> Option<RawAuditFilter> {
        let table = self.lock();
        table.taken.get(table.slots.get(id)?)?.audit_filter.clone()
    }

    /// Puts what an earlier agent was told of each container over what all have now.
    pub fn restore_events(&self, of_all: &AuditFilter) {
        for (slot, taken) in &self.lock().taken {
            let Some(own) = &taken.audit_filter else { continue };
            let container_id = &taken.holder.id;
            match own.over(of_all).map(|filter| self.meters.set_slot_audit_filter(*slot, &filter)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(container_id, %error, "its audit filter is lost"),
                Err(error) => tracing::warn!(container_id, %error, "its audit filter is lost"),
            }
        }
    }

    /// Counts events that reached the audit's sinks.
    pub fn deliver(&self, batch: impl IntoIterator<Item = (Slot, Delivered)>) {
        let mut by_slot: HashMap<Slot, Delivered> = HashMap::new();
        batch.into_iter().for_each(|(slot, more)| by_slot.entry(slot).or_default().add(more));
        let mut others = Vec::new();
        let mut table = self.lock();
        for (slot, more) in by_slot {
            if self.foreign.as_ref().is_some_and(|foreign| foreign.has(slot)) {
                others.push((slot, more));
                continue;
            }
            let Some(taken) = table.taken.get_mut(&slot) else { continue };
            taken.delivered.add(more);
            note(&self.ledger, slot, taken.delivered);
        }
        self.sweep(&mut table, Sweep::Due);
        drop(table);
        if let Some(foreign) = self.foreign.as_ref().filter(|_| !others.is_empty()) {
            foreign.deliver(&others);
        }
    }

    /// The engine is open. Containers that it knows keep their slot; slots of those
    /// that are gone are freed.
    pub fn opened(&self, known: impl Fn(&str) -> bool) {
        self.opening.store(false, Ordering::Relaxed);
        let mut table = self.lock();
        let gone: Vec<String> = table.slots.keys().filter(|id| !known(id)).cloned().collect();
        for id in gone {
            table.forget(&id);
        }
        self.save_or_warn(&table);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic while the table was held left it whole: every change is one insert or remove.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, table: &Table) -> std::io::Result<()> {
        // Whole or not at all.
        let temporary = self.path.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec(&table.taken)?)?;
        std::fs::rename(temporary, &self.path)
    }

    fn save_or_warn(&self, table: &Table) {
        if let Err(error) = self.save(table) {
            tracing::warn!(path = %self.path.display(), %error, "slot table not saved");
        }
    }

    fn assign(&self, id: &str) -> Result<Slot, String> {
        let mut table = self.lock();
        if let Some(slot) = table.slots.get(id) {
            return Ok(*slot);
        }
        if table.free.is_empty() {
            self.sweep(&mut table, Sweep::Due);
        }
        if table.free.is_empty() {
            self.sweep(&mut table, Sweep::Oldest);
        }
        let slot = table
            .free
            .pop_front()
            .ok_or_else(|| format!("all {} slots are taken (max_containers)", table.capacity()))?;
        table.assign(id, slot);
        self.save_or_warn(&table);
        Ok(slot)
    }

    /// Frees slots whose last holder's events were all read. Their counters are
    /// zeroed here, after an end, so that no start waits for it.
    fn sweep(&self, table: &mut Table, which: Sweep) {
        let (now, before) = (Instant::now(), table.free.len());
        table.sweep(which, now, self.linger, |slot, delivered| {
            is_drained(&self.meters, slot, delivered) && clear(&self.meters, &self.ledger, slot)
        });
        if table.free.len() != before {
            self.save_or_warn(table);
        }
    }
}

/// For the next agent.
pub(crate) fn note(ledger: &Ledger, slot: Slot, delivered: Delivered) {
    if let Err(error) = ledger.write(slot, delivered) {
        tracing::warn!(slot, %error, "delivered events not noted");
    }
}

/// Makes a slot as nobody had it; whether that was done.
pub(crate) fn clear(meters: &Meters, ledger: &Ledger, slot: Slot) -> bool {
    // A slot that is not zero in the kernel is not handed out: only then its record is.
    if let Err(error) = meters.reset(slot) {
        tracing::error!(slot, %error, "slot not reset: it stays out of use");
        return false;
    }
    note(ledger, slot, Delivered::default());
    true
}

/// Whether all events of a slot's holder were read or are lost.
pub(crate) fn is_drained(meters: &Meters, slot: Slot, delivered: Delivered) -> bool {
    let Ok(events) = meters.read_events(slot) else { return true };
    EventKind::ALL.into_iter().all(|kind| {
        let counted = events.of(kind);
        counted.produced <= counted.lost + delivered.of(kind)
    })
}

impl Identity for Registry {
    fn register(&self, id: &str, cgroup: &CgroupIds) -> Result<(), String> {
        let slot = self.assign(id)?;
        if self.lock().cgroup(slot) == Some(cgroup.unified) {
            // An earlier agent put it into the kernel, and it counts there ever since.
            return Ok(());
        }
        let wanted = self.lock().to_record.remove(id);
        if let Some(subjects) = wanted {
            // Before its cgroup is known: not one call of its first process is missed.
            self.meters.record(slot, subjects, true).map_err(|e| e.to_string())?;
        }
        self.meters.register(slot, &kernel_ids(cgroup)).map_err(|e| e.to_string())?;
        if self.opening.load(Ordering::Relaxed) {
            // It will not exec again to say that it has begun.
            self.meters.arm(slot).map_err(|e| e.to_string())?;
        }
        let mut table = self.lock();
        table.set_cgroup(slot, Some(cgroup.unified));
        self.save_or_warn(&table);
        Ok(())
    }

    fn unregister(&self, id: &str, cgroup: &CgroupIds) {
        if let Err(error) = self.meters.unregister(&kernel_ids(cgroup)) {
            tracing::warn!(container_id = id, %error, "cgroup not unregistered");
        }
        let mut table = self.lock();
        if let Some(slot) = table.slots.get(id).copied() {
            table.set_cgroup(slot, None);
            self.save_or_warn(&table);
        }
    }

    fn forget(&self, id: &str) {
        let mut table = self.lock();
        table.forget(id);
        self.save_or_warn(&table);
    }
}

fn kernel_ids(cgroup: &CgroupIds) -> tenantry_ebpf::CgroupIds {
    tenantry_ebpf::CgroupIds { unified: cgroup.unified, blkio: cgroup.blkio_v1 }
}

/// The bookkeeping without the kernel.
#[derive(Debug)]
struct Table {
    slots: HashMap<String, Slot>,
    taken: HashMap<Slot, Taken>,
    /// Longest unused first; their counters are zero.
    free: VecDeque<Slot>,
    /// Their containers are gone, their last events may still be in the ring.
    draining: VecDeque<Gone>,
    introduced: HashMap<String, Holder>,
    /// Those who are to be recorded from their first start on.
    to_record: HashMap<String, Subjects>,
}

/// A slot whose container was removed.
#[derive(Clone, Copy, Debug)]
struct Gone {
    slot: Slot,
    since: Instant,
}

/// Which slots of removed containers may be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// Those that have lingered long enough.
    Due,
    /// One before its time, the oldest: a new container needs it.
    Oldest,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Taken {
    holder: Holder,
    #[serde(skip)]
    delivered: Delivered,
    /// The v2 id of the cgroup that the kernel maps know.
    cgroup: Option<u64>,
    /// Which events the container has, where it is not the agent's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audit_filter: Option<RawAuditFilter>,
}

impl Table {
    fn new(slots: u32, taken: HashMap<Slot, Taken>) -> Self {
        let free = (1..slots).filter(|slot| !taken.contains_key(slot)).collect();
        let by_id = taken.iter().map(|(slot, taken)| (taken.holder.id.clone(), *slot)).collect();
        Self {
            slots: by_id,
            taken,
            free,
            draining: VecDeque::new(),
            introduced: HashMap::new(),
            to_record: HashMap::new(),
        }
    }

    fn capacity(&self) -> usize {
        self.taken.len() + self.free.len()
    }

    fn assign(&mut self, id: &str, slot: Slot) {
        let unnamed = || Holder { id: id.into(), name: id.into(), image: String::new() };
        let holder = self.introduced.remove(id).unwrap_or_else(unnamed);
        self.slots.insert(id.into(), slot);
        self.taken.insert(slot, Taken { holder, ..Taken::default() });
    }

    fn cgroup(&self, slot: Slot) -> Option<u64> {
        self.taken.get(&slot)?.cgroup
    }

    fn set_cgroup(&mut self, slot: Slot, cgroup: Option<u64>) {
        if let Some(taken) = self.taken.get_mut(&slot) {
            taken.cgroup = cgroup;
        }
    }

    fn introduce(&mut self, holder: Holder) {
        match self.slots.get(&holder.id).and_then(|slot| self.taken.get_mut(slot)) {
            Some(taken) => taken.holder = holder,
            None => {
                self.introduced.insert(holder.id.clone(), holder);
            }
        }
    }

    fn forget(&mut self, id: &str) {
        self.introduced.remove(id);
        self.to_record.remove(id);
        if let Some(slot) = self.slots.remove(id) {
            self.draining.push_back(Gone { slot, since: Instant::now() });
        }
    }

    fn sweep(
        &mut self,
        which: Sweep,
        now: Instant,
        linger: Duration,
        is_drained: impl Fn(Slot, Delivered) -> bool,
    ) {
        // A start should find a free slot, not wait for one to be zeroed.
        let reserve = self.capacity() / 8;
        let Self { taken, free, draining, .. } = self;
        let mut enough = false;
        draining.retain(|gone| {
            let may_go = match which {
                Sweep::Due => {
                    now.saturating_duration_since(gone.since) >= linger || free.len() < reserve
                }
                Sweep::Oldest => !enough,
            };
            let delivered = taken.get(&gone.slot).map(|taken| taken.delivered).unwrap_or_default();
            if !may_go || !is_drained(gone.slot, delivered) {
                return true;
            }
            enough = true;
            taken.remove(&gone.slot);
            free.push_back(gone.slot);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(table: &mut Table, is_drained: fn(Slot, Delivered) -> bool) {
        table.sweep(Sweep::Due, Instant::now(), Duration::ZERO, is_drained);
    }

    #[test]
    fn a_removed_container_keeps_its_slot_for_a_while_unless_another_needs_it() {
        let mut table = Table::new(4, HashMap::new());
        for id in ["a", "b", "c"] {
            let slot = table.free.pop_front().unwrap();
            table.assign(id, slot);
            table.forget(id);
        }
        let (now, linger) = (Instant::now(), Duration::from_secs(300));
        table.sweep(Sweep::Due, now, linger, |_, _| true);
        assert!(table.free.is_empty());
        // The first one's events are not read yet: the second goes.
        table.sweep(Sweep::Oldest, now, linger, |slot, _| slot != 1);
        assert_eq!(table.free, [2]);
        table.sweep(Sweep::Due, now + linger, linger, |_, _| true);
        assert_eq!(table.free, [2, 1, 3]);
    }

    #[test]
    fn slot_zero_is_nobodys() {
        let mut table = Table::new(3, HashMap::new());
        due(&mut table, |_, _| true);
        assert_eq!(table.free, [1, 2]);
    }

    #[test]
    fn a_slot_whose_events_are_unread_is_not_handed_out_and_keeps_its_name() {
        let mut table = Table::new(2, HashMap::new());
        let slot = table.free.pop_front().unwrap();
        table.assign("a", slot);
        table.forget("a");
        due(&mut table, |_, _| false);
        assert!(table.free.is_empty());
        assert_eq!(table.taken[&slot].holder.id, "a");
        due(&mut table, |_, _| true);
        assert_eq!(table.free, [slot]);
        assert_eq!(table.slots.get("a"), None);
    }

    #[test]
    fn saved_holders_keep_their_slots() {
        let holder = Holder { id: "a".into(), ..Holder::default() };
        let saved = HashMap::from([(2, Taken { holder, ..Taken::default() })]);
        let table = Table::new(4, saved);
        assert_eq!(table.slots["a"], 2);
        assert_eq!(table.free, [1, 3]);
    }

    #[test]
    fn a_name_given_before_the_start_is_the_name_of_the_first_event() {
        let mut table = Table::new(2, HashMap::new());
        let web = Holder { id: "a".into(), name: "web".into(), image: "demo".into() };
        table.introduce(web.clone());
        table.assign("a", 1);
        assert_eq!(table.taken[&1].holder, web);
    }

    #[test]
    fn a_container_that_was_found_running_gets_its_name_afterwards() {
        let mut table = Table::new(2, HashMap::new());
        table.assign("a", 1);
        let web = Holder { id: "a".into(), name: "web".into(), image: "demo".into() };
        table.introduce(web.clone());
        assert_eq!(table.taken[&1].holder, web);
    }
}

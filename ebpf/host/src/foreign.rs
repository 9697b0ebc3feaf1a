//! Containers of other runtimes: the pool of slots that the kernel gives them, their
//! cgroups, and the news of those that came and went.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use tenantry_abi as abi;
use zerocopy::FromBytes;

use crate::map::{MapError, Queue, Table};
use crate::meters::Meters;
use crate::{CgroupIds, Slot};

/// How many slots the kernel can hold in reserve.
pub const POOL_SLOTS: usize = abi::POOL_SLOTS;

/// Where a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tree {
    /// v2.
    Unified,
    /// v1's blkio, beside v2.
    Blkio,
}

/// What the kernel says of a foreign container's own cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupEvent {
    /// It was made, and belongs to `slot` since before a process could be in it. `None`:
    /// there was no slot in the pool.
    Born { tree: Tree, id: u64, slot: Option<Slot>, path: String },
    /// It was removed, and belongs to nobody.
    Gone { tree: Tree, id: u64, slot: Slot },
}

/// A foreign container's own cgroup in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForeignCgroup {
    pub tree: Tree,
    pub id: u64,
    pub slot: Slot,
}

#[derive(Debug)]
pub(crate) struct ForeignMaps {
    pool: Queue,
    names: Table<abi::CgroupTail, u32>,
}

impl ForeignMaps {
    pub fn open(pin_dir: &Path, cpus: usize) -> Result<Self, MapError> {
        Ok(Self {
            pool: Queue::open(pin_dir, "slot_pool")?,
            names: Table::open(pin_dir, "cgroup_names", cpus)?,
        })
    }

    /// The slot is nobody's: no second hierarchy may find it by a path.
    pub fn forget(&self, slot: Slot) -> Result<(), MapError> {
        for tail in self.names.keys()? {
            if self.names.get(&tail)? == Some(slot) {
                self.names.remove(&tail)?;
            }
        }
        Ok(())
    }
}

impl Meters {
    /// Gives the kernel a slot for a foreign container to come. Its counters must be zero.
    /// False if the pool is full.
    pub fn offer(&self, slot: Slot) -> Result<bool, MapError> {
        self.check(slot)?;
        self.maps.foreign.pool.push(slot)
    }

    /// Takes back one slot that waits for a container; `None` if none does.
    pub fn take_one_back(&self) -> Result<Option<Slot>, MapError> {
        self.maps.foreign.pool.pop()
    }

    /// Takes back all slots that wait for a container.
    pub fn take_back(&self) -> Result<Vec<Slot>, MapError> {
        let mut slots = Vec::new();
        while let Some(slot) = self.take_one_back()? {
            slots.push(slot);
        }
        Ok(slots)
    }

    /// A foreign container that was there before, or for which the pool had no slot. `nested`
    /// are the cgroups below it, which are the container's too.
    pub fn register_foreign(
        &self,
        slot: Slot,
        own: &CgroupIds,
        nested: &[CgroupIds],
    ) -> Result<(), MapError> {
        self.check(slot)?;
        for key in self.keys(own) {
            self.maps.cgroup_slots.write(&key, &(slot | abi::FOREIGN_TOP))?;
        }
        for key in nested.iter().flat_map(|ids| self.keys(ids)) {
            self.maps.cgroup_slots.write(&key, &slot)?;
        }
        for ids in nested.iter().chain([own]).filter(|ids| ids.unified != 0) {
            self.cache.store(ids.unified, slot);
        }
        Ok(())
    }

    /// The own cgroups of all foreign containers that the kernel knows.
    pub fn foreign_cgroups(&self) -> Result<Vec<ForeignCgroup>, MapError> {
        let mut found = Vec::new();
        for key in self.maps.cgroup_slots.keys()? {
            let Some(value) = self.maps.cgroup_slots.get(&key)? else { continue };
            if value & abi::FOREIGN_TOP != 0 {
                let slot = value & abi::SLOT_MASK;
                found.push(ForeignCgroup { tree: tree(key.hierarchy), id: key.id, slot });
            }
        }
        Ok(found)
    }

    /// The news, from where the last reader stopped. Use one reader at a time.
    pub fn cgroup_events(&self) -> Result<CgroupReader, MapError> {
        CgroupReader::open(&self.pins.dir)
    }
}

fn tree(hierarchy: u32) -> Tree {
    if hierarchy == 0 { Tree::Unified } else { Tree::Blkio }
}

/// Reads [`CgroupEvent`]s; readable, in poll's sense, when there are some.
pub struct CgroupReader {
    ring: RingBuf<MapData>,
}

impl CgroupReader {
    fn open(pin_dir: &Path) -> Result<Self, MapError> {
        const NAME: &str = "cgroup_events";
        let open = |source| MapError::Open { map: NAME, source };
        let data = MapData::from_pin(pin_dir.join(NAME)).map_err(open)?;
        let map = Map::from_map_data(data).map_err(open)?;
        Ok(Self { ring: RingBuf::try_from(map).map_err(open)? })
    }

    /// At most so many, oldest first; when that many came, there may be more.
    pub fn read(&mut self, limit: usize) -> Vec<CgroupEvent> {
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(record) = self.ring.next() else { break };
            events.extend(decode(&record));
        }
        events
    }
}

impl AsFd for CgroupReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl std::fmt::Debug for CgroupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CgroupReader").finish_non_exhaustive()
    }
}

fn decode(record: &[u8]) -> Option<CgroupEvent> {
    let (event, _) = abi::CgroupEvent::read_from_prefix(record).ok()?;
    let (tree, id) = (tree(event.hierarchy), event.id);
    match event.change {
        abi::CGROUP_BORN => {
            let path = event.path.get(..event.path_bytes as usize)?;
            let path = String::from_utf8_lossy(path).into_owned();
            let slot = Some(event.slot).filter(|slot| *slot != 0);
            Some(CgroupEvent::Born { tree, id, slot, path })
        }
        abi::CGROUP_GONE => Some(CgroupEvent::Gone { tree, id, slot: event.slot }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn records_become_news() {
        let mut record = abi::CgroupEvent::new_zeroed();
        record.id = 77;
        record.path_bytes = 5;
        record.path[..6].copy_from_slice(b"/a/b\0x");
        record.path[4] = b'c';
        let born =
            |slot| CgroupEvent::Born { tree: Tree::Unified, id: 77, slot, path: "/a/bc".into() };
        assert_eq!(decode(record.as_bytes()), Some(born(None)));
        record.slot = 9;
        assert_eq!(decode(record.as_bytes()), Some(born(Some(9))));
        record.change = abi::CGROUP_GONE;
        record.hierarchy = 7;
        let gone = CgroupEvent::Gone { tree: Tree::Blkio, id: 77, slot: 9 };
        assert_eq!(decode(record.as_bytes()), Some(gone));
    }

    #[test]
    fn what_is_too_short_too_long_or_unknown_is_nothing() {
        let mut record = abi::CgroupEvent::new_zeroed();
        record.path_bytes = 513;
        assert_eq!(decode(record.as_bytes()), None);
        record.change = 2;
        assert_eq!(decode(record.as_bytes()), None);
        assert_eq!(decode(&[0; 100]), None);
    }
}

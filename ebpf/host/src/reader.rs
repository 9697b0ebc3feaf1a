//! The ring's reading end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};

use crate::event::{Event, decode};
use crate::map::MapError;

/// Reads exec and exit events. Readable, in poll's sense, when there are some; after a
/// restart it goes on where the last reader stopped. Use one at a time.
pub struct EventReader {
    ring: RingBuf<MapData>,
    undecodable: u64,
}

const NAME: &str = "events";

impl EventReader {
    pub(crate) fn open(pin_dir: &Path) -> Result<Self, MapError> {
        let open = |source| MapError::Open { map: NAME, source };
        let data = MapData::from_pin(pin_dir.join(NAME)).map_err(open)?;
        let map = Map::from_map_data(data).map_err(open)?;
        Ok(Self { ring: RingBuf::try_from(map).map_err(open)?, undecodable: 0 })
    }

    /// Gives what is in the ring to `f`, oldest first, and makes room: at most `limit`
    /// records. Whether there may be more.
    pub fn read(&mut self, limit: usize, mut f: impl FnMut(Event)) -> bool {
        for _ in 0..limit {
            let Some(record) = self.ring.next() else { return false };
            match decode(&record) {
                Some(event) => f(event),
                None => self.undecodable += 1,
            }
        }
        true
    }

    /// Records that no program of this build writes; more than 0 is a bug.
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }
}

impl AsFd for EventReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for EventReader {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader")
            .field("fd", &self.as_raw_fd())
            .field("undecodable", &self.undecodable)
            .finish()
    }
}

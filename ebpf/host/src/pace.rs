//! What a controller asks of each container each second: few look-ups, no system calls'
//! tables.

use crate::map::{Buffer, MapError};
use crate::{Histogram, Meters, NetworkCounters, SchedulerCounters, Slot, counters, scheduler};

/// Counters of one slot that tell how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub scheduler: SchedulerCounters,
    /// Waits for a CPU.
    pub run_queue: Histogram,
    /// Without the loopback interface.
    pub network: NetworkCounters,
}

impl Meters {
    /// Two look-ups, where [`read`](Self::read) sums every table.
    pub fn read_pace(&self, slot: Slot) -> Result<Pace, MapError> {
        self.check(slot)?;
        let buffer = &mut Buffer::new();
        let network = self.maps.network.read(&slot, buffer)?.unwrap_or_default();
        let network = counters::traffic(network.iter().map(|copy| &copy.external));
        let switches = self.maps.scheduler.read(&slot, buffer)?.unwrap_or_default();
        Ok(Pace {
            scheduler: scheduler::sum(switches),
            run_queue: Histogram::sum(switches.iter().map(|copy| &copy.waits)),
            network,
        })
    }
}

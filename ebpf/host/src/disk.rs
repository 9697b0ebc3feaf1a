//! What disks did for whom: the kernel's rows as counters.

use tenantry_abi as abi;

use crate::map::{MapError, Table};
use crate::{Histogram, Slot};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiskOp {
    Read,
    Write,
    /// The device's write cache made durable.
    Flush,
    Discard,
    Other,
}

/// A whole disk, not a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskKey {
    pub slot: Slot,
    pub major: u32,
    pub minor: u32,
    pub op: DiskOp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Requests completed; adjacent ones may have been merged into one.
    pub operations: u64,
    /// Bytes that succeeded.
    pub bytes: u64,
    /// Those of `operations` that failed, in part or whole.
    pub errors: u64,
    /// Times that the driver gave a request back, to be issued again.
    pub requeues: u64,
    /// Transfers that became part of another request, and so no operation of their own.
    pub merges: u64,
    /// Requests at the device now.
    pub in_flight: u64,
    /// From the driver's hands and back; a flush's from its beginning, as the device
    /// flushes once for all that wait.
    pub latency: Histogram,
    /// From the request's beginning to its first issue: plug, scheduler, waiting for the
    /// device to take it. Empty where the device keeps no statistics, and for flushes.
    /// What an I/O limit holds back is not in it: there is no request yet.
    pub queue: Histogram,
}

/// All rows of one reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    pub containers: Vec<(DiskKey, DiskCounters)>,
    /// Charged to the root cgroup, slot 0; operations, bytes and errors alone. On v2 the
    /// kernel's own I/O and that of processes in no cgroup; on v1 also every process
    /// without a blkio cgroup and all buffered writes that the kernel flushes later, a
    /// container's too.
    pub root: Vec<(DiskKey, DiskCounters)>,
}

pub(crate) fn read(table: &Table<abi::DiskKey, abi::Disk>) -> Result<Disks, MapError> {
    let mut disks = Disks::default();
    for key in table.keys()? {
        // Gone since the listing: its slot was reset.
        let Some(counts) = table.get(&key)? else { continue };
        let row = counters(&key, &counts);
        match key.slot {
            0 => disks.root.push(row),
            _ => disks.containers.push(row),
        }
    }
    Ok(disks)
}

fn counters(key: &abi::DiskKey, counts: &abi::Disk) -> (DiskKey, DiskCounters) {
    let op = match key.op {
        abi::DISK_READ => DiskOp::Read,
        abi::DISK_WRITE => DiskOp::Write,
        abi::DISK_FLUSH => DiskOp::Flush,
        abi::DISK_DISCARD => DiskOp::Discard,
        _ => DiskOp::Other,
    };
    let counters = DiskCounters {
        operations: counts.ios,
        bytes: counts.bytes,
        errors: counts.errors,
        requeues: counts.requeues,
        merges: counts.merges,
        in_flight: counts.in_flight,
        latency: Histogram::sum([&counts.latency].into_iter()),
        queue: Histogram::sum([&counts.queue].into_iter()),
    };
    (DiskKey { slot: key.slot, major: key.major, minor: key.minor, op }, counters)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn operations_are_named() {
        for (raw, op) in
            [(0, DiskOp::Read), (1, DiskOp::Write), (3, DiskOp::Discard), (9, DiskOp::Other)]
        {
            let key = abi::DiskKey { slot: 4, major: 254, minor: 0, op: raw };
            let (key, counters) = counters(&key, &abi::Disk::new_zeroed());
            assert_eq!((key.slot, key.major, key.op, counters.operations), (4, 254, op, 0));
        }
    }
}

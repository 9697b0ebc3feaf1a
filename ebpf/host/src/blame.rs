//! Who kept whom waiting, as a caller reads it.
//!
//! The kernel shares each wait out when it ends. What a victim waited for is the sum over its
//! rows, `unexplained` included: nothing is left out.

use tenantry_abi as abi;
use zerocopy::FromZeros;

use crate::map::{Buffer, MapError};
use crate::{Meters, Slot};

/// Time that one slot waited because of one culprit, since the slots were reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blame {
    pub victim: Slot,
    pub culprit: Culprit,
    pub resource: BlamedResource,
    pub ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Culprit {
    /// Another container; never the victim itself.
    Slot(Slot),
    /// The victim's own siblings.
    Itself,
    /// What is in no container, or nobody: a CPU on its way out of idling.
    Host,
    /// The victim's own CPU quota, or one above it; a container's own bandwidth.
    Quota,
    /// The hypervisor.
    Steal,
    /// Longer ago than the kernel's programs remember.
    Unexplained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlamedResource {
    /// Waits between runnable and running: all of
    /// [`SlotCounters::run_queue`](crate::SlotCounters::run_queue).
    Cpu,
    /// Waits of disk requests for the device's other requests.
    Disk,
    /// Time in which some of a container's packets stood in a device's queue.
    Network,
}

impl Culprit {
    const CAUSES: [(usize, Culprit); abi::CAUSES] = [
        (abi::CAUSE_SELF, Culprit::Itself),
        (abi::CAUSE_HOST, Culprit::Host),
        (abi::CAUSE_QUOTA, Culprit::Quota),
        (abi::CAUSE_STEAL, Culprit::Steal),
        (abi::CAUSE_UNEXPLAINED, Culprit::Unexplained),
    ];
}

impl BlamedResource {
    pub const ALL: [BlamedResource; abi::BLAMED_RESOURCES] =
        [BlamedResource::Cpu, BlamedResource::Disk, BlamedResource::Network];

    pub fn name(self) -> &'static str {
        match self {
            BlamedResource::Cpu => "cpu",
            BlamedResource::Disk => "disk",
            BlamedResource::Network => "network",
        }
    }

    fn index(self) -> u32 {
        match self {
            BlamedResource::Cpu => abi::BLAME_CPU,
            BlamedResource::Disk => abi::BLAME_DISK,
            BlamedResource::Network => abi::BLAME_NETWORK,
        }
    }
}

impl Meters {
    /// All that is not zero, in no order: a few system calls, however many slots there are.
    pub fn read_blame(&self) -> Result<Vec<Blame>, MapError> {
        let mut rows = Vec::new();
        let mut buffer = Buffer::new();
        self.maps.blame.read_all(&mut buffer, |key, ns| rows.extend(neighbour(key, ns[0])))?;
        self.maps
            .causes
            .read_all(&mut buffer, |slot, copies| rows.extend(causes(*slot, copies)))?;
        Ok(rows)
    }

    /// A slot's rows go, as a victim's and as a culprit's.
    pub(crate) fn reset_blame(&self, slot: Slot) -> Result<(), MapError> {
        let mut keys = Vec::new();
        self.maps.blame.read_all(&mut Buffer::new(), |key, _| {
            if key.victim == slot || key.culprit == slot {
                keys.push(*key);
            }
        })?;
        for key in keys {
            self.maps.blame.remove(&key)?;
        }
        let mut hashes = Vec::new();
        self.maps.flows.read_all(&mut Buffer::new(), |hash, holder| {
            if holder[0] == u64::from(slot) {
                hashes.push(*hash);
            }
        })?;
        for hash in hashes {
            self.maps.flows.remove(&hash)?;
        }
        self.maps.causes.write(&slot, &FromZeros::new_zeroed())
    }
}

/// `None` if a later build knows the resource.
fn neighbour(key: &abi::BlameKey, ns: u64) -> Option<Blame> {
    let resource = BlamedResource::ALL.into_iter().find(|one| one.index() == key.resource)?;
    Some(Blame { victim: key.victim, culprit: Culprit::Slot(key.culprit), resource, ns })
}

/// The causes of one slot that are not zero, summed over CPUs.
fn causes(victim: Slot, copies: &[abi::Causes]) -> impl Iterator<Item = Blame> {
    BlamedResource::ALL.into_iter().flat_map(move |resource| {
        Culprit::CAUSES.into_iter().filter_map(move |(cause, culprit)| {
            let of_cpu = |copy: &abi::Causes| copy.ns[resource.index() as usize][cause];
            let ns = copies.iter().map(of_cpu).fold(0, u64::wrapping_add);
            (ns > 0).then_some(Blame { victim, culprit, resource, ns })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_summed_over_processors_and_zeroes_are_left_out() {
        let mut copy = abi::Causes::new_zeroed();
        copy.ns[abi::BLAME_CPU as usize][abi::CAUSE_QUOTA] = 5;
        copy.ns[abi::BLAME_DISK as usize][abi::CAUSE_SELF] = 7;
        let row = |culprit, resource, ns| Blame { victim: 3, culprit, resource, ns };
        let expected = [
            row(Culprit::Quota, BlamedResource::Cpu, 10),
            row(Culprit::Itself, BlamedResource::Disk, 14),
        ];
        assert_eq!(causes(3, &[copy, copy]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn neighbours_have_a_resource_that_is_known() {
        let key = |resource| abi::BlameKey { victim: 1, culprit: 2, resource };
        let disk = neighbour(&key(abi::BLAME_DISK), 9).map(|row| (row.culprit, row.resource));
        assert_eq!(disk, Some((Culprit::Slot(2), BlamedResource::Disk)));
        assert_eq!(neighbour(&key(9), 9), None);
    }
}

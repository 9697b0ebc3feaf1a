//! Takes a [`Sample`]: who waited for whom, and closely those that the policy has a class for
//! or that such a wait concerns; of these the cgroup's files only where an objective is
//! measured by them. The others cost nothing but their names, and while memory is short the
//! reading of their files and of the disks' table.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenantry_cgroupfs::sample::MemorySample;
use tenantry_cgroupfs::types::Max;
use tenantry_cgroupfs::{Hierarchy, Strain};
use tenantry_container::Engine;
use tenantry_control::{Device, Policy, Wishes};
use tenantry_ebpf::{DiskCounters, DiskOp, Meters, Slot};

use super::identity::{Identities, Identity, Need, wishes};
use super::queues::Queues;
use super::reach::Reach;
use super::sample::{Counters, FromFiles, Pair, Sample};
use crate::blame::Blames;
use crate::registry::Registry;
use crate::samplers::Samplers;

type Disks = HashMap<Slot, Vec<(Device, DiskOp, DiskCounters)>>;

#[derive(Debug)]
pub struct Looker {
    pub engine: Engine,
    pub reach: Reach,
    pub meters: Arc<Meters>,
    pub blames: Arc<Blames>,
    pub registry: Arc<Registry>,
    pub hierarchy: Hierarchy,
    pub samplers: Arc<Samplers>,
    pub cgroup_parent: String,
    pub cpus: u32,
    pub known: Mutex<Identities>,
    pub queues: Mutex<Queues>,
}

impl Looker {
    /// `at`: since the controller began; `parties`: who waited for a neighbour at the last
    /// look, these neighbours, and who is watched or held for it; `is_short`: of memory, so
    /// that everybody's files are read. What cannot be read of a container is zero.
    pub fn look(
        &self,
        at: Duration,
        policy: &Arc<Policy>,
        parties: &HashSet<String>,
        is_short: bool,
    ) -> Sample {
        let identities = self.identities(policy);
        let blame = self.blame();
        let steal_seconds = crate::host::read_steal_seconds().unwrap_or_default();
        // Whose memory is limited was looked at while memory was short.
        let free_swap_bytes = is_short.then(crate::host::read_free_swap_bytes).flatten();
        let most = identities.iter().map(|(_, one)| one.need).max().unwrap_or_default();
        let may_matter = most >= Need::Files || !parties.is_empty() || is_short;
        let mut disks = may_matter.then(|| self.disks());
        let weighted_disks = disks.as_ref().map(|all| self.weighted(at, all)).unwrap_or_default();
        let containers = identities.into_iter().map(|(slot, identity)| {
            let is_party = parties.contains(&identity.id);
            let is_watched = identity.need > Need::Name || is_party;
            // Who takes memory is found among all that are watched.
            let reads_files = is_short
                || is_party
                || identity.need >= Need::Files
                || is_watched && most == Need::EverybodysFiles;
            let counters = Counters {
                pace: is_watched.then(|| self.meters.read_pace(slot).ok()).flatten(),
                disks: disks
                    .as_mut()
                    .filter(|_| is_watched || is_short)
                    .map(|all| all.remove(&slot).unwrap_or_default()),
                files: reads_files
                    .then(|| self.files(&identity.cgroup, free_swap_bytes.unwrap_or(0)))
                    .flatten(),
                wishes: is_watched.then(|| self.wishes(&identity)).flatten(),
                identity,
                ..Counters::default()
            };
            (slot, counters)
        });
        let containers = containers.collect();
        Sample { at, cpus: self.cpus, steal_seconds, containers, blame, weighted_disks }
    }

    fn identities(&self, policy: &Arc<Policy>) -> Vec<(Slot, Arc<Identity>)> {
        let ours = self.engine.list().into_iter().filter_map(|snapshot| {
            snapshot.live.as_ref()?;
            Some((self.registry.slot(&snapshot.record.id)?, snapshot))
        });
        let others = self.registry.foreign().map(|foreign| foreign.list()).unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.now(policy, ours, &self.cgroup_parent, others)
    }

    /// What another runtime gave its container.
    fn wishes(&self, identity: &Identity) -> Option<Wishes> {
        let limits = identity.foreign.then(|| self.reach.foreign_limits(&identity.id))??;
        Some(wishes(&limits))
    }

    fn files(&self, cgroup: &str, free_swap_bytes: u64) -> Option<FromFiles> {
        let Strain { memory, pressure } =
            self.samplers.strain(&self.hierarchy.group(cgroup)).ok()??;
        let stat = &memory.stat;
        Some(FromFiles {
            memory_usage_bytes: memory.usage_bytes.unwrap_or(0),
            memory_limit_bytes: memory.limit_bytes.and_then(|limit| limit.value()),
            memory_limit_hits: memory.limit_hits(),
            refaults: stat.workingset_refault_anon.unwrap_or(0)
                + stat.workingset_refault_file.unwrap_or(0),
            unreclaimable_bytes: unreclaimable_bytes(&memory, free_swap_bytes),
            file_bytes: stat.file_bytes.unwrap_or(0),
            swap_bytes: memory.swap_bytes.unwrap_or(0),
            stolen_pages: stat.pgsteal,
            pressure,
        })
    }

    fn blame(&self) -> HashMap<Pair, u64> {
        let rows = self.blames.read().unwrap_or_default();
        rows.into_iter().map(|row| ((row.victim, row.culprit, row.resource), row.ns)).collect()
    }

    fn weighted(&self, at: Duration, disks: &Disks) -> HashSet<Device> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.weighted(at, disks.values().flatten().map(|(device, _, _)| *device))
    }

    fn disks(&self) -> Disks {
        let mut by_slot = Disks::new();
        for (key, counters) in self.meters.read_disks().unwrap_or_default().containers {
            let device = Device { major: key.major, minor: key.minor };
            by_slot.entry(key.slot).or_default().push((device, key.op, counters));
        }
        by_slot
    }
}

/// Anonymous and shared memory beyond what the host and the container's own limit let into
/// swap, or what is locked, where that is more.
fn unreclaimable_bytes(memory: &MemorySample, free_swap_bytes: u64) -> u64 {
    let stat = &memory.stat;
    let limits = [memory.memory_swap_limit_bytes, memory.limit_bytes];
    let own_room = match limits.map(|limit| limit.and_then(Max::value)) {
        [Some(both), Some(alone)] => {
            both.saturating_sub(alone).saturating_sub(memory.swap_bytes.unwrap_or(0))
        }
        _ => u64::MAX,
    };
    let swappable = stat.anon_bytes.unwrap_or(0) + stat.shmem_bytes.unwrap_or(0);
    let stays = swappable.saturating_sub(free_swap_bytes.min(own_room));
    stays.max(stat.unevictable_bytes.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tenantry_cgroupfs::sample::MemoryStat;

    use super::*;

    #[test]
    fn what_has_no_room_in_swap_cannot_be_reclaimed() {
        let check = |limits: [Option<Max>; 2], in_swap, free, expected| {
            let stat = MemoryStat {
                anon_bytes: Some(90),
                shmem_bytes: Some(10),
                unevictable_bytes: Some(5),
                ..MemoryStat::default()
            };
            let [memory_swap_limit_bytes, limit_bytes] = limits;
            let swap_bytes = Some(in_swap);
            let memory = MemorySample {
                stat,
                memory_swap_limit_bytes,
                limit_bytes,
                swap_bytes,
                ..MemorySample::default()
            };
            assert_eq!(unreclaimable_bytes(&memory, free), expected, "{limits:?} {free}");
        };
        let limited = |both, alone| [Some(Max::Value(both)), Some(Max::Value(alone))];
        check([None, None], 0, 0, 100);
        check([Some(Max::Unlimited), Some(Max::Value(200))], 0, 30, 70);
        check([None, None], 0, 1000, 5);
        check(limited(200, 200), 0, 1000, 100);
        check(limited(260, 200), 20, 1000, 60);
        check(limited(260, 200), 20, 10, 90);
        assert_eq!(unreclaimable_bytes(&MemorySample::default(), 0), 0);
    }
}

//! Takes a [`Sample`]: who waited for whom, and closely those that the policy has a class for
//! or that such a wait concerns; of these the cgroup's files only where an objective is
//! measured by them. The others cost nothing but their names, and while memory is short the
//! reading of their files and of the disks' table.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
                files: reads_files.then(|| self.files(&identity.cgroup)).flatten(),
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

    fn files(&self, cgroup: &str) -> Option<FromFiles> {
        let Strain { memory, pressure } =
            self.samplers.strain(&self.hierarchy.group(cgroup)).ok()??;
        let stat = &memory.stat;
        Some(FromFiles {
            memory_usage_bytes: memory.usage_bytes.unwrap_or(0),
            memory_limit_bytes: memory.limit_bytes.and_then(|limit| limit.value()),
            memory_limit_hits: memory.limit_hits(),
            refaults: stat.workingset_refault_anon.unwrap_or(0)
                + stat.workingset_refault_file.unwrap_or(0),
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

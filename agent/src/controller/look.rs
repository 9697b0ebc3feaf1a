//! Takes a [`Sample`]: who waited for whom, and closely those that the policy has a class for
//! or that such a wait concerns; of these the cgroup's files only where an objective is
//! measured by them. The others cost nothing but their names, and while memory is short the
//! reading of their files.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tenantry_cgroupfs::{Hierarchy, Max, Strain};
use tenantry_container::{Engine, Limits, NetworkMode};
use tenantry_control::{Actuator, Class, Device, IoKind, Objectives, Policy, Wish, Wishes};
use tenantry_ebpf::{DiskCounters, DiskOp, Meters, Slot};

use super::reach::Reach;
use super::sample::{Counters, FromFiles, Pair, Sample};
use crate::blame::Blames;
use crate::registry::Registry;
use crate::samplers::Samplers;

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
}

/// One who runs, and where its files are.
struct Subject {
    id: String,
    slot: Slot,
    cgroup: String,
    counters: Counters,
}

/// What the policy makes worth reading of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Name,
    Counters,
    /// Those of its cgroup, which cost the most.
    Files,
    EverybodysFiles,
}

fn need(policy: &Policy, id: &str, counters: &Counters) -> Need {
    let who = counters.who(id);
    let standing = policy.standing(&who);
    if standing.class == Class::Normal {
        return Need::Name;
    }
    let Some(objectives) = standing.objectives else { return Need::Counters };
    let Objectives { pressure_cpu, pressure_memory, pressure_io, disk_p99_ms, .. } = objectives;
    if pressure_memory.is_some() {
        return Need::EverybodysFiles;
    }
    match pressure_cpu.or(*pressure_io).or(*disk_p99_ms) {
        Some(_) => Need::Files,
        None => Need::Counters,
    }
}

impl Looker {
    /// `at`: since the controller began; `parties`: who waited for a neighbour at the last
    /// look, these neighbours, and who is held; `is_short`: of memory, so that everybody's
    /// files are read. What cannot be read of a container is zero.
    pub fn look(
        &self,
        at: Duration,
        policy: &Policy,
        parties: &HashSet<String>,
        is_short: bool,
    ) -> Sample {
        let subjects = self.subjects();
        let holders = subjects.iter().map(|one| (one.slot, one.id.clone())).collect();
        let blame = self.blame();
        let steal_seconds = crate::host::read_steal_seconds().unwrap_or_default();
        let needs: HashMap<Slot, Need> =
            subjects.iter().map(|one| (one.slot, need(policy, &one.id, &one.counters))).collect();
        // Who takes memory is found among all that are watched.
        let all_files = needs.values().any(|need| *need == Need::EverybodysFiles);
        let is_watched = |one: &Subject| needs[&one.slot] > Need::Name || parties.contains(&one.id);
        let is_disks = needs.values().any(|need| *need >= Need::Files);
        let mut disks = (is_disks || !parties.is_empty()).then(|| self.disks());
        let containers = subjects
            .into_iter()
            .map(|one| {
                if !is_watched(&one) {
                    let files = is_short.then(|| self.files(&one.cgroup)).flatten();
                    return (one.id, Counters { files, ..one.counters });
                }
                let reads_files = is_short || all_files || needs[&one.slot] >= Need::Files;
                let Subject { id, slot, cgroup, counters } = one;
                let counters = Counters {
                    pace: self.meters.read_pace(slot).ok(),
                    disks: disks.as_mut().map(|all| all.remove(&slot).unwrap_or_default()),
                    files: (reads_files || parties.contains(&id))
                        .then(|| self.files(&cgroup))
                        .flatten(),
                    wishes: self.wishes(&id, &counters),
                    ..counters
                };
                (id, counters)
            })
            .collect();
        Sample { at, cpus: self.cpus, steal_seconds, containers, holders, blame }
    }

    fn subjects(&self) -> Vec<Subject> {
        let ours = self.engine.list().into_iter().filter_map(|snapshot| {
            let live = snapshot.live.as_ref()?;
            let record = &snapshot.record;
            let address = match record.config.network {
                NetworkMode::Bridge => live.endpoint.as_ref().map(|own| own.address.into()),
                NetworkMode::Host => Some(Ipv4Addr::LOCALHOST.into()),
                NetworkMode::None => None,
            };
            let labels = &record.config.labels;
            let ours = |(key, value): (&String, &String)| {
                key.starts_with("tenantry.").then(|| (key.clone(), value.clone()))
            };
            Some(Subject {
                slot: self.registry.slot(&record.id)?,
                cgroup: format!("{}/{}", self.cgroup_parent, record.id),
                counters: Counters {
                    name: record.name.clone(),
                    image: record.image.name.clone(),
                    labels: labels.iter().filter_map(ours).collect(),
                    wishes: wishes(&record.limits),
                    address,
                    ..Counters::default()
                },
                id: record.id.clone(),
            })
        });
        let others = self.registry.foreign().map(|foreign| foreign.list()).unwrap_or_default();
        let others = others.into_iter().map(|entry| Subject {
            slot: entry.slot,
            cgroup: entry.subject.cgroup.trim_start_matches('/').to_owned(),
            counters: Counters {
                name: entry.name,
                image: entry.image,
                foreign: true,
                holds_agent: entry.holds_agent,
                ..Counters::default()
            },
            id: entry.subject.id,
        });
        ours.chain(others).collect()
    }

    /// The operator's, or what another runtime gave its container.
    fn wishes(&self, id: &str, counters: &Counters) -> Wishes {
        match counters.foreign {
            true => self.reach.foreign_limits(id).as_ref().map(wishes).unwrap_or_default(),
            false => counters.wishes.clone(),
        }
    }

    fn files(&self, cgroup: &str) -> Option<FromFiles> {
        let Strain { memory, pressure } =
            self.samplers.strain(&self.hierarchy.group(cgroup)).ok()??;
        let stat = &memory.stat;
        Some(FromFiles {
            memory_usage_bytes: memory.usage_bytes.unwrap_or(0),
            memory_limit_bytes: memory.limit_bytes.and_then(|limit| limit.value()),
            memory_limit_hits: memory.failcnt,
            refaults: stat.workingset_refault_anon.unwrap_or(0)
                + stat.workingset_refault_file.unwrap_or(0),
            pressure,
        })
    }

    fn blame(&self) -> HashMap<Pair, u64> {
        let rows = self.blames.read().unwrap_or_default();
        rows.into_iter().map(|row| ((row.victim, row.culprit, row.resource), row.ns)).collect()
    }

    fn disks(&self) -> HashMap<Slot, Vec<(Device, DiskOp, DiskCounters)>> {
        let mut by_slot: HashMap<Slot, Vec<_>> = HashMap::new();
        for (key, counters) in self.meters.read_disks().unwrap_or_default().containers {
            let device = Device { major: key.major, minor: key.minor };
            by_slot.entry(key.slot).or_default().push((device, key.op, counters));
        }
        by_slot
    }
}

/// The operator's limits in the controller's words.
fn wishes(limits: &Limits) -> Wishes {
    let mut wishes = Wishes::new();
    let mut limit = |actuator: Actuator, value: f64| {
        wishes.insert(actuator, Wish { limit: Some(value), guarantee: None });
    };
    let resources = &limits.resources;
    if let Some(cores) = resources
        .cpu
        .and_then(|cpu| cpu.quota_usec.map(|quota| quota as f64 / cpu.period_usec as f64))
    {
        limit(Actuator::CpuMax, cores);
    }
    if let Some(weight) = resources.cpu_weight {
        limit(Actuator::CpuWeight, weight as f64);
    }
    for io in &resources.io {
        let device = Device { major: io.major, minor: io.minor };
        let kinds = [
            (IoKind::ReadBytes, io.read_bytes_per_s),
            (IoKind::WriteBytes, io.write_bytes_per_s),
            (IoKind::ReadOps, io.read_ops_per_s),
            (IoKind::WriteOps, io.write_ops_per_s),
        ];
        for (kind, max) in kinds {
            if let Some(Max::Value(value)) = max {
                limit(Actuator::IoMax { device, kind }, value as f64);
            }
        }
    }
    let bandwidth = &limits.bandwidth;
    let bytes = |bits: u64| bits as f64 / 8.0;
    if let Some(bits) = bandwidth.egress_bits_per_s {
        limit(Actuator::NetEgress, bytes(bits));
    }
    if let Some(bits) = bandwidth.ingress_bits_per_s {
        limit(Actuator::NetIngress, bytes(bits));
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_a_container_follows_from_its_class_and_objectives() {
        let check = |objectives: &str, name: &str, expected: Need| {
            let rules = "[[rule]]\nclass = \"best-effort\"\nname = [\"batch\"]\n\
                [[rule]]\nclass = \"protected\"\nname = [\"web\"]\n[rule.objectives]\n";
            let policy = Policy::parse(&format!("{rules}{objectives}\n")).expect("a policy");
            let counters = Counters { name: name.into(), ..Counters::default() };
            assert_eq!(need(&policy, "0a1f", &counters), expected, "{objectives}, {name}");
        };
        check("run_queue_p99_ms = 5.0", "other", Need::Name);
        check("run_queue_p99_ms = 5.0", "batch", Need::Counters);
        check("run_queue_p99_ms = 5.0", "web", Need::Counters);
        check("disk_p99_ms = 5.0", "web", Need::Files);
        check("pressure_cpu = 0.1", "web", Need::Files);
        check("pressure_io = 0.1\npressure_memory = 0.1", "web", Need::EverybodysFiles);
    }
}

//! Who there is, and what of each the policy makes worth reading. Made anew only where the
//! container or the policy is another one than at the look before: hundreds that do nothing
//! cost a comparison each.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tenantry_cgroupfs::Max;
use tenantry_container::{Limits, NetworkMode, Snapshot};
use tenantry_control::{
    Actuator, Class, ContainerRates, Device, IoKind, Metric, Objectives, Policy, Wish, Wishes,
};
use tenantry_ebpf::Slot;

use crate::foreign::Entry;

/// What does not change from look to look.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub id: String,
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub foreign: bool,
    /// Ours, on the host's network or on none.
    pub unshaped: bool,
    /// The agent runs in it: whatever it does is the host's doing, and nobody may limit it.
    pub holds_agent: bool,
    /// Where the host reaches it. `None` of another runtime's container.
    pub address: Option<IpAddr>,
    /// Below each hierarchy's root, without a slash before it.
    pub cgroup: String,
    /// The operator's. Empty of another runtime's container: its files have them.
    pub wishes: Wishes,
    pub need: Need,
    /// Where the policy wants to know its latency.
    pub metric: Option<Metric>,
}

/// What the policy makes worth reading of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    #[default]
    Name,
    Counters,
    /// Those of its cgroup, which cost the most.
    Files,
    EverybodysFiles,
}

/// Of the last look.
#[derive(Debug, Default)]
pub struct Identities {
    policy: Option<Arc<Policy>>,
    /// Where it is one of ours with what it was made of, which is replaced when it changes.
    known: HashMap<Slot, (Option<Arc<Snapshot>>, Arc<Identity>)>,
}

impl Identities {
    /// All who run now: `ours`, whose cgroups are below `parent`, and `others`.
    pub fn now(
        &mut self,
        policy: &Arc<Policy>,
        ours: impl Iterator<Item = (Slot, Arc<Snapshot>)>,
        parent: &str,
        others: Vec<Entry>,
    ) -> Vec<(Slot, Arc<Identity>)> {
        if !self.policy.as_ref().is_some_and(|last| Arc::ptr_eq(last, policy)) {
            self.known.clear();
            self.policy = Some(Arc::clone(policy));
        }
        let mut before = std::mem::take(&mut self.known);
        for (slot, snapshot) in ours {
            let is_same = |of: &Option<Arc<Snapshot>>| {
                of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &snapshot))
            };
            let known = before.remove(&slot).filter(|(of, _)| is_same(of));
            let known = known.unwrap_or_else(|| {
                let identity = Identity::of_ours(&snapshot, parent).under(policy);
                (Some(snapshot), Arc::new(identity))
            });
            self.known.insert(slot, known);
        }
        for entry in others {
            let known = before.remove(&entry.slot).filter(|(_, known)| known.is_of(&entry));
            let slot = entry.slot;
            let known = known
                .unwrap_or_else(|| (None, Arc::new(Identity::of_foreign(entry).under(policy))));
            self.known.insert(slot, known);
        }
        self.known.iter().map(|(slot, (_, known))| (*slot, Arc::clone(known))).collect()
    }
}

impl Identity {
    fn of_ours(snapshot: &Snapshot, parent: &str) -> Self {
        let record = &snapshot.record;
        let endpoint = snapshot.live.as_ref().and_then(|live| live.endpoint.as_ref());
        let ours = |(key, value): (&String, &String)| {
            key.starts_with("tenantry.").then(|| (key.clone(), value.clone()))
        };
        Self {
            name: record.name.clone(),
            image: record.image.name.clone(),
            labels: record.config.labels.iter().filter_map(ours).collect(),
            unshaped: record.config.network != NetworkMode::Bridge,
            address: match record.config.network {
                NetworkMode::Bridge => endpoint.map(|own| own.address.into()),
                NetworkMode::Host => Some(Ipv4Addr::LOCALHOST.into()),
                // What it sends has the lender's address, and is not its alone.
                NetworkMode::None | NetworkMode::Shared => None,
            },
            cgroup: format!("{parent}/{}", record.id),
            wishes: wishes(&record.limits),
            id: record.id.clone(),
            ..Self::default()
        }
    }

    fn of_foreign(entry: Entry) -> Self {
        Self {
            cgroup: below_root(&entry.subject.cgroup).to_owned(),
            id: entry.subject.id,
            name: entry.name,
            image: entry.image,
            foreign: true,
            holds_agent: entry.holds_agent,
            ..Self::default()
        }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        self.foreign
            && self.holds_agent == entry.holds_agent
            && self.id == entry.subject.id
            && self.cgroup == below_root(&entry.subject.cgroup)
            && self.name == entry.name
            && self.image == entry.image
    }

    /// With what the policy has to do with it.
    fn under(self, policy: &Policy) -> Self {
        let who = self.who();
        let standing = policy.standing(&who);
        let metric = standing.rule.and_then(|rule| rule.metric.clone());
        Self { need: need(standing.class, standing.objectives), metric, ..self }
    }

    /// What a policy looks at.
    pub fn who(&self) -> ContainerRates {
        ContainerRates {
            id: self.id.clone(),
            name: self.name.clone(),
            image: self.image.clone(),
            labels: self.labels.clone(),
            foreign: self.foreign,
            unshaped: self.unshaped,
            running: true,
            ..ContainerRates::default()
        }
    }
}

fn below_root(cgroup: &str) -> &str {
    cgroup.trim_start_matches('/')
}

fn need(class: Class, objectives: Option<&Objectives>) -> Need {
    if class == Class::Normal {
        return Need::Name;
    }
    let Some(objectives) = objectives else { return Need::Counters };
    let Objectives { pressure_cpu, pressure_memory, pressure_io, disk_p99_ms, .. } = objectives;
    if pressure_memory.is_some() {
        return Need::EverybodysFiles;
    }
    match pressure_cpu.or(*pressure_io).or(*disk_p99_ms) {
        Some(_) => Need::Files,
        None => Need::Counters,
    }
}

/// The operator's limits in the controller's words.
pub fn wishes(limits: &Limits) -> Wishes {
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
    if let Some(weight) = resources.io_weight {
        limit(Actuator::IoWeight, weight.most() as f64);
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
    use tenantry_ebpf::CgroupIds;

    use super::*;
    use crate::foreign::classify::Subject;
    use crate::origin::Runtime;

    fn policy(objectives: &str) -> Arc<Policy> {
        let rules = "[[rule]]\nclass = \"best-effort\"\nname = [\"batch\"]\n\
            [[rule]]\nclass = \"protected\"\nname = [\"web\"]\n[rule.objectives]\n";
        Arc::new(Policy::parse(&format!("{rules}{objectives}\n")).expect("a policy"))
    }

    #[test]
    fn what_is_read_of_a_container_follows_from_its_class_and_objectives() {
        let check = |objectives: &str, name: &str, expected: Need| {
            let identity = Identity { name: name.into(), ..Identity::default() };
            let found = identity.under(&policy(objectives)).need;
            assert_eq!(found, expected, "{objectives}, {name}");
        };
        check("run_queue_p99_ms = 5.0", "other", Need::Name);
        check("run_queue_p99_ms = 5.0", "batch", Need::Counters);
        check("run_queue_p99_ms = 5.0", "web", Need::Counters);
        check("disk_p99_ms = 5.0", "web", Need::Files);
        check("pressure_cpu = 0.1", "web", Need::Files);
        check("pressure_io = 0.1\npressure_memory = 0.1", "web", Need::EverybodysFiles);
    }

    #[test]
    fn who_is_as_before_is_not_made_anew_until_the_policy_changes() {
        let mut identities = Identities::default();
        let mut look = |policy: &Arc<Policy>, names: &[&str]| -> Vec<Arc<Identity>> {
            let entry = |(index, name): (usize, &&str)| {
                let subject = Subject {
                    runtime: Runtime::Docker,
                    id: format!("{index}"),
                    cgroup: format!("/docker/{index}"),
                };
                let entry =
                    Entry::new(index as Slot + 1, subject, CgroupIds { unified: 1, blkio: None });
                Entry { name: (*name).to_owned(), ..entry }
            };
            let entries = names.iter().enumerate().map(entry).collect();
            let mut all = identities.now(policy, std::iter::empty(), "", entries);
            all.sort_by_key(|(slot, _)| *slot);
            all.into_iter().map(|(_, identity)| identity).collect()
        };
        let first = policy("disk_p99_ms = 5.0");
        let before = look(&first, &["web", "batch"]);
        let now = look(&first, &["web", "renamed"]);
        assert!(Arc::ptr_eq(&before[0], &now[0]) && now[0].need == Need::Files);
        assert_eq!((now[1].name.as_str(), now[1].need), ("renamed", Need::Name));
        let under_another = look(&policy("run_queue_p99_ms = 5.0"), &["web"]);
        assert_eq!((under_another.len(), under_another[0].need), (1, Need::Counters));
    }
}

//! How each victim does: measured against its objectives, smoothed, with hysteresis.

use super::triage::{Blamed, Verdict, triage};
use super::{Look, Round};
use crate::decision::Objective;
use crate::policy::Objectives;
use crate::rates::{ContainerRates, DiskRates};
use crate::state::{State, Victim, Watch};
use crate::types::{Class, Resource};

/// Severities above are not told apart, so that one look does not linger.
const MOST_SEVERITY: f64 = 100.0;
/// Below this a container asks for nothing of a resource: CPUs, and share of time.
const IDLE_CORES: f64 = 0.005;
const IDLE_PRESSURE: f64 = 0.005;
const IDLE_OPS_PER_S: f64 = 1.0;
const IDLE_BYTES_PER_S: f64 = 1000.0;

/// A container that is not well, or for whose sake somebody is held.
pub(super) struct Seen<'a> {
    pub container: &'a ContainerRates,
    pub protected: bool,
    pub at: Vec<SeenAt<'a>>,
}

/// The same at one resource.
pub(super) struct SeenAt<'a> {
    pub resource: Resource,
    pub measure: Measure,
    /// Not smoothed.
    pub severity: f64,
    /// `None` if no neighbour is to blame.
    pub blamed: Option<Blamed<'a>>,
}

/// The objective that is missed most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measure {
    pub objective: Objective,
    pub wanted: f64,
    pub measured: f64,
}

impl Measure {
    /// Above 1 the objective is missed.
    fn severity(&self) -> f64 {
        (self.measured / self.wanted).min(MOST_SEVERITY)
    }
}

/// Updates the watches. Returns those who are watched; a container that was well and is
/// well costs a comparison for each objective.
pub(super) fn observe<'a>(look: &Look<'a>, state: &mut State) -> Vec<Seen<'a>> {
    let mut seen = Vec::new();
    let limit = look.policy.detect.well_below;
    let tightest = look.policy.tightest();
    let is_well = |worst: &[Option<Measure>; 4]| {
        worst.iter().flatten().all(|measure| measure.severity() < limit)
    };
    for container in look.rates.containers.iter().filter(|container| container.running) {
        let known = state.victims.contains_key(&container.id);
        let measured = |objectives: &Objectives| {
            Resource::ALL.map(|resource| worst(look, container, objectives, resource))
        };
        // Well by every objective that there is: then it does not matter which are its own,
        // and no pattern need be looked at.
        if !known && is_well(&measured(&tightest)) {
            continue;
        }
        let standing = look.policy.standing(container);
        let Some(objectives) = standing.objectives else { continue };
        let worst = measured(objectives);
        if !known && is_well(&worst) {
            continue;
        }
        let protected = standing.class == Class::Protected;
        let mut victim = state.victims.remove(&container.id).unwrap_or_default();
        victim.protected = protected;
        let blind = objectives.latency_ms.is_some() && container.latency_ms.is_none();
        let at = Resource::ALL
            .into_iter()
            .zip(worst)
            .filter(|(_, measure)| measure.is_some() || blind)
            .filter_map(|(resource, measure)| {
                watch(look, container, resource, (measure, blind), &mut victim)
            })
            .collect();
        if victim.watches.values().all(|watch| watch.bad_looks == 0) {
            victim.focus = None;
        }
        state.victims.insert(container.id.clone(), victim);
        seen.push(Seen { container, protected, at });
    }
    if state.victims.len() > seen.len() {
        state.victims.retain(|id, _| seen.iter().any(|seen| seen.container.id == *id));
    }
    seen
}

/// `blind`: a latency that is an objective, too, is not known. `None` without any measure.
fn watch<'a>(
    look: &Look<'a>,
    container: &'a ContainerRates,
    resource: Resource,
    (measure, blind): (Option<Measure>, bool),
    victim: &mut Victim,
) -> Option<SeenAt<'a>> {
    let detect = &look.policy.detect;
    let severity = measure.map_or(0.0, |measure| measure.severity());
    let before = victim.watches.get(&resource).copied();
    let mut watch = before.unwrap_or(Watch { severity, ..Watch::default() });
    watch.blind_looks = if blind { watch.blind_looks.saturating_add(1) } else { 0 };
    if !watch.is_blind() || severity > watch.severity {
        watch.severity += detect.smoothing * (severity - watch.severity);
    }
    let is_well = watch.severity < detect.well_below && severity <= 1.0;
    let blamed = match is_well {
        true => None,
        false => match triage(look.policy, look.rates, container, resource) {
            Verdict::Neighbours(blamed) => Some(blamed),
            _ => None,
        },
    };
    let is_bad = severity > 1.0 && watch.severity > 1.0 && blamed.is_some();
    watch.bad_looks = if is_bad { watch.bad_looks.saturating_add(1) } else { 0 };
    // Between well and bad nothing is changed, as long as a neighbour is in it.
    let is_calm = blamed.is_none() && !watch.is_blind();
    watch.calm_looks = if is_calm { watch.calm_looks.saturating_add(1) } else { 0 };
    let since = watch.idle_since_ms.unwrap_or(look.now_ms);
    watch.idle_since_ms = is_idle(container, resource).then_some(since);
    victim.watches.insert(resource, watch);
    measure.map(|measure| SeenAt { resource, measure, severity, blamed })
}

/// Who is well and claims nothing is not remembered.
pub(super) fn forget_the_well(look: &Look, state: &mut State) {
    let well_below = look.policy.detect.well_below;
    let is_well = |watch: &Watch| watch.bad_looks == 0 && watch.severity < well_below;
    let mut victims = std::mem::take(&mut state.victims);
    victims.retain(|id, victim| !victim.watches.values().all(is_well) || state.is_claimed(id));
    state.victims = victims;
}

/// The objective of this resource that is missed most; a latency may be any resource's
/// doing, so it counts for each. `None` without an objective that can be measured.
fn worst(
    look: &Look,
    container: &ContainerRates,
    objectives: &Objectives,
    resource: Resource,
) -> Option<Measure> {
    let cpu = &container.cpu;
    let own = match resource {
        Resource::Cpu => [
            measure(Objective::RunQueueP99Ms, objectives.run_queue_p99_ms, || {
                // A thread that waits all the time ends no wait: it has waited so long.
                let unfinished = cpu.wait * look.rates.interval_ms as f64;
                cpu.wait_p99_us.map_or(unfinished, |p99| p99 / 1000.0)
            }),
            measure(Objective::PressureCpu, objectives.pressure_cpu, || container.pressure.cpu),
        ],
        Resource::Memory => [
            measure(Objective::PressureMemory, objectives.pressure_memory, || {
                container.pressure.memory
            }),
            None,
        ],
        Resource::Disk => [
            measure(Objective::DiskP99Ms, objectives.disk_p99_ms, || {
                let p99s = container.disks.iter().filter_map(|disk| disk.p99_us);
                p99s.fold(0.0, f64::max) / 1000.0
            }),
            measure(Objective::PressureIo, objectives.pressure_io, || container.pressure.io),
        ],
        Resource::Network => [
            measure(Objective::NetworkWait, objectives.network_wait, || {
                look.wait(&container.id, Resource::Network)
            }),
            None,
        ],
    };
    let latency = container
        .latency_ms
        .and_then(|known| measure(Objective::LatencyMs, objectives.latency_ms, || known));
    own.into_iter().chain([latency]).flatten().max_by(|a, b| a.severity().total_cmp(&b.severity()))
}

fn measure(
    objective: Objective,
    wanted: Option<f64>,
    measured: impl FnOnce() -> f64,
) -> Option<Measure> {
    wanted.map(|wanted| Measure { objective, wanted, measured: measured() })
}

fn is_idle(container: &ContainerRates, resource: Resource) -> bool {
    let cpu_idle = container.cpu.used_cores + container.cpu.wait < IDLE_CORES;
    match resource {
        Resource::Cpu => cpu_idle,
        Resource::Memory => cpu_idle && container.pressure.memory < IDLE_PRESSURE,
        Resource::Disk => {
            let ops = |disk: &DiskRates| disk.read_ops_per_s + disk.write_ops_per_s;
            container.disks.iter().map(ops).sum::<f64>() < IDLE_OPS_PER_S
                && container.pressure.io < IDLE_PRESSURE
        }
        Resource::Network => {
            let network = &container.network;
            network.egress_bytes_per_s + network.ingress_bytes_per_s < IDLE_BYTES_PER_S
        }
    }
}

impl<'a> Seen<'a> {
    pub fn at(&self, resource: Resource) -> Option<&SeenAt<'a>> {
        self.at.iter().find(|at| at.resource == resource)
    }
}

impl Round<'_> {
    /// Whether this victim has been without load for so long that it has none.
    pub fn is_idle(&self, victim: &str, resource: Resource, window_ms: u64) -> bool {
        let since = self.state.watch(victim, resource).and_then(|watch| watch.idle_since_ms);
        since.is_some_and(|since| self.look.now_ms.saturating_sub(since) >= window_ms)
    }
}

//! What can be taken from a culprit next: the gentlest first, never below a floor or a
//! guarantee, never looser than the operator's wish, and only if it changes something.

use super::Look;
use crate::actuator::{Actuator, IoKind};
use crate::policy::Bounds;
use crate::rates::{ContainerRates, DiskRates};
use crate::state::{Hold, Lease};
use crate::types::Resource;

/// Requests smaller than this are limited by their number, larger ones by their bytes.
const SMALL_REQUEST_BYTES: f64 = 16_384.0;
/// Two values so near are one: the kernel rounds what is written.
const SAME_PART: f64 = 0.05;
const SAME_WEIGHT: f64 = 1.0;
const LEAST_WEIGHT: f64 = 1.0;
/// So many times too long: then there is no time to try the weight.
const SEVERE: f64 = 2.0;
/// Memory below this part of what was used is somebody's working set.
const LEAST_MEMORY: f64 = 0.5;
const PAGE_BYTES: f64 = 4096.0;
/// Into so many parts a CPU is divided.
const CORE_PARTS: f64 = 100.0;
/// Who moves so many bytes with a second of CPU time spends a good part of it in the network
/// stack, where one CPU moves one to three billion.
const STREAM_BYTES_PER_CPU_S: f64 = 250e6;

/// The next thing to take from a container, and the value to write. `is_free`: nobody else set
/// this actuator, and no other hold of ours has it.
pub(super) fn next_step(
    look: &Look,
    hold: Option<&Hold>,
    culprit: &ContainerRates,
    victim: &ContainerRates,
    resource: Resource,
    severity: f64,
    is_free: impl Fn(&Actuator) -> bool,
) -> Option<(Actuator, f64)> {
    let (floors, ceilings) = look.policy.bounds(culprit);
    let all = candidates(look, culprit, victim, resource, severity);
    all.into_iter().flatten().find_map(|actuator| {
        let is_shaped = !(culprit.foreign || culprit.unshaped);
        let within_reach = is_shaped || actuator.reaches_unshaped();
        let is_allowed = look.policy.act.allow.contains(&actuator.kind());
        if !within_reach || !is_allowed || !is_free(&actuator) {
            return None;
        }
        let lease = hold.and_then(|hold| hold.lease(&actuator));
        let floor = bound(&floors, &actuator);
        let ceiling = bound(&ceilings, &actuator);
        let value = match actuator {
            // Among those who run when nobody else wants to, the kernel knows no weight.
            Actuator::CpuWeight if is_idle(culprit, hold) => None,
            Actuator::CpuWeight | Actuator::IoWeight => {
                let weight = floor.unwrap_or(LEAST_WEIGHT);
                let guarantee = culprit.wish(&actuator).guarantee.unwrap_or(0.0);
                let value = weight.max(guarantee);
                let now = in_effect(culprit, &actuator, lease);
                (value <= now * (1.0 - look.policy.act.least_change)).then_some(value)
            }
            Actuator::CpuIdle => {
                // Who runs only when nobody else wants to is guaranteed nothing.
                let promised = [Actuator::CpuWeight, Actuator::CpuMax]
                    .iter()
                    .any(|actuator| culprit.wish(actuator).guarantee.is_some());
                // Nor can anybody keep a weight then.
                let keeps = floors.cpu_weight.is_some_and(|weight| weight > LEAST_WEIGHT);
                let refused = keeps || culprit.wish(&actuator).guarantee.is_some();
                (!promised && !is_idle(culprit, hold) && !refused).then_some(1.0)
            }
            Actuator::NetPriority => {
                // Who goes last is guaranteed no rate.
                let promised = [Actuator::NetPriority, Actuator::NetEgress]
                    .iter()
                    .any(|actuator| culprit.wish(actuator).guarantee.is_some());
                let is_last = in_effect(culprit, &actuator, lease) > 0.0;
                (!promised && !is_last).then_some(1.0)
            }
            _ => cut(look, culprit, &actuator, lease, floor, ceiling, severity),
        };
        value.map(|value| (actuator, value))
    })
}

fn is_idle(culprit: &ContainerRates, hold: Option<&Hold>) -> bool {
    let lease = hold.and_then(|hold| hold.lease(&Actuator::CpuIdle));
    in_effect(culprit, &Actuator::CpuIdle, lease) > 0.0
}

/// A part of what is used now, the smaller the worse the victim is.
fn cut(
    look: &Look,
    culprit: &ContainerRates,
    actuator: &Actuator,
    lease: Option<&Lease>,
    floor: Option<f64>,
    ceiling: Option<f64>,
    severity: f64,
) -> Option<f64> {
    let act = &look.policy.act;
    let wish = culprit.wish(actuator);
    let (used, now) = (used(culprit, actuator), in_effect(culprit, actuator, lease));
    let base = used.min(now);
    let part = (1.0 / severity).max(act.cut_most).min(act.cut_least);
    let mut floor = floor.unwrap_or(0.0).max(wish.guarantee.unwrap_or(0.0));
    let mut least = base;
    if *actuator == Actuator::MemoryHigh {
        let working_set = LEAST_MEMORY * lease.map_or(used, |lease| lease.used_before);
        // Below what nothing can be taken of, it would stand still with all that it has. Who
        // may not grow any more has lost something already, and what it gives back by itself
        // is taken at a later step.
        floor = floor.max(working_set).max(culprit.memory.unreclaimable_bytes.min(used));
        least = now;
    }
    let value = round_down(actuator, (base * part).min(ceiling.unwrap_or(f64::INFINITY)));
    let value = value.max(floor);
    (value <= least * (1.0 - act.least_change)).then_some(value)
}

/// What holds now: our lease, the operator's wish, else the kernel's default.
pub(super) fn in_effect(
    culprit: &ContainerRates,
    actuator: &Actuator,
    lease: Option<&Lease>,
) -> f64 {
    let wish = culprit.wish(actuator).limit.unwrap_or(actuator.unlimited());
    match lease {
        Some(lease) if actuator.is_tighter(Some(lease.value), Some(wish)) => lease.value,
        _ => wish,
    }
}

/// The resource's actuators, the gentlest first. A victim that waits [`SEVERE`] times as long as
/// it should is spared the trial of the CPU's weight, with which the culprit still has its turns;
/// the disk's is tried all the same: it leaves no more than a step of the rates does.
///
/// Whose CPU time goes into a stream is held by its bandwidth: a quota lets the stream go in
/// bursts, and leaves it what the kernel and the stream's other end do for it.
fn candidates(
    look: &Look,
    culprit: &ContainerRates,
    victim: &ContainerRates,
    resource: Resource,
    severity: f64,
) -> [Option<Actuator>; 4] {
    match resource {
        Resource::Cpu => {
            let gentle = match severity >= SEVERE {
                true => [Actuator::CpuIdle, Actuator::CpuWeight],
                false => [Actuator::CpuWeight, Actuator::CpuIdle],
            };
            let stream = streams(culprit).then(|| busier_way(culprit));
            [Some(gentle[0]), Some(gentle[1]), stream, Some(Actuator::CpuMax)]
        }
        Resource::Memory => only(Actuator::MemoryHigh),
        Resource::Disk => match busiest_disk(culprit, victim) {
            Some((disk, rate)) => {
                [disk.weighted.then_some(Actuator::IoWeight), Some(rate), None, None]
            }
            None => [None; 4],
        },
        Resource::Network => {
            let busier = busier_way(culprit);
            let sorts = look.rates.uplink_has_classes && busier == Actuator::NetEgress;
            [sorts.then_some(Actuator::NetPriority), Some(busier), None, None]
        }
    }
}

fn only(actuator: Actuator) -> [Option<Actuator>; 4] {
    [Some(actuator), None, None, None]
}

fn streams(culprit: &ContainerRates) -> bool {
    let moved = taken(culprit, Resource::Network);
    moved > 0.0 && moved >= STREAM_BYTES_PER_CPU_S * culprit.cpu.used_cores
}

fn busier_way(culprit: &ContainerRates) -> Actuator {
    let network = &culprit.network;
    match network.egress_bytes_per_s >= network.ingress_bytes_per_s {
        true => Actuator::NetEgress,
        false => Actuator::NetIngress,
    }
}

/// The disk that both use and the culprit keeps busiest, and what it does most there: reading or
/// writing, by bytes or, for small requests, by their number. A victim that gets nothing through
/// uses every disk.
fn busiest_disk<'c>(
    culprit: &'c ContainerRates,
    victim: &ContainerRates,
) -> Option<(&'c DiskRates, Actuator)> {
    let shared = |disk: &&DiskRates| {
        victim.disks.is_empty() || victim.disks.iter().any(|own| own.device == disk.device)
    };
    let ways = culprit.disks.iter().filter(shared).flat_map(|disk| {
        [
            (disk, disk.read_bytes_per_s, disk.read_ops_per_s, true),
            (disk, disk.write_bytes_per_s, disk.write_ops_per_s, false),
        ]
    });
    // A small request keeps a disk busy like one of this size.
    let load = |bytes: f64, ops: f64| bytes.max(ops * SMALL_REQUEST_BYTES);
    let (disk, bytes, ops, reads) =
        ways.max_by(|a, b| load(a.1, a.2).total_cmp(&load(b.1, b.2)))?;
    let kind = match (reads, bytes < ops * SMALL_REQUEST_BYTES) {
        (true, false) => IoKind::ReadBytes,
        (true, true) => IoKind::ReadOps,
        (false, false) => IoKind::WriteBytes,
        (false, true) => IoKind::WriteOps,
    };
    Some((disk, Actuator::IoMax { device: disk.device, kind }))
}

/// What the container uses now, in the actuator's unit.
pub(super) fn used(container: &ContainerRates, actuator: &Actuator) -> f64 {
    match actuator {
        Actuator::CpuWeight | Actuator::CpuIdle | Actuator::CpuMax => container.cpu.used_cores,
        Actuator::MemoryHigh => container.memory.usage_bytes,
        Actuator::IoWeight => taken(container, Resource::Disk),
        Actuator::NetEgress | Actuator::NetPriority => container.network.egress_bytes_per_s,
        Actuator::NetIngress => container.network.ingress_bytes_per_s,
        Actuator::IoMax { device, kind } => {
            let disk = container.disks.iter().find(|disk| disk.device == *device);
            disk.map_or(0.0, |disk| match kind {
                IoKind::ReadBytes => disk.read_bytes_per_s,
                IoKind::WriteBytes => disk.write_bytes_per_s,
                IoKind::ReadOps => disk.read_ops_per_s,
                IoKind::WriteOps => disk.write_ops_per_s,
            })
        }
    }
}

/// What the container takes of a resource: CPUs, bytes, or bytes per second.
pub(super) fn taken(container: &ContainerRates, resource: Resource) -> f64 {
    match resource {
        Resource::Cpu => container.cpu.used_cores,
        Resource::Memory => container.memory.usage_bytes,
        Resource::Network => {
            container.network.egress_bytes_per_s + container.network.ingress_bytes_per_s
        }
        Resource::Disk => {
            let moved = |disk: &DiskRates| disk.read_bytes_per_s + disk.write_bytes_per_s;
            container.disks.iter().map(moved).sum()
        }
    }
}

/// The policy's word on one actuator.
pub(super) fn bound(bounds: &Bounds, actuator: &Actuator) -> Option<f64> {
    match actuator {
        Actuator::CpuWeight => bounds.cpu_weight,
        Actuator::CpuIdle | Actuator::NetPriority => None,
        Actuator::CpuMax => bounds.cpu_cores,
        Actuator::MemoryHigh => bounds.memory_bytes,
        Actuator::IoWeight => bounds.disk_weight,
        Actuator::IoMax { kind: IoKind::ReadBytes | IoKind::WriteBytes, .. } => {
            bounds.disk_bytes_per_s
        }
        Actuator::IoMax { .. } => bounds.disk_ops_per_s,
        Actuator::NetEgress | Actuator::NetIngress => bounds.network_bytes_per_s,
    }
}

/// To what the kernel can hold, so that the same decision is the same text.
pub(super) fn round_down(actuator: &Actuator, value: f64) -> f64 {
    // A hair more, or 0.29 would become 0.28.
    rounded(actuator, value, |units| (units + 1e-6).floor())
}

pub(super) fn round_up(actuator: &Actuator, value: f64) -> f64 {
    rounded(actuator, value, |units| (units - 1e-6).ceil())
}

fn rounded(actuator: &Actuator, value: f64, round: impl Fn(f64) -> f64) -> f64 {
    match actuator {
        // Divided, not multiplied: 29 / 100 is the double nearest to 0.29.
        Actuator::CpuMax => round(value * CORE_PARTS) / CORE_PARTS,
        Actuator::MemoryHigh => round(value / PAGE_BYTES) * PAGE_BYTES,
        _ => round(value),
    }
}

/// Whether the kernel's value is the one that was written.
pub(super) fn is_same(actuator: &Actuator, a: Option<f64>, b: Option<f64>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        // The kernel always has a weight; its default is as good as none.
        return !actuator.is_tighter(a, b) && !actuator.is_tighter(b, a);
    };
    let is_weight = matches!(actuator, Actuator::CpuWeight | Actuator::IoWeight);
    let slack = if is_weight { SAME_WEIGHT } else { 0.0 };
    (a - b).abs() <= (a.max(b) * SAME_PART).max(slack)
}

impl Hold {
    pub(super) fn lease(&self, actuator: &Actuator) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.actuator == *actuator)
    }
}

//! Counters of everybody at one moment, and the rates between two such moments. Pure: the
//! controller's loop fills the samples.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tenantry_cgroupfs::sample::Pressure as Stalls;
use tenantry_control::{
    Blame, ContainerRates, CpuRates, Culprit, Device, DiskRates, LimitsNow, MemoryRates,
    NetworkRates, Pressure, Rates, Resource, Wishes,
};
use tenantry_ebpf::{
    BlamedResource, Culprit as ByKernel, DiskCounters, DiskOp, Histogram, Pace, Slot,
};

use super::identity::Identity;
use super::memory;
use super::taken::takers;
use crate::blame::contested;

/// One moment. What is not known of a container is zero or absent, and so are its rates.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Since the controller began.
    pub at: Duration,
    pub cpus: u32,
    /// Of all CPUs.
    pub steal_seconds: f64,
    /// By the slots that they hold.
    pub containers: HashMap<Slot, Counters>,
    /// Nanoseconds that the first waited because of the second. Most of them stand still, so
    /// they are called by name where they have grown.
    pub blame: HashMap<Pair, u64>,
    /// Disks that share by weight; empty while no disk matters to anybody.
    pub weighted_disks: HashSet<Device>,
}

pub type Pair = (Slot, ByKernel, BlamedResource);

/// One container's.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub identity: Arc<Identity>,
    /// These only of whom the policy has a class for, of who waits for a neighbour, and of
    /// the neighbour.
    pub pace: Option<Pace>,
    /// And only while a disk may matter to anybody; while memory is short, everybody's.
    pub disks: Option<Vec<(Device, DiskOp, DiskCounters)>>,
    pub files: Option<FromFiles>,
    /// What another runtime gave it; ours are in the identity.
    pub wishes: Option<Wishes>,
    /// When a look found that the kernel had held it back at its own memory limit.
    pub limit_hit_at: Option<Duration>,
    /// What it lost of its memory until this look.
    pub missed: memory::Missed,
    pub latency_ms: Option<f64>,
    pub in_force: LimitsNow,
}

impl Sample {
    pub fn container_mut(&mut self, id: &str) -> Option<&mut Counters> {
        self.containers.values_mut().find(|counters| counters.identity.id == id)
    }

    fn id(&self, slot: Slot) -> Option<&str> {
        self.containers.get(&slot).map(|counters| counters.identity.id.as_str())
    }

    /// That container's, and not those of the slot's last holder.
    pub fn counters(&self, slot: Slot, id: &str) -> Option<&Counters> {
        self.containers.get(&slot).filter(|counters| counters.identity.id == id)
    }

    /// Notes who came to its own memory limit since `before`, or did so earlier, and who lost
    /// memory to whom.
    pub fn follow(&mut self, before: &Sample) {
        let seconds = seconds_between(before, self);
        for (slot, now) in &mut self.containers {
            let Some(was) = before.counters(*slot, &now.identity.id) else { continue };
            let files = was.files.as_ref().zip(now.files.as_ref());
            let is_hit = files.is_some_and(|(was, now)| now.came_to_limit(was));
            now.limit_hit_at = if is_hit { Some(self.at) } else { was.limit_hit_at };
            now.missed.clone_from(&was.missed);
            now.missed.fade(seconds);
        }
        let takers = takers(before, self, seconds);
        let missed = |(slot, now): (&Slot, &Counters)| {
            let at = takers.binary_search_by_key(&now.identity.id.as_str(), |taker| taker.id);
            let victim = takers.get(at.ok()?)?;
            if victim.lost_per_s <= 0.0 && now.missed.is_empty() {
                return None;
            }
            let mut missed = now.missed.clone();
            missed.add(victim, &takers, seconds);
            Some((*slot, missed))
        };
        let missed: Vec<(Slot, memory::Missed)> =
            self.containers.iter().filter_map(missed).collect();
        for (slot, of_it) in missed {
            self.containers.entry(slot).and_modify(|now| now.missed = of_it);
        }
    }
}

/// What its cgroup's files say.
#[derive(Clone, Debug, Default)]
pub struct FromFiles {
    pub memory_usage_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    /// Times that the kernel held it back at its own memory limit. `None`: it does not tell.
    pub memory_limit_hits: Option<u64>,
    pub refaults: u64,
    /// Anonymous memory that finds no room in swap, and what is locked.
    pub unreclaimable_bytes: u64,
    /// Of its files, in memory.
    pub file_bytes: u64,
    pub swap_bytes: u64,
    /// Pages that reclaim took from it; v1 does not tell.
    pub stolen_pages: Option<u64>,
    pub pressure: Stalls,
}

/// What everybody did between two samples who was looked at closely, waited or was waited for.
/// A container that is in one of them alone has no rates yet, or none any more.
pub fn rates(before: &Sample, now: &Sample) -> Rates {
    let interval = now.at.saturating_sub(before.at);
    let seconds = seconds_between(before, now);
    let waits = waits(before, now);
    let mut named: HashMap<&str, u64> = HashMap::new();
    for ((victim, resource, culprit), ns) in &waits {
        let is_quota = (resource, culprit) == (&Resource::Cpu, &Culprit::Quota);
        *named.entry(victim).or_default() += if is_quota { *ns } else { 0 };
        if let Some(id) = culprit.container() {
            named.entry(id).or_default();
        }
    }
    let mut containers: Vec<ContainerRates> = Vec::new();
    for (slot, counters) in &now.containers {
        let id = counters.identity.id.as_str();
        let is_idle = counters.pace.is_none() && counters.files.is_none();
        let Some(had) = before.counters(*slot, id) else { continue };
        let quota_ns = named.get(id).copied();
        if is_idle && quota_ns.is_none() {
            continue;
        }
        let mut row = container(had, counters, seconds);
        for disk in &mut row.disks {
            disk.weighted = now.weighted_disks.contains(&disk.device);
        }
        row.cpu.quota = quota_ns.unwrap_or(0) as f64 / 1e9 / seconds;
        containers.push(row);
    }
    containers.sort_by(|a, b| a.id.cmp(&b.id));
    let blame = |((victim, resource, culprit), ns): (Wait, u64)| Blame {
        victim: victim.to_owned(),
        culprit,
        resource,
        seconds_per_second: ns as f64 / 1e9 / seconds,
    };
    let takers = takers(before, now, seconds);
    let of_memory = memory::blame(&takers, seconds, |id| {
        let victim = now.containers.values().find(|counters| counters.identity.id == id);
        victim.map(|counters| &counters.missed)
    });
    Rates {
        at_ms: millis(now.at),
        interval_ms: millis(interval),
        cpus: now.cpus,
        steal: ((now.steal_seconds - before.steal_seconds)
            / (seconds * f64::from(now.cpus.max(1))))
        .clamp(0.0, 1.0),
        containers,
        blame: waits.into_iter().map(blame).chain(of_memory).collect(),
        // Asked for where somebody waits, by the controller's loop.
        uplink_has_classes: false,
    }
}

/// A victim's id, what it waited for, and because of whom.
type Wait<'a> = (&'a str, Resource, Culprit);

/// Nanoseconds that were waited between the two; pairs that did not wait are left out.
fn waits<'a>(before: &Sample, now: &'a Sample) -> BTreeMap<Wait<'a>, u64> {
    let mut waits = BTreeMap::new();
    for (pair, ns) in &now.blame {
        let (victim, culprit, resource) = pair;
        // What the slot's holder before had is none of this one's.
        let is_anothers = |slot: &Slot| {
            let id = now.id(*slot);
            id.is_some() && before.id(*slot) != id
        };
        let (culprit, is_new) = match culprit {
            ByKernel::Slot(slot) => match now.id(*slot) {
                Some(id) => (Culprit::Container(id.to_owned()), is_anothers(slot)),
                // It has just ended: nobody who could be asked to leave room.
                None => (Culprit::Unexplained, false),
            },
            ByKernel::Itself => (Culprit::Itself, false),
            ByKernel::Host => (Culprit::Host, false),
            ByKernel::Quota => (Culprit::Quota, false),
            ByKernel::Steal => (Culprit::Steal, false),
            ByKernel::Unexplained => (Culprit::Unexplained, false),
        };
        let had = before.blame.get(pair).filter(|_| !is_new && !is_anothers(victim));
        let waited = ns.saturating_sub(had.copied().unwrap_or(0));
        if let Some(victim) = now.id(*victim).filter(|_| waited > 0) {
            *waits.entry((victim, contested(*resource), culprit)).or_default() += waited;
        }
    }
    waits
}

fn seconds_between(before: &Sample, now: &Sample) -> f64 {
    now.at.saturating_sub(before.at).as_secs_f64().max(1e-3)
}

fn container(before: &Counters, now: &Counters, seconds: f64) -> ContainerRates {
    let (cpu, network, disks) = match (&before.pace, &now.pace) {
        (Some(was), Some(is)) => {
            let (cpu, network) = pace(was, is, seconds);
            (cpu, network, disks(before, now, seconds))
        }
        _ => Default::default(),
    };
    ContainerRates {
        cpu,
        disks,
        memory: memory(before, now, seconds),
        network,
        pressure: pressure(before, now, seconds),
        latency_ms: now.latency_ms,
        wishes: now.wishes.as_ref().unwrap_or(&now.identity.wishes).clone(),
        in_force: now.in_force.clone(),
        ..now.identity.who()
    }
}

fn pace(before: &Pace, now: &Pace, seconds: f64) -> (CpuRates, NetworkRates) {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let waits = since(&before.run_queue, &now.run_queue);
    let cpu = CpuRates {
        used_cores: rate(before.scheduler.on_cpu_ns, now.scheduler.on_cpu_ns) / 1e9,
        wait: waits.sum_ns as f64 / 1e9 / seconds,
        wait_p99_us: p99_us(&waits),
        quota: 0.0,
    };
    let network = NetworkRates {
        egress_bytes_per_s: rate(before.network.tx_bytes, now.network.tx_bytes),
        ingress_bytes_per_s: rate(before.network.rx_bytes, now.network.rx_bytes),
    };
    (cpu, network)
}

fn memory(before: &Counters, now: &Counters, seconds: f64) -> MemoryRates {
    let Some(files) = &now.files else { return MemoryRates::default() };
    let refaults = before.files.as_ref().map_or(files.refaults, |files| files.refaults);
    MemoryRates {
        usage_bytes: files.memory_usage_bytes as f64,
        limit_bytes: files.memory_limit_bytes.map(|bytes| bytes as f64),
        unreclaimable_bytes: files.unreclaimable_bytes as f64,
        refaults_per_s: files.refaults.saturating_sub(refaults) as f64 / seconds,
    }
}

pub fn pressure(before: &Counters, now: &Counters, seconds: f64) -> Pressure {
    let (Some(before), Some(now)) = (&before.files, &now.files) else {
        return Pressure::default();
    };
    let share = |stall: fn(&Stalls) -> Option<u64>| {
        let (Some(before), Some(now)) = (stall(&before.pressure), stall(&now.pressure)) else {
            return 0.0;
        };
        (now.saturating_sub(before) as f64 / 1e6 / seconds).min(1.0)
    };
    Pressure {
        cpu: share(|stalls| Some(stalls.cpu.as_ref()?.some.total_usec)),
        memory: share(|stalls| Some(stalls.memory.as_ref()?.some.total_usec)),
        io: share(|stalls| Some(stalls.io.as_ref()?.some.total_usec)),
    }
}

/// Each device that the container asked for something.
fn disks(before: &Counters, now: &Counters, seconds: f64) -> Vec<DiskRates> {
    let mut by_device: BTreeMap<Device, (DiskRates, Histogram, Histogram)> = BTreeMap::new();
    let (Some(before), Some(now)) = (&before.disks, &now.disks) else { return Vec::new() };
    for (device, op, counters) in now {
        let had = before.iter().find(|(d, o, _)| (d, o) == (device, op));
        let had = had.map(|(_, _, counters)| counters.clone()).unwrap_or_default();
        let bytes = counters.bytes.saturating_sub(had.bytes) as f64 / seconds;
        let operations = counters.operations.saturating_sub(had.operations) as f64 / seconds;
        let (rates, served, queued) = by_device
            .entry(*device)
            .or_insert_with(|| (still(*device), Histogram::default(), Histogram::default()));
        match op {
            DiskOp::Read => {
                rates.read_bytes_per_s += bytes;
                rates.read_ops_per_s += operations;
            }
            _ => {
                rates.write_bytes_per_s += bytes;
                rates.write_ops_per_s += operations;
            }
        }
        add(served, &since(&had.latency, &counters.latency));
        add(queued, &since(&had.queue, &counters.queue));
    }
    let finished = |(mut rates, served, queued): (DiskRates, Histogram, Histogram)| {
        // At most this: the slowest in the queue need not be the slowest at the device.
        rates.p99_us = p99_us(&served).map(|served| served + p99_us(&queued).unwrap_or_default());
        rates
    };
    by_device.into_values().map(finished).collect()
}

fn still(device: Device) -> DiskRates {
    DiskRates {
        device,
        read_bytes_per_s: 0.0,
        write_bytes_per_s: 0.0,
        read_ops_per_s: 0.0,
        write_ops_per_s: 0.0,
        weighted: false,
        p99_us: None,
    }
}

/// What was added to a histogram.
fn since(before: &Histogram, now: &Histogram) -> Histogram {
    let had = |bucket: usize| before.buckets.get(bucket).copied().unwrap_or(0);
    let buckets: Vec<u64> =
        now.buckets.iter().enumerate().map(|(i, count)| count.saturating_sub(had(i))).collect();
    Histogram {
        count: buckets.iter().sum(),
        sum_ns: now.sum_ns.saturating_sub(before.sum_ns),
        buckets,
    }
}

fn add(to: &mut Histogram, more: &Histogram) {
    if to.buckets.len() < more.buckets.len() {
        to.buckets.resize(more.buckets.len(), 0);
    }
    to.buckets.iter_mut().zip(&more.buckets).for_each(|(sum, count)| *sum += count);
    to.count += more.count;
    to.sum_ns += more.sum_ns;
}

/// Where the 99th percentile lies in its bucket if all in it are spread evenly: buckets are
/// a factor of two wide, and an objective wants more than that. `None` of nothing.
fn p99_us(histogram: &Histogram) -> Option<f64> {
    let rank = 0.99 * histogram.count as f64;
    let mut below = 0.0;
    for (bucket, &count) in histogram.buckets.iter().enumerate() {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            // The last one has no bound: its lower one is what is known.
            let high = 2_f64.powi(i32::try_from(bucket).unwrap_or(i32::MAX));
            let low = if bucket == 0 { 0.0 } else { high / 2.0 };
            return Some((low + (high - low) * (rank - below) / count) / 1000.0);
        }
        below += count;
    }
    None
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

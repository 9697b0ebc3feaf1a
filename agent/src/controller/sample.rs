//! Counters of everybody at one moment, and the rates between two such moments. Pure: the
//! controller's loop fills the samples.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tenantry_cgroupfs::sample::Pressure as Stalls;
use tenantry_control::{
    Blame, ContainerRates, CpuRates, Culprit, Device, DiskRates, LimitsNow, MemoryRates,
    NetworkRates, Pressure, Rates, Resource, Wishes,
};
use tenantry_ebpf::{DiskCounters, DiskOp, Histogram, Pace};

use super::memory;

/// One moment. What is not known of a container is zero or absent, and so are its rates.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Since the controller began.
    pub at: Duration,
    pub cpus: u32,
    /// Of all CPUs.
    pub steal_seconds: f64,
    pub containers: HashMap<String, Counters>,
    /// Nanoseconds by victim's id.
    pub blame: HashMap<(String, Culprit, Resource), u64>,
}

/// One container's.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub foreign: bool,
    /// Where the host reaches it. `None` of another runtime's container.
    pub address: Option<IpAddr>,
    /// These three only of whom the policy has a class for, of who waits for a neighbour,
    /// and of the neighbour.
    pub pace: Option<Pace>,
    pub disks: Vec<(Device, DiskOp, DiskCounters)>,
    pub files: Option<FromFiles>,
    pub latency_ms: Option<f64>,
    pub wishes: Wishes,
    pub in_force: LimitsNow,
}

impl Counters {
    /// What a policy looks at.
    pub fn who(&self, id: &str) -> ContainerRates {
        ContainerRates {
            id: id.to_owned(),
            name: self.name.clone(),
            image: self.image.clone(),
            labels: self.labels.clone(),
            foreign: self.foreign,
            running: true,
            ..ContainerRates::default()
        }
    }
}

/// What its cgroup's files say.
#[derive(Clone, Debug, Default)]
pub struct FromFiles {
    pub memory_usage_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub refaults: u64,
    pub pressure: Stalls,
}

/// What everybody did between two samples. A container that is in one of them alone has no
/// rates yet, or none any more.
pub fn rates(before: &Sample, now: &Sample) -> Rates {
    let interval = now.at.saturating_sub(before.at);
    let seconds = interval.as_secs_f64().max(1e-3);
    let mut containers: Vec<ContainerRates> = now
        .containers
        .iter()
        .filter_map(|(id, now)| Some(container(id, before.containers.get(id)?, now, seconds)))
        .collect();
    containers.sort_by(|a, b| a.id.cmp(&b.id));
    for row in &mut containers {
        row.cpu.quota = blamed(before, now, &row.id, &Culprit::Quota) / seconds;
    }
    let of_memory = memory::blame(&takers(before, &containers, seconds));
    Rates {
        at_ms: millis(now.at),
        interval_ms: millis(interval),
        cpus: now.cpus,
        steal: ((now.steal_seconds - before.steal_seconds)
            / (seconds * f64::from(now.cpus.max(1))))
        .clamp(0.0, 1.0),
        containers,
        blame: blame(before, now, seconds).into_iter().chain(of_memory).collect(),
    }
}

/// Of those whose cgroup's files were read: the others neither stall nor take, as far as is
/// known.
fn takers<'a>(
    before: &Sample,
    containers: &'a [ContainerRates],
    seconds: f64,
) -> Vec<memory::Taken<'a>> {
    let taken = |row: &'a ContainerRates| {
        let had = before.containers.get(&row.id)?.files.as_ref()?.memory_usage_bytes as f64;
        Some(memory::Taken {
            id: &row.id,
            stalled: row.pressure.memory,
            usage_bytes: row.memory.usage_bytes,
            limit_bytes: row.memory.limit_bytes,
            growth_per_s: ((row.memory.usage_bytes - had) / seconds).max(0.0),
            refaults_per_s: row.memory.refaults_per_s,
        })
    };
    containers.iter().filter_map(taken).collect()
}

fn container(id: &str, before: &Counters, now: &Counters, seconds: f64) -> ContainerRates {
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
        wishes: now.wishes.clone(),
        in_force: now.in_force.clone(),
        ..now.who(id)
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
        refaults_per_s: files.refaults.saturating_sub(refaults) as f64 / seconds,
    }
}

fn pressure(before: &Counters, now: &Counters, seconds: f64) -> Pressure {
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
    for (device, op, counters) in &now.disks {
        let had = before.disks.iter().find(|(d, o, _)| (d, o) == (device, op));
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
        p99_us: None,
    }
}

fn blame(before: &Sample, now: &Sample, seconds: f64) -> Vec<Blame> {
    let mut rows: Vec<Blame> = now
        .blame
        .iter()
        .filter_map(|(key, ns)| {
            let (victim, culprit, resource) = key;
            let waited = ns.saturating_sub(before.blame.get(key).copied().unwrap_or(0));
            (waited > 0).then(|| Blame {
                victim: victim.clone(),
                culprit: culprit.clone(),
                resource: *resource,
                seconds_per_second: waited as f64 / 1e9 / seconds,
            })
        })
        .collect();
    rows.sort_by(|a, b| {
        (&a.victim, a.resource, &a.culprit).cmp(&(&b.victim, b.resource, &b.culprit))
    });
    rows
}

fn blamed(before: &Sample, now: &Sample, victim: &str, culprit: &Culprit) -> f64 {
    let key = (victim.to_owned(), culprit.clone(), Resource::Cpu);
    let of = |sample: &Sample| sample.blame.get(&key).copied().unwrap_or(0);
    of(now).saturating_sub(of(before)) as f64 / 1e9
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
mod tests {
    use super::*;

    fn histogram(buckets: &[(usize, u64)], sum_ns: u64) -> Histogram {
        let mut all = vec![0; 40];
        buckets.iter().for_each(|(bucket, count)| all[*bucket] = *count);
        Histogram { count: all.iter().sum(), buckets: all, sum_ns }
    }

    #[test]
    fn a_quantile_lies_between_its_buckets_bounds() {
        let check = |buckets: &[(usize, u64)], expected: Option<f64>| {
            let found = p99_us(&histogram(buckets, 0));
            assert_eq!(found.map(|us| us.round()), expected, "{buckets:?}");
        };
        check(&[], None);
        // From 8.2 to 16.4 µs, 99 % of the way.
        check(&[(14, 100)], Some(16.0));
        check(&[(14, 50)], Some(16.0));
        check(&[(10, 99), (20, 1)], Some(1.0));
        check(&[(10, 98), (20, 2)], Some(786.0));
    }

    fn sample(at_s: u64, counters: Counters, blame: &[(Culprit, u64)]) -> Sample {
        let row = |(culprit, ns): &(Culprit, u64)| {
            (("web".to_owned(), culprit.clone(), Resource::Cpu), *ns)
        };
        Sample {
            at: Duration::from_secs(at_s),
            cpus: 2,
            steal_seconds: at_s as f64 / 10.0,
            containers: HashMap::from([("web".to_owned(), counters)]),
            blame: blame.iter().map(row).collect(),
        }
    }

    #[test]
    fn rates_are_what_was_added_by_the_time_between() {
        let mut pace = Pace::default();
        pace.scheduler.on_cpu_ns = 1_000_000_000;
        pace.network.tx_bytes = 500;
        pace.run_queue = histogram(&[(10, 5)], 5_000);
        let before = Counters { pace: Some(pace.clone()), ..Counters::default() };
        pace.scheduler.on_cpu_ns = 2_000_000_000;
        pace.network.tx_bytes = 2_500;
        pace.run_queue = histogram(&[(10, 5), (20, 4)], 4_005_000);
        let now = Counters { pace: Some(pace), ..Counters::default() };
        let noise = Culprit::Container("noise".into());
        let first = sample(10, before, &[(noise.clone(), 100)]);
        let second =
            sample(12, now, &[(noise.clone(), 3_000_100), (Culprit::Quota, 2_000_000_000)]);
        let rates = rates(&first, &second);
        assert_eq!((rates.at_ms, rates.interval_ms, rates.cpus), (12_000, 2_000, 2));
        assert!((rates.steal - 0.05).abs() < 1e-9);
        let web = &rates.containers[0];
        assert_eq!(web.cpu.used_cores, 0.5);
        assert_eq!(web.cpu.wait, 0.002);
        assert_eq!(web.cpu.quota, 1.0);
        assert_eq!(web.network.egress_bytes_per_s, 1000.0);
        assert!(web.cpu.wait_p99_us.is_some_and(|us| (524.0..=1049.0).contains(&us)));
        assert_eq!(rates.blame.len(), 2);
        assert_eq!(rates.blame[0].culprit, noise);
        assert_eq!(rates.blame[0].seconds_per_second, 0.0015);
        assert!(rates.is_sane());
    }

    #[test]
    fn who_has_just_come_or_was_reset_has_no_rates() {
        let empty = Sample { at: Duration::from_secs(1), cpus: 2, ..Sample::default() };
        let full = sample(2, Counters::default(), &[(Culprit::Host, 5)]);
        assert!(rates(&empty, &full).containers.is_empty());
        assert!(rates(&full, &empty).containers.is_empty());
        let mut pace = Pace::default();
        pace.scheduler.on_cpu_ns = 7;
        let counted = Counters { pace: Some(pace), ..Counters::default() };
        let zero = Counters { pace: Some(Pace::default()), ..Counters::default() };
        // Nor has who is looked at closely since now.
        let first = rates(&full, &sample(3, counted.clone(), &[]));
        assert_eq!(first.containers[0].cpu.used_cores, 0.0);
        let reset = rates(&sample(1, counted, &[]), &sample(2, zero, &[]));
        assert_eq!(reset.containers[0].cpu.used_cores, 0.0);
    }

    #[test]
    fn reads_and_writes_of_a_device_are_told_apart() {
        let device = Device { major: 8, minor: 0 };
        let row = |op, operations, bytes| {
            let latency = histogram(&[(20, operations)], operations * 900_000);
            (device, op, DiskCounters { operations, bytes, latency, ..DiskCounters::default() })
        };
        let pace = Some(Pace::default());
        let disks = vec![row(DiskOp::Read, 10, 4096)];
        let before = Counters { pace: pace.clone(), disks, ..Counters::default() };
        let now = Counters {
            pace,
            disks: vec![row(DiskOp::Read, 30, 8192), row(DiskOp::Write, 5, 1 << 20)],
            ..Counters::default()
        };
        let rates = rates(&sample(1, before, &[]), &sample(3, now, &[]));
        let [disk] = &rates.containers[0].disks[..] else { panic!("one device") };
        assert_eq!((disk.read_bytes_per_s, disk.read_ops_per_s), (2048.0, 10.0));
        assert_eq!((disk.write_bytes_per_s, disk.write_ops_per_s), (524_288.0, 2.5));
        assert!(disk.p99_us.is_some_and(|us| (524.0..=1049.0).contains(&us)));
    }
}

use tenantry_cgroupfs::sample::{Stall, StallTime};

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

const WEB: Slot = 1;
const NOISE: Slot = 2;

fn called(id: &str, counters: Counters) -> Counters {
    let identity = Arc::new(Identity { id: id.to_owned(), ..Identity::default() });
    Counters { identity, ..counters }
}

fn sample(at_s: u64, counters: Counters, blame: &[(ByKernel, u64)]) -> Sample {
    let row = |(culprit, ns): &(ByKernel, u64)| ((WEB, *culprit, BlamedResource::Cpu), *ns);
    Sample {
        at: Duration::from_secs(at_s),
        cpus: 2,
        steal_seconds: at_s as f64 / 10.0,
        containers: HashMap::from([
            (WEB, called("web", counters)),
            (NOISE, called("noise", Counters::default())),
        ]),
        blame: blame.iter().map(row).collect(),
        weighted_disks: HashSet::new(),
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
    let noise = ByKernel::Slot(NOISE);
    let first = sample(10, before, &[(noise, 100), (ByKernel::Host, 7)]);
    let waits = [(noise, 3_000_100), (ByKernel::Host, 7), (ByKernel::Quota, 2_000_000_000)];
    let second = sample(12, now, &waits);
    let rates = rates(&first, &second);
    assert_eq!((rates.at_ms, rates.interval_ms, rates.cpus), (12_000, 2_000, 2));
    assert!((rates.steal - 0.05).abs() < 1e-9);
    let names: Vec<&str> = rates.containers.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(names, ["noise", "web"], "and not who is idle");
    let web = &rates.containers[1];
    assert_eq!(web.cpu.used_cores, 0.5);
    assert_eq!(web.cpu.wait, 0.002);
    assert_eq!(web.cpu.quota, 1.0);
    assert_eq!(web.network.egress_bytes_per_s, 1000.0);
    assert!(web.cpu.wait_p99_us.is_some_and(|us| (524.0..=1049.0).contains(&us)));
    assert_eq!(rates.blame.len(), 2);
    assert_eq!(rates.blame[0].culprit, Culprit::Container("noise".into()));
    assert_eq!(rates.blame[0].seconds_per_second, 0.0015);
    assert!(rates.is_sane());
}

#[test]
fn a_slots_next_holder_is_not_compared_with_the_last_and_one_that_ended_is_nobody() {
    let waited = |holder: Option<&str>| {
        let first = sample(1, Counters::default(), &[(ByKernel::Slot(NOISE), 50)]);
        let mut second = sample(2, Counters::default(), &[(ByKernel::Slot(NOISE), 90)]);
        match holder {
            Some(id) => second.containers.insert(NOISE, called(id, Counters::default())),
            None => second.containers.remove(&NOISE),
        };
        let all: Vec<(Culprit, u64)> =
            waits(&first, &second).into_iter().map(|((_, _, who), ns)| (who, ns)).collect();
        all
    };
    let container = |id: &str| Culprit::Container(id.into());
    assert_eq!(waited(Some("noise")), [(container("noise"), 40)]);
    assert_eq!(waited(Some("next")), [(container("next"), 90)]);
    assert_eq!(waited(None), [(Culprit::Unexplained, 40)]);
}

#[test]
fn who_has_just_come_or_was_reset_has_no_rates() {
    let empty = Sample { at: Duration::from_secs(1), cpus: 2, ..Sample::default() };
    let full = sample(2, Counters::default(), &[(ByKernel::Host, 5)]);
    assert!(rates(&empty, &full).containers.is_empty());
    assert!(rates(&full, &full).containers.is_empty(), "who is idle");
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
fn who_came_to_its_limit_waits_for_that_for_a_while() {
    let files = |at_s: u64, hits: Option<u64>, usage: u64| {
        let mut files = FromFiles {
            memory_usage_bytes: usage,
            memory_limit_bytes: Some(100),
            memory_limit_hits: hits,
            ..FromFiles::default()
        };
        let some = StallTime { total_usec: at_s * 100_000, ..StallTime::default() };
        files.pressure.memory = Some(Stall { some, full: None });
        sample(at_s, Counters { files: Some(files), ..Counters::default() }, &[])
    };
    let mut before = files(0, Some(3), 0);
    let mut check = |at_s, hits, usage, expected: Culprit| {
        let mut now = files(at_s, hits, usage);
        now.follow(&before);
        let rates = rates(&before, &now);
        assert_eq!(rates.blame.len(), 1, "at {at_s}");
        assert_eq!(rates.blame[0].culprit, expected, "at {at_s}");
        before = now;
    };
    // What was before the first look says nothing.
    check(1, Some(3), 100, Culprit::Itself);
    check(2, Some(4), 90, Culprit::Quota);
    check(3, Some(4), 90, Culprit::Quota);
    check(7, Some(4), 90, Culprit::Quota);
    check(8, Some(4), 90, Culprit::Unexplained);
    // Where nobody counts, what is used must tell.
    check(9, Some(0), 90, Culprit::Unexplained);
    check(10, Some(0), 95, Culprit::Quota);
    check(11, None, 90, Culprit::Quota);
    check(16, None, 90, Culprit::Unexplained);
    check(17, None, 96, Culprit::Quota);
}

#[test]
fn who_took_what_is_read_again_is_known_from_look_to_look() {
    let look = |at_s: u64, web: (u64, u64), noise_mib: u64| {
        let device = Device { major: 8, minor: 0 };
        let (file_mib, refaults) = web;
        let bytes = refaults * 4096;
        let latency = histogram(&[(20, refaults)], refaults * 100_000);
        let read = DiskCounters { bytes, latency, ..DiskCounters::default() };
        let mut files = FromFiles {
            memory_usage_bytes: file_mib << 20,
            file_bytes: file_mib << 20,
            refaults,
            ..FromFiles::default()
        };
        let some = StallTime { total_usec: refaults * 100, ..StallTime::default() };
        files.pressure.io = Some(Stall { some, full: None });
        let disks = Some(vec![(device, DiskOp::Read, read)]);
        let web = Counters { files: Some(files), disks, ..Counters::default() };
        let mut sample = sample(at_s, web, &[]);
        let usage = FromFiles { memory_usage_bytes: noise_mib << 20, ..FromFiles::default() };
        let noise = Counters { files: Some(usage), ..Counters::default() };
        sample.containers.insert(NOISE, called("noise", noise));
        sample
    };
    // The neighbour grows and the file goes; then the one frees all, the other is read.
    let mut before = look(0, (200, 0), 0);
    let mut shares = |mut now: Sample| -> Vec<(Culprit, f64)> {
        now.follow(&before);
        let blame = rates(&before, &now).blame;
        before = now;
        blame.into_iter().map(|row| (row.culprit, row.seconds_per_second)).collect()
    };
    let noise = || Culprit::Container("noise".into());
    assert_eq!(shares(look(1, (100, 0), 100)), []);
    assert_eq!(shares(look(2, (100, 1000), 0)), [(noise(), 0.1)]);
    assert_eq!(shares(look(3, (104, 2000), 0)), [(noise(), 0.1)]);
    // All is there again, and what is read after that was lost to nobody who was seen.
    shares(look(4, (200, 2000), 0));
    assert_eq!(shares(look(5, (200, 2000), 0)), []);
    assert_eq!(shares(look(6, (204, 3000), 0)), [(Culprit::Unexplained, 0.1)]);
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
    let before = Counters { pace: pace.clone(), disks: Some(disks), ..Counters::default() };
    let now = Counters {
        pace,
        disks: Some(vec![row(DiskOp::Read, 30, 8192), row(DiskOp::Write, 5, 1 << 20)]),
        ..Counters::default()
    };
    let weighted_disks = HashSet::from([device]);
    let now = Sample { weighted_disks, ..sample(3, now, &[]) };
    let rates = rates(&sample(1, before, &[]), &now);
    let [disk] = &rates.containers[0].disks[..] else { panic!("one device") };
    assert_eq!((disk.read_bytes_per_s, disk.read_ops_per_s), (2048.0, 10.0));
    assert_eq!((disk.write_bytes_per_s, disk.write_ops_per_s), (524_288.0, 2.5));
    assert!(disk.weighted);
    assert!(disk.p99_us.is_some_and(|us| (524.0..=1049.0).contains(&us)));
}

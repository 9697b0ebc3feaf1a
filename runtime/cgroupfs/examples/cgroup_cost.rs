//! What a container start and a sampling round pay for cgroups, on this machine.
//! Root: `cargo run --release -p tenantry-cgroupfs --example cgroup_cost`.

use std::time::{Duration, Instant};

use tenantry_cgroupfs::{CpuMax, Hierarchy, Max, ReadBuffer, Resources};

const ROUNDS: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hierarchy = Hierarchy::detect()?;
    let parent = format!("tenantry-cgcost-{}", std::process::id());
    hierarchy.prepare_parent(&parent)?;
    let outcome = measure(&hierarchy, &parent);
    hierarchy.remove_parent(&parent)?;
    outcome
}

fn measure(hierarchy: &Hierarchy, parent: &str) -> Result<(), Box<dyn std::error::Error>> {
    let limits = Resources {
        cpu: Some(CpuMax { quota_usec: Some(50_000), period_usec: 100_000 }),
        memory_max_bytes: Some(Max::Value(64 << 20)),
        pids_max: Some(Max::Value(100)),
        ..Resources::default()
    };
    let names = [
        "create",
        "ids",
        "apply cpu, memory, pids",
        "first sample",
        "next sample",
        "remove",
        "all",
    ];
    let mut times: [Vec<Duration>; 7] = std::array::from_fn(|_| Vec::with_capacity(ROUNDS));
    let mut buffer = ReadBuffer::default();
    for round in 0..ROUNDS {
        let group = hierarchy.group(&format!("{parent}/{round}"));
        let mut at = 0;
        let mut last = Instant::now();
        let started = last;
        let mut lap = || {
            times[at].push(last.elapsed());
            at += 1;
            last = Instant::now();
        };
        group.create()?;
        lap();
        group.ids()?;
        lap();
        group.apply(&limits)?;
        lap();
        group.read_sample_with(&mut buffer)?;
        lap();
        group.read_sample_with(&mut buffer)?;
        lap();
        group.remove()?;
        lap();
        times[6].push(started.elapsed());
    }
    println!("{:?}, median and p99 of {ROUNDS}:", hierarchy.layout());
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{name:>24} {:>8.1?} {:>8.1?}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    }
    Ok(())
}

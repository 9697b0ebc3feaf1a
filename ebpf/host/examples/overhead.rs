//! What the syscall programs cost, on getpid, the cheapest call: each variant between two
//! measurements without programs, medians of the ratios. As root.
//!
//! The kernel's own way to any program dominates where returns are slow (AMD's Safe RET):
//! empty programs at the same hooks show how much.
//!
//! `cargo run --release -p tenantry-ebpf --example overhead [ROUNDS]`

mod groups;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use groups::Groups;
use tenantry_ebpf::{CgroupIds, Floor, LoadOptions, Meters};

type Error = Box<dyn std::error::Error>;

struct Variant {
    name: &'static str,
    programs: Programs,
    latency: bool,
}

enum Programs {
    Empty,
    /// Loaded; this process is in no container.
    Idle,
    Counting,
}

const VARIANTS: [Variant; 6] = [
    Variant { name: "empty exit program", programs: Programs::Empty, latency: false },
    Variant { name: "in no container", programs: Programs::Idle, latency: false },
    Variant { name: "counted", programs: Programs::Counting, latency: false },
    Variant { name: "empty enter and exit programs", programs: Programs::Empty, latency: true },
    Variant { name: "in no container, timing on", programs: Programs::Idle, latency: true },
    Variant { name: "counted, 1 in 16 timed", programs: Programs::Counting, latency: true },
];

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(11), |text| text.parse())?;
    let mut processor = rustix::thread::CpuSet::new();
    processor.set(1);
    // With one processor it stays where it is.
    let _ = rustix::thread::sched_setaffinity(None, &processor);
    let groups = Groups::create()?;
    let measured = measure(&groups, rounds);
    groups.remove()?;
    for (variant, mut rounds) in VARIANTS.iter().zip(measured?) {
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, added_ns) = rounds[rounds.len() / 2];
        let (low, high) = (rounds[rounds.len() / 4].0, rounds[rounds.len() * 3 / 4].0);
        let name = variant.name;
        println!("{name:30} x{ratio:.3} [{low:.3}-{high:.3}] +{added_ns:.1} ns");
    }
    Ok(())
}

/// For each variant and round: the ratio to getpid without programs, and what is added.
fn measure(groups: &Groups, rounds: usize) -> Result<Vec<Vec<(f64, f64)>>, Error> {
    let mut results: Vec<Vec<(f64, f64)>> = VARIANTS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (variant, results) in VARIANTS.iter().zip(&mut results) {
            let before = getpid_ns();
            let with = with_programs(groups, variant)?;
            let after = getpid_ns();
            let without = (before + after) / 2.0;
            results.push((with / without, with - without));
        }
    }
    Ok(results)
}

fn with_programs(groups: &Groups, variant: &Variant) -> Result<f64, Error> {
    if let Programs::Empty = variant.programs {
        return with_empty_programs(groups, variant.latency);
    }
    let pins = format!("/sys/fs/bpf/tenantry-overhead-{}", std::process::id());
    let mut options = LoadOptions::new(pins, &groups.parent);
    options.syscall_latency = variant.latency;
    let (meters, _reader) = Meters::load(&options)?;
    if let Programs::Counting = variant.programs {
        let ids = CgroupIds { unified: fs::metadata(&groups.own)?.ino(), blkio: None };
        meters.register(1, &ids)?;
        meters.arm(1)?;
    }
    let ns = getpid_ns();
    meters.unpin()?;
    Ok(ns)
}

fn with_empty_programs(groups: &Groups, enter: bool) -> Result<f64, Error> {
    let names: &[_] = if enter { &["empty_exit", "empty_enter"] } else { &["empty_exit"] };
    let _floor = Floor::attach(names, &groups.parent)?;
    Ok(getpid_ns())
}

/// The best of many short runs: interruptions only ever add.
fn getpid_ns() -> f64 {
    const CALLS: u32 = 5000;
    let run = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(rustix::process::getpid());
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..40).map(run).fold(f64::MAX, f64::min)
}

//! What the scheduler's programs cost where two threads do nothing but hand a byte to and
//! fro (`perf bench sched pipe`, Debian: linux-perf): each variant between two measurements
//! without programs, medians of the ratios. As root.
//!
//! `cargo run --release -p tenantry-ebpf --example overhead_sched [ROUNDS]`

mod groups;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use groups::Groups;
use tenantry_ebpf::{CgroupIds, Floor, LoadOptions, Meters};

type Error = Box<dyn std::error::Error>;

struct Variant {
    name: &'static str,
    programs: Programs,
    counted: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Programs {
    Empty,
    Scheduler,
    All,
}

const VARIANTS: [Variant; 5] = [
    Variant {
        name: "empty programs at switch and wakeup",
        programs: Programs::Empty,
        counted: false,
    },
    Variant {
        name: "scheduler alone, in no container",
        programs: Programs::Scheduler,
        counted: false,
    },
    Variant { name: "scheduler alone, counted", programs: Programs::Scheduler, counted: true },
    Variant { name: "all meters, in no container", programs: Programs::All, counted: false },
    Variant { name: "all meters, counted", programs: Programs::All, counted: true },
];

fn main() -> Result<(), Error> {
    let rounds = std::env::args().nth(1).map_or(Ok(7), |text| text.parse())?;
    let groups = Groups::create()?;
    for one_cpu in [false, true] {
        println!("perf bench sched pipe, {}", if one_cpu { "on one CPU" } else { "as it comes" });
        for variant in &VARIANTS {
            let measured = (0..rounds).map(|_| round(&groups, variant, one_cpu)).collect();
            let measured: Result<Vec<(f64, f64)>, Error> = measured;
            let mut measured = match measured {
                Ok(measured) => measured,
                Err(error) => {
                    groups.remove()?;
                    return Err(error);
                }
            };
            measured.sort_by(|a, b| a.0.total_cmp(&b.0));
            let at = |quarter: usize| measured[(measured.len() - 1) * quarter / 4];
            let ((low, _), (ratio, added), (high, _)) = (at(1), at(2), at(3));
            let name = variant.name;
            println!("  {name:36} x{ratio:.3} [{low:.3}-{high:.3}] +{added:.0} ns");
        }
    }
    Ok(groups.remove()?)
}

/// The ratio to the time without programs, and what is added to a round trip.
fn round(groups: &Groups, variant: &Variant, one_cpu: bool) -> Result<(f64, f64), Error> {
    let before = pipe_ns(one_cpu)?;
    let with = with_programs(groups, variant, one_cpu)?;
    let without = (before + pipe_ns(one_cpu)?) / 2.0;
    Ok((with / without, with - without))
}

fn with_programs(groups: &Groups, variant: &Variant, one_cpu: bool) -> Result<f64, Error> {
    if variant.programs == Programs::Empty {
        return with_empty_programs(groups, one_cpu);
    }
    let pins = PathBuf::from(format!("/sys/fs/bpf/tenantry-overhead-{}", std::process::id()));
    let (meters, _reader) = Meters::load(&LoadOptions::new(&pins, &groups.parent))?;
    let measured = || -> Result<f64, Error> {
        if variant.programs == Programs::Scheduler {
            detach_others(&pins)?;
        }
        if variant.counted {
            let ids = CgroupIds { unified: fs::metadata(&groups.own)?.ino(), blkio: None };
            meters.register(1, &ids)?;
            meters.arm(1)?;
        }
        pipe_ns(one_cpu)
    };
    let ns = measured();
    meters.unpin()?;
    ns
}

/// All but the scheduler's, and what gives threads their memory.
fn detach_others(pins: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(pins)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let stays = name.starts_with("link_scheduler") || name.starts_with("link_thread");
        if name.starts_with("link_") && !stays {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn with_empty_programs(groups: &Groups, one_cpu: bool) -> Result<f64, Error> {
    let _floor = Floor::attach(&["empty_switch", "empty_wakeup"], &groups.parent)?;
    pipe_ns(one_cpu)
}

/// A round trip, the best of many short runs: interruptions only ever add.
fn pipe_ns(one_cpu: bool) -> Result<f64, Error> {
    let mut best = f64::MAX;
    for _ in 0..15 {
        let mut command = Command::new(if one_cpu { "taskset" } else { "perf" });
        command.args(if one_cpu { &["-c", "1", "perf"][..] } else { &[] });
        let output = command.args(["bench", "sched", "pipe", "-l", "4000"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find_map(|line| line.trim().strip_suffix(" usecs/op"));
        best = best.min(line.ok_or("perf said no usecs/op")?.parse::<f64>()? * 1e3);
    }
    Ok(best)
}

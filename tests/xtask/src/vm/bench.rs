//! `vm bench [NAMES]`: benchmarks that need a kernel with cgroup v2 alone. Times of an emulated
//! machine compare with each other alone.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::disks::Payload;
use super::{DEFAULT_KERNEL, cache, prepare, protocol, status_of};
use crate::packages::Task;
use crate::{cargo, process, setup};

const PACKAGE: &str = "tenantry-bench";
const LIMIT_S: u64 = 3600;

/// Of the disk on which the programs write: without it what is read again comes from the host's
/// memory, and losing it costs nothing.
const DISK: &str = ",throttling.bps-total=200000000";
/// On the same disk. Without swap nothing can be taken from who holds no files.
const SWAP_MIB: &str = "256";

/// By which a person chooses, handed on.
const VARIABLES: &[&str] = &["TENANTRY_SCENARIOS", "TENANTRY_ROUNDS"];

/// Runs the benchmarks of these names, and copies what they wrote out of the guest.
pub fn run(names: &[&str]) -> Result<ExitCode> {
    setup::install(Task::Build)?;
    let built = cargo::build_programs(&[PACKAGE])?;
    let machine = prepare(DEFAULT_KERNEL, DISK)?;
    let mut payload = Payload::new(&machine.work)?;
    let (benches, programs): (Vec<_>, Vec<_>) =
        built.programs.iter().partition(|program| program.ends_with(PACKAGE));
    for program in programs {
        payload.add_program(program)?;
    }
    payload.set("TENANTRY_SWAP_MIB", SWAP_MIB)?;
    for name in VARIABLES {
        if let Ok(value) = std::env::var(name) {
            payload.set(name, &value)?;
        }
    }
    let bench = benches.first().with_context(|| format!("{PACKAGE} was not built"))?;
    payload.add_test_with(&protocol::id(PACKAGE), bench, LIMIT_S, names)?;
    let status = status_of(&machine, &payload, Duration::from_secs(LIMIT_S + 60))?;
    fetch(&machine.work.join("scratch.img"))?;
    Ok(status)
}

/// The guest's folder `target`, from its disk into ours.
fn fetch(disk: &Path) -> Result<()> {
    let into = cache().join("bench");
    // debugfs leaves alone what is there already.
    let _ = std::fs::remove_dir_all(&into);
    std::fs::create_dir_all(&into).with_context(|| format!("creating {}", into.display()))?;
    let copy = format!("rdump /target {}", into.display());
    process::run(process::command("debugfs").args(["-R", &copy]).arg(disk))?;
    println!("raw data and plots: {}", into.join("target").display());
    Ok(())
}

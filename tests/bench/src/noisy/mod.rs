//! The noisy neighbour: what a victim feels alone, beside a culprit, with the best limit that
//! an operator could set beforehand, and with the controller; that nobody is limited or named
//! where nobody is guilty; and what is left of a limit when the agent is killed or an operator
//! sets another.
//!
//! CPUs are kept from sleeping meanwhile: a virtual processor that sleeps takes milliseconds to
//! wake, and a victim that is alone would feel more of that than of any neighbour.
//!
//! `TENANTRY_SCENARIOS` names those that are to be run (`T1,T3`; all, where it is not set),
//! `TENANTRY_ROUNDS` says how often (3). Raw data and a plot of each scenario go into files
//! beside the printed tables.

mod compare;
mod disk;
mod goals;
mod guiltless;
mod plot;
mod run;
mod safety;
mod scenario;

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::{cgroup, in_virtual_machine};

use scenario::{Kind, SCENARIOS};

const ROUNDS: usize = 3;
const RAW: &str = "target/bench-noisy.json";

/// A scenario by its name, and how it is run so many times.
type Measured = (&'static str, Box<dyn Fn(usize) -> Result<Value>>);

fn all() -> Vec<Measured> {
    let in_arms = SCENARIOS.iter().map(|scenario| -> Measured {
        let run: Box<dyn Fn(usize) -> Result<Value>> = match scenario.kind {
            Kind::Memory if is_memory_on_v1() => Box::new(|_| Ok(skipped(scenario.name))),
            Kind::Culprit | Kind::Memory => Box::new(|rounds| compare::run(scenario, rounds)),
            Kind::NobodyGuilty => Box::new(|rounds| guiltless::run(scenario, rounds)),
        };
        (scenario.name, run)
    });
    let safe: [Measured; 2] =
        [("T9", Box::new(safety::killed)), ("T10", Box::new(safety::overruled))];
    in_arms.chain(safe).collect()
}

fn is_memory_on_v1() -> bool {
    cgroup::root("memory").ends_with("memory")
}

fn skipped(name: &str) -> Value {
    let why = "memory is on cgroup v1 here, which has no memory.high";
    println!("{name}: skipped: {why}: cargo xtask vm bench noisy");
    serde_json::json!({ "name": name, "skipped": why })
}

pub fn run() -> Result<()> {
    let rounds = match std::env::var("TENANTRY_ROUNDS") {
        Ok(text) => text.parse().with_context(|| format!("TENANTRY_ROUNDS: {text:?}"))?,
        Err(_) => ROUNDS,
    };
    ensure!((1..=100).contains(&rounds), "TENANTRY_ROUNDS: {rounds}, not 1 to 100");
    let mut chosen = all();
    if let Ok(names) = std::env::var("TENANTRY_SCENARIOS") {
        let names: Vec<&str> = names.split(',').collect();
        let known: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
        let unknown = names.iter().find(|name| !known.contains(*name));
        ensure!(unknown.is_none(), "TENANTRY_SCENARIOS: {unknown:?} is none of {known:?}");
        chosen.retain(|(name, _)| names.contains(name));
    }
    // An emulated CPU that polls takes the time from the other one.
    let _awake = (!in_virtual_machine()).then(Awake::start).transpose()?;
    std::fs::create_dir_all("target")?;
    let mut raw = Vec::new();
    for (name, measure) in chosen {
        raw.push(measure(rounds).context(name)?);
        // What follows may fail.
        std::fs::write(RAW, serde_json::to_vec_pretty(&raw)?)?;
    }
    println!("raw data: {RAW}");
    Ok(())
}

/// While this is held, CPUs without work poll for it. Threads of SCHED_IDLE that spin would keep
/// them awake as well, but take them from a culprit to which `cpu.idle` was given.
struct Awake {
    _held: File,
}

impl Awake {
    fn start() -> Result<Self> {
        let path = "/dev/cpu_dma_latency";
        let mut held = File::options().write(true).open(path).context(path)?;
        // The longest time that a CPU may take to wake up, in microseconds.
        held.write_all(&0_i32.to_ne_bytes()).context(path)?;
        Ok(Self { _held: held })
    }
}

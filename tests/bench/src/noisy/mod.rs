//! The noisy neighbour: what a victim feels alone, beside a culprit, with the best limit that
//! an operator could set beforehand, and with the controller.
//!
//! On every CPU a loop of the lowest class runs all the time, that of SCHED_IDLE, which gives
//! way at once: a virtual processor that sleeps takes milliseconds to wake, and a victim that
//! is alone would feel more of that than of any neighbour.
//!
//! Open-loop load; the arms of a round in an order that changes. The best limit is found by
//! trying, the loosest first, until the victim feels at most [`GOAL`] of what it feels alone.
//! Raw data go into a file beside the printed table. `TENANTRY_SCENARIOS` names those that are
//! to be run (`T1,T3`); all, where it is not set.

mod run;
mod scenario;

use std::process::{Child, Command};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::order::shuffled;
use crate::spread::Spread;
use run::{Arm, Outcome, run as one};
use scenario::{SCENARIOS, Scenario};

const ROUNDS: usize = 3;
/// Of the victim's p99, × alone.
const GOAL: f64 = 1.25;
const POLICY: &str = include_str!("policy.toml");
const RAW: &str = "target/bench-noisy.json";

pub fn run() -> Result<()> {
    let only = std::env::var("TENANTRY_SCENARIOS").ok();
    let is_asked_for = |scenario: &&Scenario| {
        only.as_ref().is_none_or(|only| only.split(',').any(|name| name == scenario.name))
    };
    let _awake = Awake::start()?;
    let mut raw = Vec::new();
    for scenario in SCENARIOS.iter().filter(is_asked_for) {
        println!("{}: {}", scenario.name, scenario.what);
        raw.push(compare(scenario).with_context(|| scenario.name)?);
    }
    std::fs::write(RAW, serde_json::to_vec_pretty(&raw)?)?;
    println!("raw data: {RAW}");
    Ok(())
}

struct Awake(Vec<Child>);

impl Awake {
    fn start() -> Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        let one = |cpu: usize| {
            Command::new("chrt")
                .args(["--idle", "0", "taskset", "-c", &cpu.to_string()])
                .args(["sh", "-c", "while :; do :; done"])
                .spawn()
        };
        Ok(Self((0..cpus).map(one).collect::<Result<_, _>>().context("chrt")?))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Outcomes by arm, in the order of `ARMS`.
type Outcomes = [Vec<Outcome>; 4];
const ARMS: [&str; 4] = ["alone", "together", "best static limit", "controller"];

fn compare(scenario: &Scenario) -> Result<serde_json::Value> {
    let best = best_limit(scenario)?;
    println!("  best static limit: {}", best.join(" "));
    let arms = [Arm::Alone, Arm::Together, Arm::Static(best.clone()), Arm::Controlled];
    let mut outcomes = Outcomes::default();
    for round in 0..ROUNDS {
        for index in shuffled(arms.len(), round) {
            outcomes[index].push(one(scenario, &arms[index], POLICY)?);
        }
    }
    print(&outcomes)?;
    let raw: Vec<_> = ARMS
        .iter()
        .zip(&outcomes)
        .map(|(name, runs)| {
            json!({ "arm": name, "runs": runs.iter().map(Outcome::to_json).collect::<Vec<_>>() })
        })
        .collect();
    Ok(json!({ "name": scenario.name, "what": scenario.what, "static": best, "arms": raw }))
}

/// The loosest that helps; the tightest where none does.
fn best_limit(scenario: &Scenario) -> Result<Vec<String>> {
    let alone = one(scenario, &Arm::Alone, POLICY)?.p99_us;
    let mut tried = Vec::new();
    for limit in scenario.limits {
        tried = limit.iter().map(|&word| word.to_owned()).collect();
        if one(scenario, &Arm::Static(tried.clone()), POLICY)?.p99_us <= GOAL * alone {
            break;
        }
    }
    Ok(tried)
}

fn print(outcomes: &Outcomes) -> Result<()> {
    let spread = |arm: usize, of: fn(&Outcome) -> f64| -> Result<Spread> {
        Spread::of(&outcomes[arm].iter().map(of).collect::<Vec<_>>()).context("no rounds")
    };
    let p99_ms = |outcome: &Outcome| outcome.p99_us / 1000.0;
    let (alone, together) = (spread(0, p99_ms)?.median, spread(1, p99_ms)?.median);
    let best_work = spread(2, |outcome| outcome.work_per_s)?.median;
    println!(
        "  {:20} {:>24} {:>9} {:>11} {:>16}",
        "", "victim's p99, ms", "× alone", "recovered", "culprit's work"
    );
    for (arm, name) in ARMS.iter().enumerate() {
        let felt = spread(arm, p99_ms)?;
        let recovered = (together - felt.median) / (together - alone) * 100.0;
        let work = spread(arm, |outcome| outcome.work_per_s)?.median / best_work * 100.0;
        println!(
            "  {name:20} {:>24} {:>9.2} {recovered:>9.0} % {work:>14.0} %",
            felt.to_string(),
            felt.median / alone,
        );
    }
    let released = outcomes[3].iter().map(|outcome| match outcome.release_s {
        Some(seconds) => format!("{seconds:.1} s"),
        None => "never".into(),
    });
    let released: Vec<String> = released.collect();
    println!("  released after the victim's end: {}", released.join(", "));
    println!("  agent, of a core: {:.4}", spread(3, |outcome| outcome.agent_cores)?);
    Ok(())
}

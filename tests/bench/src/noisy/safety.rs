//! The agent killed while it limits somebody, and an operator who sets another limit
//! meanwhile. The witnesses are the kernel's own files.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::witness::{Files, Witness};

use super::goals::Goal;
use crate::spread::Spread;

/// What a killed agent's limit may outlive its lease.
const AFTER_LEASE_S: f64 = 10.0;
const LEASE_S: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// How long an operator's limit is looked at.
const STANDS: Duration = Duration::from_secs(8);
const OPERATORS: &str = "1.2";
/// The same in the kernel's file, of its 100 ms.
const OPERATORS_USEC: &str = "120000";

/// A victim, and a culprit that the controller has limited.
struct Limited {
    agent: TestAgent,
    culprit: Witness,
    before: Files,
}

impl Limited {
    fn start() -> Result<Self> {
        let policy = format!(
            "mode = \"enforce\"\n\
             [[rule]]\nclass = \"protected\"\nname = [\"victim\"]\n\
             [rule.objectives]\npressure_cpu = 0.2\n\
             [[rule]]\nclass = \"best-effort\"\nname = [\"culprit\"]\n\
             [act]\nlease_seconds = {LEASE_S}\n"
        );
        let agent = TestAgent::try_start_with_policy(&policy, "")?;
        for (name, threads) in [("victim", "2"), ("culprit", "4")] {
            let command = ["workload", "spin", "--seconds", "600", "--threads", threads];
            agent.run_detached(name, &[], &command)?;
        }
        let culprit = Witness::of(&agent, "culprit");
        // Of a limit that was set in this moment they would be wrong, which is seen below.
        let before = culprit.files();
        let limited = Self { agent, culprit, before };
        within("the culprit is limited", || limited.culprit.files() != limited.before)?;
        Ok(limited)
    }
}

/// How long it took until `done`.
fn within(what: &str, mut done: impl FnMut() -> bool) -> Result<Duration> {
    let began = Instant::now();
    while !done() {
        ensure!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(POLL);
    }
    Ok(began.elapsed())
}

/// T9.
pub fn killed(rounds: usize) -> Result<Value> {
    println!("T9: the agent is killed while it limits somebody (lease {LEASE_S} s)");
    let took: Vec<f64> = (0..rounds).map(kill_one).collect::<Result<_>>()?;
    let longest = took.iter().copied().fold(0.0, f64::max);
    println!("  restored after the kill, s: {}", Spread::of(&took).context("no rounds")?);
    let goal = Goal::at_most(
        "the last limit after the lease's end, s",
        AFTER_LEASE_S,
        Some(longest - LEASE_S as f64),
    );
    println!("  {goal}");
    Ok(json!({
        "name": "T9", "lease_s": LEASE_S, "restored_s": took, "goals": [goal.to_json()],
    }))
}

fn kill_one(round: usize) -> Result<f64> {
    let mut limited = Limited::start()?;
    // At another time between two renewals in each round.
    std::thread::sleep(Duration::from_millis(300 * (round as u64 % 4)));
    limited.agent.kill_nine();
    let is_restored = || limited.culprit.files() == limited.before;
    let took = within("the shim restores", is_restored)?;
    limited.agent.spawn()?;
    limited.agent.finish();
    Ok(took.as_secs_f64())
}

/// T10.
pub fn overruled(rounds: usize) -> Result<Value> {
    println!("T10: an operator sets {OPERATORS} CPUs while the controller limits");
    let runs: Vec<Overruled> = (0..rounds).map(|_| overrule_one()).collect::<Result<_>>()?;
    let of = |of: fn(&Overruled) -> f64| runs.iter().map(of).fold(0.0, f64::max);
    let goals = [
        Goal::at_most(
            "the controller's other limits are gone after, s",
            10.0,
            Some(of(|r| r.gone_s)),
        ),
        Goal::at_most(
            "looks at which it was not the operator's",
            0.0,
            Some(of(|r| r.others as f64)),
        ),
    ];
    goals.iter().for_each(|goal| println!("  {goal}"));
    println!("  {} looks", runs.iter().map(|run| run.looks).sum::<usize>());
    Ok(json!({ "name": "T10", "goals": goals.iter().map(Goal::to_json).collect::<Vec<_>>() }))
}

/// What one round showed.
struct Overruled {
    /// From the operator's word until only it is in force.
    gone_s: f64,
    looks: usize,
    /// At which the quota was not what the operator said.
    others: usize,
}

fn overrule_one() -> Result<Overruled> {
    let Limited { agent, culprit, before } = Limited::start()?;
    agent.run(&["limit", "culprit", "--cpus", OPERATORS])?;
    let said = Instant::now();
    let quota = culprit.quota();
    ensure!(quota.1.starts_with(OPERATORS_USEC), "{quota:?}");
    let mut expected = before;
    expected.insert(quota.0.clone(), quota.1.clone());
    let mut run = Overruled { gone_s: 0.0, looks: 0, others: 0 };
    let mut gone = None;
    while said.elapsed() < STANDS {
        run.looks += 1;
        let files = culprit.files();
        run.others += usize::from(files.get(&quota.0) != Some(&quota.1));
        // Only what stays is gone.
        match files == expected {
            true => drop(gone.get_or_insert_with(|| said.elapsed())),
            false => gone = None,
        }
        std::thread::sleep(POLL);
    }
    run.gone_s = gone.context("the controller still limits")?.as_secs_f64();
    agent.finish();
    Ok(run)
}

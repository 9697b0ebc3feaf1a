//! Nobody is guilty: the controller alone, which must do nothing and name nobody.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::goals::Goal;
use super::run::{Arm, Outcome, run as one};
use super::scenario::Scenario;
use crate::spread::Spread;

pub fn run(scenario: &Scenario, rounds: usize) -> Result<Value> {
    println!("{}: {}", scenario.name, scenario.what);
    let runs: Vec<Outcome> =
        (0..rounds).map(|_| one(scenario, &Arm::Controlled)).collect::<Result<_>>()?;
    let sum = |of: fn(&Outcome) -> usize| runs.iter().map(of).sum::<usize>() as f64;
    let asked = sum(|outcome| outcome.asked);
    let goals = [
        Goal::at_most("decisions that limit somebody", 0.0, Some(sum(Outcome::acted))),
        Goal::at_most("other decisions", 0.0, Some(sum(|o| o.decisions.len() - o.acted()))),
        Goal::at_most("answers that name somebody", 0.0, Some(sum(|o| o.named.len()))),
    ];
    goals.iter().for_each(|goal| println!("  {goal}"));
    let spread = |of: fn(&Outcome) -> f64| {
        Spread::of(&runs.iter().map(of).collect::<Vec<_>>()).context("no rounds")
    };
    println!("  asked {asked} times whom the agent names");
    println!("  victim's p99, ms: {}", spread(|outcome| outcome.p99_us / 1000.0)?);
    // Nobody can have it at will: the hypervisor takes what it takes.
    println!("  the hypervisor took, % of all CPUs: {}", spread(|o| 100.0 * o.steal)?);
    for named in runs.iter().flat_map(|outcome| &outcome.named) {
        println!("  named: {named}");
    }
    Ok(json!({
        "name": scenario.name, "what": scenario.what,
        "runs": runs.iter().map(Outcome::to_json).collect::<Vec<_>>(),
        "goals": goals.iter().map(Goal::to_json).collect::<Vec<_>>(),
    }))
}

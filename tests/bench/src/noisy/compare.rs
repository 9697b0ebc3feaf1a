//! The four arms, round by round in an order that changes, under open-loop load. The best
//! static limit is found by trying: the loosest with which the victim feels at most the goal
//! of what it feels alone, the tightest where none does.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::goals::{Compared, Goal, P99_RATIO, by_second, recovered_bound, turns, well_after};
use super::plot;
use super::run::{Arm, CULPRIT_AT, Outcome, run as one};
use super::scenario::Scenario;
use crate::order::shuffled;
use crate::spread::Spread;

const ARMS: [&str; 4] = ["alone", "together", "best static limit", "controller"];
const ALONE: usize = 0;
const TOGETHER: usize = 1;
const STATIC: usize = 2;
const CONTROLLED: usize = 3;

/// By arm, in the order of [`ARMS`].
type Outcomes = [Vec<Outcome>; 4];

pub fn run(scenario: &Scenario, rounds: usize) -> Result<Value> {
    println!("{}: {}", scenario.name, scenario.what);
    let best = best_limit(scenario)?;
    println!("  best static limit: {}", best.join(" "));
    let arms = [Arm::Alone, Arm::Together, Arm::Static(best.clone()), Arm::Controlled];
    let mut outcomes = Outcomes::default();
    for round in 0..rounds {
        for index in shuffled(arms.len(), round) {
            let outcome = one(scenario, &arms[index])?;
            println!("  round {}, {}: p99 {:.1} ms", round + 1, ARMS[index], outcome.p99_us / 1e3);
            outcomes[index].push(outcome);
        }
    }
    print_arms(&outcomes)?;
    let goals = told(&outcomes, scenario.harmless_s)?;
    let plot = plotted(scenario, &outcomes)?;
    let raw: Vec<_> = ARMS
        .iter()
        .zip(&outcomes)
        .map(|(name, runs)| {
            json!({ "arm": name, "runs": runs.iter().map(Outcome::to_json).collect::<Vec<_>>() })
        })
        .collect();
    Ok(json!({
        "name": scenario.name, "what": scenario.what, "static": best, "arms": raw,
        "goals": goals.iter().map(Goal::to_json).collect::<Vec<_>>(), "plot": plot,
    }))
}

/// By halving: a tighter limit helps no less.
fn best_limit(scenario: &Scenario) -> Result<Vec<String>> {
    let (mut low, mut high) = (0, scenario.limits.len() - 1);
    let words = |index: usize| scenario.limits[index].iter().map(|&word| word.to_owned()).collect();
    if low < high {
        let alone = one(scenario, &Arm::Alone)?.p99_us;
        while low < high {
            let middle = (low + high) / 2;
            let felt = one(scenario, &Arm::Static(words(middle)))?.p99_us;
            println!("  tried {}: × {:.2}", words(middle).join(" "), felt / alone);
            match felt <= P99_RATIO * alone {
                true => high = middle,
                false => low = middle + 1,
            }
        }
    }
    Ok(words(low))
}

fn spread(outcomes: &[Outcome], of: impl Fn(&Outcome) -> f64) -> Result<Spread> {
    Spread::of(&outcomes.iter().map(of).collect::<Vec<_>>()).context("no rounds")
}

fn p99_ms(outcome: &Outcome) -> f64 {
    outcome.p99_us / 1000.0
}

fn print_arms(outcomes: &Outcomes) -> Result<()> {
    let alone = spread(&outcomes[ALONE], p99_ms)?.median;
    println!(
        "  {:18} {:>24} {:>8} {:>30} {:>8}",
        "", "victim's p99, ms", "× alone", "culprit's work a second", "steal, %"
    );
    for (name, runs) in ARMS.iter().zip(outcomes) {
        let felt = spread(runs, p99_ms)?;
        let work = spread(runs, |outcome| outcome.work_per_s)?;
        println!(
            "  {name:18} {:>24} {:>8.2} {:>30} {:>8.1}",
            felt.to_string(),
            felt.median / alone,
            in_units(work),
            spread(runs, |outcome| 100.0 * outcome.steal)?.median,
        );
    }
    Ok(())
}

/// Cores as they are, bytes in MB.
fn in_units(work: Spread) -> String {
    match work.high > 1000.0 {
        true => {
            let mega = |bytes: f64| bytes / 1e6;
            let Spread { low, median, high } = work;
            let of = Spread { low: mega(low), median: mega(median), high: mega(high) };
            format!("{of:.1} MB")
        }
        false => work.to_string(),
    }
}

/// Prints and returns what was aimed at, and what was reached.
fn told(outcomes: &Outcomes, harmless_s: u64) -> Result<Vec<Goal>> {
    let median = |arm: usize, of: fn(&Outcome) -> f64| -> Result<f64> {
        Ok(spread(&outcomes[arm], of)?.median)
    };
    let work = |outcome: &Outcome| outcome.work_per_s;
    let controlled = &outcomes[CONTROLLED];
    let releases: Option<Vec<f64>> = controlled.iter().map(|outcome| outcome.release_s).collect();
    let compared = Compared {
        alone: median(ALONE, p99_ms)?,
        together: median(TOGETHER, p99_ms)?,
        controlled: median(CONTROLLED, p99_ms)?,
        static_work: median(STATIC, work)?,
        controlled_work: median(CONTROLLED, work)?,
        release_s: releases.map(|all| all.into_iter().fold(0.0, f64::max)),
        turns: controlled.iter().map(|outcome| turns(&outcome.decisions)).sum(),
        controlled_s: controlled.iter().map(|outcome| outcome.controlled_s).sum(),
    };
    let goals = compared.goals();
    goals.iter().for_each(|goal| println!("  {goal}"));
    let bound = recovered_bound(compared.alone, compared.together) * 1000.0;
    let felt = medians(controlled);
    let begin = usize::try_from(CULPRIT_AT + harmless_s)?;
    let stays = match well_after(&felt, begin, bound) {
        Some(seconds) => format!("after {seconds} s"),
        None => "not within the run".to_owned(),
    };
    println!("  recovered, and stayed so: {stays} (the median of each second)");
    let used = actuators(controlled);
    let used = if used.is_empty() { "none".to_owned() } else { used.join(", ") };
    println!("  limits that the controller used: {used}");
    println!("  agent, of a core: {:.4}", spread(controlled, |outcome| outcome.agent_cores)?);
    Ok(goals)
}

fn medians(runs: &[Outcome]) -> Vec<f64> {
    by_second(&runs.iter().map(|outcome| outcome.by_second.as_slice()).collect::<Vec<_>>())
}

fn actuators(runs: &[Outcome]) -> Vec<String> {
    let all = runs.iter().flat_map(|outcome| &outcome.decisions);
    let tightened = all.filter(|decision| decision["kind"] == "tighten");
    let names = tightened.filter_map(|decision| decision["actuator"].as_str());
    names.map(str::to_owned).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn plotted(scenario: &Scenario, outcomes: &Outcomes) -> Result<PathBuf> {
    let path = PathBuf::from(format!("target/bench-noisy-{}.svg", scenario.name));
    let in_ms = |runs: &Vec<Outcome>| medians(runs).iter().map(|us| us / 1000.0).collect();
    let curves: Vec<(&str, Vec<f64>)> =
        ARMS.iter().zip(outcomes).map(|(name, runs)| (*name, in_ms(runs))).collect();
    let title = format!("{}: {}", scenario.name, scenario.what);
    plot::write(&path, &title, &curves, usize::try_from(CULPRIT_AT)?)?;
    println!("  plot: {}", path.display());
    Ok(path)
}

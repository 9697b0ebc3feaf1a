//! From the command to the end of `/bin/true` in a container, removal included.

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::{IMAGE, TestAgent};

use super::peers::Arm;
use crate::order::shuffled;
use crate::spread::Spread;

const ROUNDS: usize = 30;

/// Each arm's median, in ms.
pub fn run(arms: &[Arm]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); arms.len()];
    // In turns, so that a slow minute slows all of them.
    for round in 0..ROUNDS {
        for at in shuffled(arms.len(), round) {
            // Slow ones need fewer to be told apart.
            if round < ROUNDS / 4 || !arms[at].slow {
                times[at].push(arms[at].once()?);
            }
        }
    }
    println!("run /bin/true, from command to removal, ms (median [quartiles], in turns)");
    let spreads = times.iter().map(|times| Spread::of(times).context("no rounds"));
    let spreads = spreads.collect::<Result<Vec<_>>>()?;
    for (arm, spread) in arms.iter().zip(&spreads) {
        let ratio = spreads[0].median / spread.median;
        println!("  {:52} {spread:.1}   the first is × {ratio:.2} of it", arm.name);
    }
    Ok(spreads.iter().map(|spread| spread.median).collect())
}

pub fn where_the_time_goes(agent: &TestAgent, limits: &[&str]) -> Result<()> {
    agent.run(
        &[&["run", "-d", "--name", "steps"][..], limits, &[IMAGE, "sleep", "1000"]].concat(),
    )?;
    let steps = agent.native("steps")["start_steps_usec"].take();
    println!("steps of one such start, in microseconds (steps of a stage run side by side):");
    for step in steps.as_array().into_iter().flatten() {
        println!("    {:24} {:>6}", step["name"].as_str().unwrap_or_default(), step["usec"]);
    }
    agent.run(&["rm", "-f", "steps"]).map(drop)
}

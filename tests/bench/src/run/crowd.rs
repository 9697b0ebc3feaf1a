//! Fifty commands at once, each of which runs a container to its end.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use super::peers::Arm;
use crate::spread::Spread;

const CROWD: usize = 50;
const ROUNDS: usize = 5;

/// `one_by_one` is what each arm takes for one container alone, in ms.
pub fn run(arms: &[Arm], one_by_one: &[f64]) -> Result<()> {
    let mut times = vec![Vec::new(); arms.len()];
    for round in 0..ROUNDS {
        for (arm, times) in arms.iter().zip(&mut times) {
            if round == 0 || !arm.slow {
                match arm.at_once(CROWD) {
                    Ok(time) => times.push(time),
                    Err(error) => println!("  {}: not {CROWD} at once: {error:#}", arm.name),
                }
            }
        }
    }
    println!(
        "{CROWD} at once, ms until the last has ended (and for one of them, beside one alone)"
    );
    let ours = Spread::of(&times[0]).context("no rounds")?.median;
    for ((arm, times), alone) in arms.iter().zip(&times).zip(one_by_one) {
        let Some(spread) = Spread::of(times) else { continue };
        let each = spread.median / CROWD as f64;
        println!(
            "  {:52} {spread:.0} ({each:.1}, × {:.2})   the first is × {:.2} of it",
            arm.name,
            each / alone,
            ours / spread.median,
        );
    }
    Ok(())
}

/// Waits for all of them, whatever becomes of the first.
pub fn gather<T: Send>(count: usize, one: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let failed = AtomicUsize::new(0);
    let run = |number| {
        let result = one(number);
        failed.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
        result
    };
    let run = &run;
    let results: Vec<Result<T>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || run(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let failed = failed.into_inner();
    match results.into_iter().collect::<Result<Vec<T>>>() {
        Err(error) => bail!("{failed} of {count} failed: {error:#}"),
        whole => whole,
    }
}

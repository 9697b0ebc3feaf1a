//! What of a bandwidth limit is payload in the end, from 1 Mbit/s to 1 Gbit/s, and what a
//! container that sends all it can adds to the requests of one beside it.
//!
//! Two witnesses that know nothing of each other: `iperf3`, which counts what its server
//! takes, and the counters of the interface behind the shaper, which count IP bytes.

mod beside;
mod iperf;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::TestAgent;

use crate::peers::is_installed;
use crate::spread::Spread;
use iperf::{Load, Protocol, Windows};

const RATES_MBIT: [u64; 4] = [1, 10, 100, 1000];
const FLOWS: [u32; 2] = [1, 8];
const WINDOW: Duration = Duration::from_secs(2);
/// Where the queue is some tenths of a second long, a receiver that waits for one lost packet is
/// handed what came meanwhile much later.
const LONG_WINDOW: Duration = Duration::from_secs(8);
/// Of what was asked for.
const NEAR: std::ops::RangeInclusive<f64> = 95.0..=105.0;

pub fn run() -> Result<()> {
    let rates = rates_mbit()?;
    println!("bandwidth limits: what arrives, as a share of what was asked for");
    println!("  (median [quartiles] of three windows, 2 s, at 1 Mbit/s 8 s; goal 95 to 105 %)");
    for program in ["iperf3", "nsenter"] {
        if !is_installed(program) {
            println!("  {program} is not installed");
            return Ok(());
        }
    }
    let agent = TestAgent::try_start()?;
    for name in ["limited", "other"] {
        agent.run_detached(name, &[], &["sleep", "100000"])?;
    }
    let mut missed = 0;
    for &rate_mbit in &rates {
        for direction in ["egress", "ingress"] {
            missed += measure(&agent, rate_mbit, direction)?;
        }
    }
    println!("  {missed} of {} are further than 5 % off", rates.len() * 8);
    agent.run(&["limit", "limited", "--egress", "max", "--ingress", "max"])?;
    let unlimited = |protocol| Load { protocol, flows: 1, offered_mbit: 5000 };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let windows = iperf::run(&agent, "limited", "other", unlimited(protocol), WINDOW)?;
        let most = Spread::of(&windows.payload_mbit).context("no windows")?;
        println!("  not limited, {protocol} x 1: {most:.0} Mbit/s");
    }
    println!();
    beside::run(&agent)?;
    agent.finish();
    Ok(())
}

/// `TENANTRY_RATES=1,100`, else all.
fn rates_mbit() -> Result<Vec<u64>> {
    let Ok(chosen) = std::env::var("TENANTRY_RATES") else { return Ok(RATES_MBIT.to_vec()) };
    let rates = chosen.split(',').map(|rate| rate.trim().parse());
    rates.collect::<Result<_, _>>().with_context(|| format!("TENANTRY_RATES = {chosen:?}"))
}

/// All loads at one rate and in one direction; how many missed the goal.
fn measure(agent: &TestAgent, rate_mbit: u64, direction: &str) -> Result<usize> {
    let rate = format!("{rate_mbit}mbit");
    let (from, to) = match direction {
        "egress" => ("limited", "other"),
        _ => ("other", "limited"),
    };
    agent.run(&["limit", "limited", "--egress", "max", "--ingress", "max"])?;
    agent.run(&["limit", "limited", &format!("--{direction}"), &rate])?;
    let window = if rate_mbit > 1 { WINDOW } else { LONG_WINDOW };
    let mut missed = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for flows in FLOWS {
            // Datagrams do not slow down by themselves.
            let load = Load { protocol, flows, offered_mbit: rate_mbit * 6 / 5 };
            let Windows { payload_mbit, passed_mbit } =
                iperf::run(agent, from, to, load, window)
                    .with_context(|| format!("{rate} {direction} {protocol} {flows}"))?;
            let share = |windows: &[f64]| {
                let shares: Vec<f64> =
                    windows.iter().map(|mbit| mbit / rate_mbit as f64 * 100.0).collect();
                Spread::of(&shares).context("no windows")
            };
            let (payload, passed) = (share(&payload_mbit)?, share(&passed_mbit)?);
            let miss = !NEAR.contains(&payload.median);
            missed += usize::from(miss);
            println!(
                "  {rate:>8} {direction:7} {protocol} x {flows}: payload {payload:.1} %, \
                 passed {passed:.1} %{}",
                if miss { "  MISSED" } else { "" }
            );
        }
    }
    Ok(missed)
}

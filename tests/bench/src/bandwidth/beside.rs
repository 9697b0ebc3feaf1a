//! Requests between two containers without limits, beside a third that sends all it can:
//! not limited, and limited.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;

use super::iperf;
use crate::order::shuffled;
use crate::spread::Spread;

const ROUNDS: usize = 5;

struct Arm {
    name: &'static str,
    /// The neighbour's limit; `None`: there is no neighbour.
    egress: Option<&'static str>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

pub fn run(agent: &TestAgent) -> Result<()> {
    println!("requests of a container without limits, 200 a second, open loop");
    println!("  (median [quartiles] of {ROUNDS} rounds of 4 s)");
    agent.run_detached("server", &[], &["workload", "serve", "8080"])?;
    agent.run_detached("client", &[], &["sleep", "100000"])?;
    let arm = |name, egress| Arm { name, egress, p50_us: vec![], p99_us: vec![] };
    let mut arms = [
        arm("alone", None),
        arm("beside a stream without a limit", Some("max")),
        arm("beside one of 1 Gbit/s", Some("1gbit")),
        arm("beside one of 100 Mbit/s", Some("100mbit")),
    ];
    for round in 0..ROUNDS {
        for index in shuffled(arms.len(), round) {
            arms[index].measure(agent).with_context(|| arms[index].name)?;
        }
    }
    let alone = Spread::of(&arms[0].p99_us).context("no rounds")?.median;
    for arm in &arms {
        let (p50, p99) = (Spread::of(&arm.p50_us), Spread::of(&arm.p99_us));
        let (p50, p99) = (p50.context("no rounds")?, p99.context("no rounds")?);
        let added = p99.median - alone;
        println!("  {:32} p50 {p50:.0} µs, p99 {p99:.0} µs ({added:+.0})", arm.name);
    }
    Ok(())
}

impl Arm {
    fn measure(&mut self, agent: &TestAgent) -> Result<()> {
        let mut stream = None;
        if let Some(rate) = self.egress {
            agent.run(&["limit", "limited", "--egress", rate, "--ingress", "max"])?;
            stream = Some(iperf::saturate(agent, "limited", "other")?);
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        let to = format!("{}:8080", agent.address("server"));
        let load = ["workload", "load", &to, "--rate", "200", "--seconds", "4", "--from", "1"];
        let text = agent.run(&[&["exec", "client"][..], &load].concat())?;
        drop(stream);
        let felt: Value = serde_json::from_str(text.lines().last().context("it said nothing")?)?;
        self.p50_us.push(felt["p50_us"].as_f64().context("p50_us")?);
        self.p99_us.push(felt["p99_us"].as_f64().context("p99_us")?);
        Ok(())
    }
}

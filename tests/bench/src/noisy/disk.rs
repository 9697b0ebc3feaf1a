//! How fast the disk below the scratch directories takes bytes.

use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;

const SECONDS: u64 = 2;

/// What one writer gets past the page cache, in a container. Measured once, by an agent of its
/// own: ask before anything else is measured.
pub fn bytes_per_s() -> Result<u64> {
    static SPEED: OnceLock<u64> = OnceLock::new();
    if let Some(speed) = SPEED.get() {
        return Ok(*speed);
    }
    let agent = TestAgent::try_start()?;
    let seconds = SECONDS.to_string();
    let command = ["workload", "noise", "--write", "/data/speed", "--seconds", &seconds];
    let said = agent.run(&[&["run", "--rm", "demo"], &command[..]].concat());
    agent.finish();
    let said = said?;
    let last: Value = serde_json::from_str(said.lines().last().context("nothing was said")?)?;
    let speed = last["written_bytes"].as_u64().context("written_bytes")? / SECONDS;
    println!("  the disk takes {} MB/s", speed / 1_000_000);
    Ok(*SPEED.get_or_init(|| speed))
}

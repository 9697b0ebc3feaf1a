//! What the agent costs when nothing happens: ten containers asleep, nobody
//! asking, and then a scrape every second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::{cpu_ticks, status_kib};
use tenantry_e2e::scrape;

const CONTAINERS: usize = 10;
const LOOK: Duration = Duration::from_secs(15);

pub fn run() -> Result<()> {
    let agent = TestAgent::try_start()?;
    for n in 0..CONTAINERS {
        agent.run_detached(&format!("idle{n}"), &[], &["sleep", "1000"])?;
    }
    println!("agent with {CONTAINERS} idle containers");
    let quiet = cpu_share(agent.pid(), || {})?;
    println!("  unasked:           CPU {:.2} % of a core", quiet * 100.0);
    let mut bytes = 0;
    let scraped = cpu_share(agent.pid(), || {
        bytes = scrape::get(agent.listen, "/metrics").map_or(0, |body| body.len());
    })?;
    println!(
        "  scraped each second: CPU {:.2} % of a core, {bytes} bytes a scrape",
        scraped * 100.0
    );
    let kib = |field| status_kib(agent.pid(), field).context("the agent's status");
    println!(
        "  RSS {:.1} MiB (anonymous {:.1}, files {:.1})",
        kib("VmRSS")? as f64 / 1024.0,
        kib("RssAnon")? as f64 / 1024.0,
        kib("RssFile")? as f64 / 1024.0
    );
    let shims: Vec<u64> = shims(&agent).filter_map(|pid| status_kib(pid, "VmRSS")).collect();
    let mean = shims.iter().sum::<u64>() as f64 / shims.len().max(1) as f64;
    println!("  {} shims, each {mean:.0} KiB RSS", shims.len());
    agent.finish();
    Ok(())
}

fn cpu_share(pid: u32, mut each_second: impl FnMut()) -> Result<f64> {
    let (began, before) = (Instant::now(), cpu_ticks(pid).context("the agent runs")?);
    while began.elapsed() < LOOK {
        std::thread::sleep(Duration::from_secs(1));
        each_second();
    }
    let ticks = cpu_ticks(pid).context("the agent runs")? - before;
    Ok(ticks as f64 / 100.0 / began.elapsed().as_secs_f64())
}

/// Children of the agent.
fn shims(agent: &TestAgent) -> impl Iterator<Item = u32> {
    let path = format!("/proc/{0}/task", agent.pid());
    let tasks = std::fs::read_dir(path).into_iter().flatten().flatten();
    let children: Vec<u32> = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect();
    children.into_iter()
}

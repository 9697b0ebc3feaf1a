//! What the agent costs when nothing happens: ten containers asleep, and two hundred of
//! which a policy protects some; nobody asking, and then a scrape every second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::{cpu_time, status_kib};
use tenantry_e2e::scrape;

const FEW: usize = 10;
const MANY: usize = 200;
/// Every tenth is looked at closely once a second, as a victim may be.
const POLICY: &str = r#"mode = "enforce"

[[rule]]
class = "protected"
name = ["idle*0"]
[rule.objectives]
run_queue_p99_ms = 10.0
"#;
const LOOK: Duration = Duration::from_secs(30);

pub fn run() -> Result<()> {
    idle(FEW)?;
    idle(MANY)
}

fn idle(containers: usize) -> Result<()> {
    // All slots but a few for ours.
    let room = "max_containers = 250\n[foreign]\nmax = 5\n";
    let agent = TestAgent::try_start_with_policy(POLICY, room)?;
    for n in 0..containers {
        agent.run_detached(&format!("idle{n:03}"), &[], &["sleep", "1000"])?;
    }
    println!("agent with {containers} idle containers");
    let looked = || agent.metrics().sum("tenantry_controller_seconds_total", &[]).unwrap_or(0.0);
    let (began, looks) = (Instant::now(), looked());
    let quiet = cpu_share(agent.pid(), || {})?;
    println!("  unasked:           CPU {:.2} % of a core", quiet * 100.0);
    let looks = (looked() - looks) / began.elapsed().as_secs_f64();
    println!("    of that the controller's looks: {:.2} %", looks * 100.0);
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
    let (began, before) = (Instant::now(), cpu_time(pid).context("the agent runs")?);
    while began.elapsed() < LOOK {
        std::thread::sleep(Duration::from_secs(1));
        each_second();
    }
    let used = cpu_time(pid).context("the agent runs")?.saturating_sub(before);
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64())
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

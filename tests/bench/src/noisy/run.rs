//! One run: the victim alone for a while, then the culprit beside it, then the victim gone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::{self, disk_below};

use super::scenario::{Scenario, Work};

/// When the culprit begins.
const CULPRIT_AT: u64 = 5;
/// From here on it is measured: whoever helps has had five seconds.
const FROM: u64 = 10;
const UNTIL: u64 = 20;
/// How long a released limit is waited for.
const RELEASE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub enum Arm {
    Alone,
    /// Nobody helps.
    Together,
    /// An operator's limit, from the beginning.
    Static(Vec<String>),
    Controlled,
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub p99_us: f64,
    pub p50_us: f64,
    pub by_second: Vec<f64>,
    /// The culprit's work a second: cores, or bytes.
    pub work_per_s: f64,
    /// From the victim's end until the culprit had all its limits back.
    pub release_s: Option<f64>,
    pub decisions: Vec<Value>,
    /// Of one core, while the culprit ran.
    pub agent_cores: f64,
}

impl Outcome {
    pub fn to_json(&self) -> Value {
        json!({
            "p50_us": self.p50_us, "p99_us": self.p99_us, "p99_us_by_second": self.by_second,
            "culprit_work_per_s": self.work_per_s, "release_s": self.release_s,
            "agent_cores": self.agent_cores, "decisions": self.decisions,
        })
    }
}

pub fn run(scenario: &Scenario, arm: &Arm, policy: &str) -> Result<Outcome> {
    let agent = match arm {
        Arm::Controlled => TestAgent::try_start_with_policy(policy, "")?,
        _ => TestAgent::try_start()?,
    };
    let measured = measure(&agent, scenario, arm);
    agent.finish();
    measured
}

fn measure(agent: &TestAgent, scenario: &Scenario, arm: &Arm) -> Result<Outcome> {
    if !scenario.server.is_empty() {
        agent.run_detached("victim", &[], scenario.server)?;
    }
    if scenario.work == Work::Sent {
        agent.run_detached("sink", &[], &["workload", "sink", "9000", "--tcp"])?;
    }
    let disk = disk_below(&agent.scratch).context("the scratch directory lies on no disk")?;
    let disk = disk.display().to_string();
    let fill = |words: &[&str]| -> Vec<String> {
        let address = |name: &str| match words.iter().any(|w| w.contains(&format!("{{{name}}}"))) {
            true => agent.address(if name == "server" { "victim" } else { name }),
            false => String::new(),
        };
        let (server, sink) = (address("server"), address("sink"));
        let filled = words.iter().map(|word| word.replace("{server}", &server));
        filled.map(|w| w.replace("{sink}", &sink).replace("{disk}", &disk)).collect()
    };
    let load = fill(scenario.load);
    let load: Vec<&str> = load.iter().map(String::as_str).collect();
    let (until, from) = (UNTIL.to_string(), FROM.to_string());
    let tail = ["--seconds", &until, "--from", &from, "--timeline"];
    let began = Instant::now();
    let client = agent
        .client(&[&["run", "--rm", "--name", "clients", "demo"], &load[..], &tail].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let at = |second: u64| {
        std::thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
    };
    let mut outcome = Outcome::default();
    at(CULPRIT_AT);
    if !matches!(arm, Arm::Alone) {
        let seconds = (UNTIL + RELEASE.as_secs()).to_string();
        let command = fill(scenario.culprit);
        let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
        command.extend(["--seconds", &seconds]);
        let limits = match arm {
            Arm::Static(limits) => fill(&limits.iter().map(String::as_str).collect::<Vec<_>>()),
            _ => Vec::new(),
        };
        let flags = scenario.flags.iter().copied().chain(limits.iter().map(String::as_str));
        agent.run_detached("culprit", &flags.collect::<Vec<_>>(), &command)?;
        let pid = agent.pid_of("culprit");
        at(FROM);
        let (work, own, since) =
            (work(scenario.work, pid)?, cpu_seconds(agent.pid())?, Instant::now());
        at(UNTIL);
        let seconds = since.elapsed().as_secs_f64();
        outcome.work_per_s = (self::work(scenario.work, pid)? - work) / seconds;
        outcome.agent_cores = (cpu_seconds(agent.pid())? - own) / seconds;
    }
    let output = client.wait_with_output()?;
    let ended = Instant::now();
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "clients: {}", String::from_utf8_lossy(&output.stderr));
    let felt: Value = serde_json::from_str(text.lines().last().context("clients said nothing")?)?;
    outcome.p99_us = felt["p99_us"].as_f64().context("p99_us")?;
    outcome.p50_us = felt["p50_us"].as_f64().context("p50_us")?;
    let seconds = felt["p99_us_by_second"].as_array().context("p99_us_by_second")?;
    outcome.by_second = seconds.iter().filter_map(Value::as_f64).collect();
    if matches!(arm, Arm::Controlled) {
        if !scenario.server.is_empty() {
            agent.run(&["rm", "-f", "victim"])?;
        }
        outcome.release_s = released_after(agent, ended);
        let text = agent.run(&["decisions", "--json"])?;
        outcome.decisions = serde_json::from_str(&text)?;
    }
    Ok(outcome)
}

/// Until the controller holds nobody any more.
fn released_after(agent: &TestAgent, since: Instant) -> Option<f64> {
    while since.elapsed() < RELEASE {
        if agent.metrics().sum("tenantry_controller_leases", &[]).unwrap_or(0.0) == 0.0 {
            return Some(since.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

fn work(work: Work, pid: u32) -> Result<f64> {
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    match work {
        Work::Cpu => cpu_seconds(pid),
        Work::Written => {
            let text = file("io")?;
            let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            Ok(line.context("write_bytes")?.parse()?)
        }
        Work::Sent => {
            let text = file("net/dev")?;
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
            let sent = line.context("eth0")?.split_whitespace().nth(8);
            Ok(sent.context("sent bytes")?.parse()?)
        }
    }
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let ticks = host::cpu_ticks(pid).context("the process has ended")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

//! One run: the victim alone for a while, then the culprit beside it, then the victim gone.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::{self, disk_below};
use tenantry_e2e::in_virtual_machine;

use super::disk;
use super::scenario::{Kind, Scenario, Work};

/// When the culprit begins, from the victim's first request on.
pub const CULPRIT_AT: u64 = 2;
/// So long after the harm begins it is measured: whoever helps has had the time.
const HELP_S: u64 = 5;
const MEASURED_S: u64 = 4;
/// With culprits so late nobody's work would be measured, and nobody's harm.
fn latest_s() -> f64 {
    // An emulated machine starts a container in seconds.
    if in_virtual_machine() { 4.0 } else { 2.0 }
}
const TRIES: usize = 3;
/// How long a released limit is waited for.
const RELEASE: Duration = Duration::from_secs(20);
/// Where nobody is guilty: how often it is asked whether somebody is named, and for how long.
const ASK_EVERY: Duration = Duration::from_secs(1);
const WINDOW: &str = "2s";

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
    /// The culprits' work a second: cores, or bytes.
    pub work_per_s: f64,
    /// From the victim's end until the culprit had all its limits back.
    pub release_s: Option<f64>,
    /// Until the victim's end.
    pub decisions: Vec<Value>,
    /// In how long.
    pub controlled_s: f64,
    /// How many there were from then on: the release.
    pub later_decisions: usize,
    /// Of one core, while the culprit ran.
    pub agent_cores: f64,
    /// Share of all CPU time that the hypervisor took meanwhile.
    pub steal: f64,
    /// How long after its time the last culprit began.
    pub late_s: f64,
    /// Answers to who is guilty, and those that named somebody.
    pub asked: usize,
    pub named: Vec<Value>,
}

impl Outcome {
    pub fn to_json(&self) -> Value {
        json!({
            "p50_us": self.p50_us, "p99_us": self.p99_us, "p99_us_by_second": self.by_second,
            "culprit_work_per_s": self.work_per_s, "release_s": self.release_s,
            "agent_cores": self.agent_cores, "steal": self.steal, "decisions": self.decisions,
            "later_decisions": self.later_decisions, "culprit_late_s": self.late_s, "asked": self.asked, "named": self.named,
        })
    }

    /// Decisions that limit somebody.
    pub fn acted(&self) -> usize {
        self.decisions.iter().filter(|decision| decision["kind"] == "tighten").count()
    }
}

/// Again where the host was too busy to begin in time.
pub fn run(scenario: &Scenario, arm: &Arm) -> Result<Outcome> {
    if scenario.work == Work::Touched {
        disk::bytes_per_s()?;
    }
    for _ in 0..TRIES {
        let agent = match arm {
            Arm::Controlled => TestAgent::try_start_with_policy(&scenario.policy(), "")?,
            _ => TestAgent::try_start()?,
        };
        let measured = Run { agent: &agent, scenario, arm }.measure();
        agent.finish();
        let outcome = measured?;
        if outcome.late_s < latest_s() {
            return Ok(outcome);
        }
        println!("  left out: culprits began {:.1} s late", outcome.late_s);
    }
    bail!("the host is too busy: culprits began late {TRIES} times in a row")
}

struct Run<'a> {
    agent: &'a TestAgent,
    scenario: &'a Scenario,
    arm: &'a Arm,
}

impl Run<'_> {
    fn measure(&self) -> Result<Outcome> {
        let Run { agent, scenario, arm } = *self;
        if let Some(bytes) = scenario.memory_bytes {
            agent.limit_memory(bytes)?;
        }
        if !scenario.server.is_empty() {
            agent.run_detached("victim", scenario.server_flags, scenario.server)?;
        }
        if scenario.work == Work::Sent {
            agent.run_detached("sink", &[], &["workload", "sink", "9000", "--tcp"])?;
        }
        let mut clients = self.clients()?;
        let mut outcome = Outcome::default();
        let began = Instant::now();
        let at = |second: u64| {
            std::thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
        };
        at(CULPRIT_AT);
        if !matches!(arm, Arm::Alone) {
            let pids = self.start_culprits()?;
            outcome.late_s = began.elapsed().as_secs_f64() - CULPRIT_AT as f64;
            if outcome.late_s >= latest_s() {
                return Ok(outcome);
            }
            at(scenario.from());
            let before = Counted::now(agent, scenario.work, &pids)?;
            while began.elapsed() < Duration::from_secs(scenario.until()) {
                if scenario.kind == Kind::NobodyGuilty {
                    self.ask(&mut outcome)?;
                    std::thread::sleep(ASK_EVERY);
                } else {
                    at(scenario.until());
                }
            }
            let after = Counted::now(agent, scenario.work, &pids)?;
            let seconds = (after.at - before.at).as_secs_f64();
            outcome.work_per_s = (after.work - before.work).max(0.0) / seconds;
            outcome.agent_cores = (after.own_cpu - before.own_cpu) / seconds;
            let cpus = std::thread::available_parallelism()?.get();
            outcome.steal = (after.steal - before.steal) / seconds / cpus as f64;
        }
        if let Some(clients) = &mut clients {
            clients.tell(&mut outcome)?;
        }
        let ended = Instant::now();
        if matches!(arm, Arm::Controlled) {
            outcome.decisions = decisions(agent)?;
            outcome.controlled_s = began.elapsed().as_secs_f64() - CULPRIT_AT as f64;
            if !scenario.server.is_empty() {
                agent.run(&["rm", "-f", "victim"])?;
            }
            outcome.release_s = released_after(agent, ended);
            outcome.later_decisions = decisions(agent)?.len() - outcome.decisions.len();
        }
        Ok(outcome)
    }

    /// Has made its first request.
    fn clients(&self) -> Result<Option<Clients>> {
        if self.scenario.load.is_empty() {
            return Ok(None);
        }
        let load = self.fill(self.scenario.load)?;
        let load: Vec<&str> = load.iter().map(String::as_str).collect();
        let (until, from) = (self.scenario.until().to_string(), self.scenario.from().to_string());
        let tail = ["--seconds", &until, "--from", &from, "--timeline"];
        let words = [&["run", "--rm", "--name", "clients", "demo"], &load[..], &tail].concat();
        let mut child = self
            .agent
            .client(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("clients' output")?);
        said.read_line(&mut String::new())?;
        Ok(Some(Clients { child, said }))
    }

    /// Their first processes.
    fn start_culprits(&self) -> Result<Vec<u32>> {
        let Run { agent, scenario, arm } = *self;
        let seconds = (scenario.until() + RELEASE.as_secs()).to_string();
        let command = self.fill(scenario.culprit)?;
        let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
        command.extend(["--seconds", &seconds]);
        let limits = match arm {
            Arm::Static(limits) => {
                self.fill(&limits.iter().map(String::as_str).collect::<Vec<_>>())?
            }
            _ => Vec::new(),
        };
        let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
        let (lasting, at_start) = match limits.contains(&"--for") {
            true => (limits, Vec::new()),
            false => (Vec::new(), limits),
        };
        let flags = [scenario.flags, &at_start].concat();
        let names: Vec<String> = (0..scenario.culprits).map(|n| format!("culprit{n}")).collect();
        for name in &names {
            agent.run_detached(name, &flags, &command)?;
            if !lasting.is_empty() {
                let words = [&["limit", name], &lasting[..]].concat();
                agent.run(&words)?;
            }
        }
        Ok(names.iter().map(|name| agent.pid_of(name)).collect())
    }

    /// Whom does the agent name? Victim and clients are one application.
    fn ask(&self, outcome: &mut Outcome) -> Result<()> {
        let answer: Value =
            serde_json::from_str(&self.agent.run(&["blame", "--json", "--window", WINDOW])?)?;
        let is_own = |who: &Value| who == "victim" || who == "clients";
        let others = |one: &&Value| !(is_own(&one["victim"]) && is_own(&one["culprit"]));
        let culprits = answer["culprits"].as_array().context("culprits")?;
        let named: Vec<Value> = culprits.iter().filter(others).cloned().collect();
        outcome.asked += 1;
        if !named.is_empty() {
            outcome.named.push(named.into());
        }
        Ok(())
    }

    fn fill(&self, words: &[&str]) -> Result<Vec<String>> {
        let agent = self.agent;
        let below = disk_below(&agent.scratch).context("the scratch directory lies on no disk")?;
        let filled = words.iter().map(|word| {
            Ok(match *word {
                "{server}:8080" => format!("{}:8080", agent.address("victim")),
                "{sink}:9000" => format!("{}:9000", agent.address("sink")),
                "{10%}" => (disk::bytes_per_s()? / 10).to_string(),
                "{25%}" => (disk::bytes_per_s()? / 4).to_string(),
                "{50%}" => (disk::bytes_per_s()? / 2).to_string(),
                word => word.replace("{disk}", &below.display().to_string()),
            })
        });
        filled.collect()
    }
}

/// In seconds from the victim's first request on.
impl Scenario {
    fn from(&self) -> u64 {
        CULPRIT_AT + self.harmless_s + HELP_S
    }

    /// What comes and goes takes longer to measure.
    fn until(&self) -> u64 {
        self.from() + MEASURED_S + self.harmless_s / 2
    }
}

struct Clients {
    child: std::process::Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Clients {
    /// Waits for their end.
    fn tell(&mut self, outcome: &mut Outcome) -> Result<()> {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.said, &mut text)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "clients: {status}");
        let last = text.lines().last().context("clients said nothing")?;
        let felt: Value = serde_json::from_str(last)?;
        outcome.p99_us = felt["p99_us"].as_f64().context("p99_us")?;
        outcome.p50_us = felt["p50_us"].as_f64().context("p50_us")?;
        let seconds = felt["p99_us_by_second"].as_array().context("p99_us_by_second")?;
        outcome.by_second = seconds.iter().filter_map(Value::as_f64).collect();
        Ok(())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn decisions(agent: &TestAgent) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&agent.run(&["decisions", "--json"])?)?)
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

/// Counters of one moment.
struct Counted {
    at: Instant,
    work: f64,
    own_cpu: f64,
    steal: f64,
}

impl Counted {
    fn now(agent: &TestAgent, work: Work, culprits: &[u32]) -> Result<Self> {
        // A culprit that the kernel has killed works no more.
        let is_there = |pid: &&u32| Path::new(&format!("/proc/{pid}/stat")).exists();
        let works = culprits.iter().filter(is_there).map(|pid| self::work(work, *pid));
        Ok(Self {
            at: Instant::now(),
            work: works.sum::<Result<f64>>()?,
            own_cpu: host::cpu_time(agent.pid()).context("the agent runs")?.as_secs_f64(),
            steal: seconds(host::steal_ticks().context("/proc/stat")?),
        })
    }
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
        Work::Touched => {
            let faults = host::minor_faults(pid).context("the process has ended")?;
            Ok(faults as f64 * rustix::param::page_size() as f64)
        }
    }
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(seconds(host::cpu_ticks(pid).context("the process has ended")?))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

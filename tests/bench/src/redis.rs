//! What all meters cost a real server: Debian's redis, asked by `redis-benchmark` for one
//! key, one command a round trip, both in one container, each on a CPU of its own.
//!
//! One server lives through the whole run. In each round every arm is measured once, in
//! an order that changes, and compared with the mean of right before and right after, where
//! no program of anybody's is in the kernel; that it is so, and that an arm's meters count,
//! is read from the container's own counters.
//!
//! Requests a second depend on what else the machine does, so the container's group goes
//! before everybody else's. A tracer that works outside the kernel (perf, strace) comes off
//! well by that: its own process has to wait.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;
use tenantry_ebpf::Floor;

use crate::order::shuffled;
use crate::peers::{PEERS, Peer, is_installed};
use crate::programs::{detach, load_anew};
use crate::spread::Spread;

const ROUNDS: usize = 9;
/// Enough for what costs more.
const PEER_ROUNDS: usize = 5;
/// Of each measurement, the best: what disturbs only takes away.
const RUNS: usize = 3;
/// About half a second of an untraced server.
const REQUESTS: u32 = 20_000;
/// Under a tracer that is slow.
const FEW_REQUESTS: u32 = 2_000;
/// What an agent does as it starts, its first look at everything, is not what its meters cost.
const SETTLING: Duration = Duration::from_secs(2);
const NAME: &str = "redis";
/// The server, and a shell that runs what it is told: a client that came in by `exec` would
/// have namespaces at addresses of its own, as no program of a container's own has.
const ENTRY_POINT: &str = "mkfifo /in /out; \
    taskset -c 0 redis-server --save '' --appendonly no --bind 127.0.0.1 & \
    while true; do sh -c \"$(cat /in)\" > /out 2>&1; done";
const READ: u32 = 0;

enum What {
    Meters {
        latency: bool,
    },
    /// Empty programs at these meters' hooks.
    Floor {
        latency: bool,
    },
    Peer(&'static Peer),
}

struct Arm {
    name: &'static str,
    what: What,
    shares: Vec<f64>,
}

pub fn run() -> Result<()> {
    println!(
        "redis GET, requests a second as a share of untraced (median [quartiles] of paired rounds)"
    );
    for program in ["redis-server", "redis-benchmark", "taskset"] {
        if !is_installed(program) {
            println!("  {program} is not installed");
            return Ok(());
        }
    }
    let mut arms = vec![
        Arm::new("all meters but latency", What::Meters { latency: false }),
        Arm::new("empty programs at the same hooks", What::Floor { latency: false }),
        Arm::new("all meters, latency 1 in 16", What::Meters { latency: true }),
        Arm::new("empty programs at the same hooks", What::Floor { latency: true }),
    ];
    for peer in PEERS {
        match peer.is_installed() {
            true => arms.push(Arm::new(peer.name, What::Peer(peer))),
            false => println!("  {}: not installed", peer.name),
        }
    }
    let mut server = Server::start()?;
    let mut bases = Vec::new();
    for round in 0..ROUNDS {
        let mut before = server.untraced()?;
        for index in shuffled(arms.len(), round) {
            let arm = &mut arms[index];
            if round >= arm.rounds() {
                continue;
            }
            let traced = server.measure(&arm.what).with_context(|| arm.name)?;
            let after = server.untraced()?;
            arm.shares.push(traced / ((before + after) / 2.0) * 100.0);
            bases.push(after);
            before = after;
        }
    }
    let shares = server.breakdown()?;
    server.agent.finish();
    let base = Spread::of(&bases).context("no rounds")?;
    println!("  {:46} {base:.0} requests a second", "untraced, in the container");
    for arm in &arms {
        println!("  {:46} {:.1} %", arm.name, Spread::of(&arm.shares).context("no rounds")?);
    }
    println!("  by the kernel's own clock, which adds to each run, latency 1 in 16:");
    for (program, runs, nanos) in shares {
        println!("    {program:44} {runs:5.2} runs, {nanos:6.1} ns a request");
    }
    Ok(())
}

impl Arm {
    fn new(name: &'static str, what: What) -> Self {
        Self { name, what, shares: Vec::new() }
    }

    fn rounds(&self) -> usize {
        match self.what {
            What::Meters { .. } | What::Floor { .. } => ROUNDS,
            What::Peer(_) => PEER_ROUNDS,
        }
    }
}

struct Server {
    agent: TestAgent,
    pid: u32,
    client_cpu: String,
}

fn config(latency: bool) -> String {
    format!("[meters]\nsyscall_latency = {latency}\n")
}

impl Server {
    /// The programs and their libraries are the host's, the loopback interface is the
    /// container's own. Without seccomp, whose cost is not the meters'.
    fn start() -> Result<Self> {
        let agent = TestAgent::try_start_with(&config(false))?;
        let binds = ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"];
        let flags = [&binds[..], &["--security-opt", "seccomp=unconfined"]].concat();
        agent.run_detached(NAME, &flags, &["sh", "-c", ENTRY_POINT])?;
        let pid = agent.native(NAME)["pid"].as_u64().context("the server has a process")?;
        let last_cpu = std::thread::available_parallelism()?.get() - 1;
        let server = Self { agent, pid: pid.try_into()?, client_cpu: last_cpu.to_string() };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.exec(&["redis-cli", "ping"]).is_ok_and(|answer| answer.contains("PONG")) {
            ensure!(Instant::now() < deadline, "redis does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.go_first()?;
        // The key that is asked for.
        server.requests_per_s("set", 1000)?;
        Ok(server)
    }

    /// Gives all the agent's containers together the most that a group can have.
    fn go_first(&self) -> Result<()> {
        let parent = &self.agent.cgroup_parent;
        let v1 = Path::new("/sys/fs/cgroup/cpu").join(parent).join("cpu.shares");
        let v2 = Path::new("/sys/fs/cgroup").join(parent).join("cpu.weight");
        let (path, most) = if v1.exists() { (v1, "262144") } else { (v2, "10000") };
        std::fs::write(&path, most).with_context(|| path.display().to_string())
    }

    fn exec(&self, command: &[&str]) -> Result<String> {
        self.agent.run(&[&["exec", NAME], command].concat())
    }

    fn best(&self, requests: u32) -> Result<f64> {
        (0..RUNS).try_fold(0.0, |best: f64, _| Ok(best.max(self.requests_per_s("get", requests)?)))
    }

    fn requests_per_s(&self, test: &str, requests: u32) -> Result<f64> {
        let requests = requests.to_string();
        let load = ["redis-benchmark", "-t", test, "-n", &requests, "-P", "1", "--csv"];
        let command = format!("taskset -c {} {}", self.client_cpu, load.join(" "));
        let text = self.exec(&["sh", "-c", "echo \"$0\" > /in; cat /out", &command])?;
        let name = format!("\"{}\"", test.to_uppercase());
        let fields = text.lines().find_map(|line| line.strip_prefix(&name)?.split('"').nth(1));
        Ok(fields.with_context(|| format!("no {name}: {text}"))?.parse()?)
    }

    fn untraced(&self) -> Result<f64> {
        detach(&self.agent, |_| true)?;
        let before = self.counted("tenantry_syscalls_total");
        let measured = self.best(REQUESTS)?;
        ensure!(before == self.counted("tenantry_syscalls_total"), "untraced calls were counted");
        Ok(measured)
    }

    fn counted(&self, name: &str) -> f64 {
        self.agent.metrics().sum(name, &[("name", NAME)]).unwrap_or(0.0)
    }

    /// Runs and ns a request of each program that takes part, the dearest first.
    fn breakdown(&mut self) -> Result<Vec<(String, f64, f64)>> {
        load_anew(&mut self.agent, &config(true))?;
        std::thread::sleep(SETTLING);
        let mut cost = self.agent.client(&["probes", "--cost", "--for", "500ms", "--json"]);
        let cost = cost.stdout(Stdio::piped()).spawn().context("tenantry probes")?;
        // Longer than the window, so that all of it is load.
        let per_s = self.requests_per_s("get", 5 * REQUESTS)?;
        let cost: Value = serde_json::from_slice(&cost.wait_with_output()?.stdout)?;
        let requests = per_s * cost["seconds"].as_f64().context("seconds")?;
        let mut rows = Vec::new();
        for program in cost["programs"].as_array().context("programs")? {
            let share = |field: &str| program[field].as_f64().unwrap_or(0.0) / requests;
            let name = program["name"].as_str().unwrap_or_default().to_owned();
            rows.push((name, share("runs"), share("run_ns")));
        }
        rows.retain(|(_, runs, _)| *runs >= 0.01);
        rows.sort_by(|a, b| b.2.total_cmp(&a.2));
        Ok(rows)
    }

    fn measure(&mut self, what: &What) -> Result<f64> {
        match *what {
            What::Meters { latency } => {
                load_anew(&mut self.agent, &config(latency))?;
                std::thread::sleep(SETTLING);
                let measured = self.best(REQUESTS)?;
                // Server and client read and write each request.
                let calls = self.counted("tenantry_syscalls_total");
                ensure!(
                    calls >= 4.0 * f64::from(REQUESTS) * RUNS as f64,
                    "only {calls} calls were counted"
                );
                let samples = self.counted("tenantry_syscall_duration_seconds_count");
                ensure!((samples > 0.0) == latency, "{samples} calls were timed");
                Ok(measured)
            }
            What::Floor { latency } => {
                // Each hook that a request comes by.
                let mut programs = vec!["empty_exit", "empty_switch", "empty_wakeup"];
                programs.extend(["empty_ingress", "empty_egress", "empty_socket"]);
                programs.extend(latency.then_some("empty_enter"));
                let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
                let mount = mounts.into_iter().find(|mount| mount.exists());
                let parent = mount.context("no cgroups")?.join(&self.agent.cgroup_parent);
                let _floor = Floor::attach(&programs, &parent)?;
                self.best(REQUESTS)
            }
            What::Peer(peer) => {
                let tracer = peer.start(self.pid)?;
                let requests = if peer.slow { FEW_REQUESTS } else { REQUESTS };
                let measured = self.best(requests);
                tracer.stop_having_seen("read", READ)?;
                measured
            }
        }
    }
}

//! What counting costs a system call: `getpid`, which does nothing else, in a
//! container and outside, with the agent, without it, and under bpftrace.
//!
//! Each round measures the untraced process again right before and after, and
//! compares with the mean of the two: the machine's speed drifts.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::{IMAGE, TestAgent};

use crate::spread::Spread;

const ROUNDS: usize = 9;
const CHUNKS: usize = 60;
const CALLS: u32 = 5000;

/// Nanoseconds of one call, the best of many chunks: what disturbs only adds.
pub fn measure_getpid() -> f64 {
    let chunk = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(rustix::process::getpid());
        }
        began.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..CHUNKS).map(|_| chunk()).fold(f64::INFINITY, f64::min)
}

pub fn run() -> Result<()> {
    println!("getpid, × an untraced process (median [quartiles] of {ROUNDS} paired rounds)");
    let config = |latency: bool| format!("[meters]\nsyscall_latency = {latency}\n");
    let counting = Agent::prepare(&config(false))?;
    report("counting, in a container", || counting.with(Agent::inside))?;
    report("counting, in no container", || counting.with(|_| outside()))?;
    let sampling = Agent::prepare(&config(true))?;
    report("counting and latency 1 in 16, in a container", || sampling.with(Agent::inside))?;
    report("counting and latency 1 in 16, in no container", || sampling.with(|_| outside()))?;
    let count = "tracepoint:raw_syscalls:sys_exit { @[cgroup, args->id] = count(); if (args->ret < 0) { @e[cgroup, args->id] = count(); } }";
    if Command::new("bpftrace").arg("--version").output().is_err() {
        println!("  bpftrace is not installed");
        return Ok(());
    }
    report("bpftrace: the same counts", || {
        let tracer = Tracer::start(count)?;
        let measured = outside();
        tracer.stop()?;
        measured
    })
}

fn report(what: &str, mut measure: impl FnMut() -> Result<f64>) -> Result<()> {
    let mut ratios = Vec::new();
    let mut added = Vec::new();
    for _ in 0..ROUNDS {
        let before = outside()?;
        let measured = measure()?;
        let base = (before + outside()?) / 2.0;
        ratios.push(measured / base);
        added.push(measured - base);
    }
    let (ratio, added) =
        (Spread::of(&ratios).context("no rounds")?, Spread::of(&added).context("no rounds")?);
    println!("  {what:46} × {ratio}   + {added:.0} ns");
    Ok(())
}

/// A fresh process, as every measured one is.
fn outside() -> Result<f64> {
    let program = std::env::current_exe()?;
    number(Command::new(program).arg("measure-getpid").output()?.stdout)
}

fn number(output: Vec<u8>) -> Result<f64> {
    let text = String::from_utf8(output)?;
    text.trim().parse().with_context(|| format!("no number: {text:?}"))
}

/// An agent that is started and ended within each round, so that "untraced" is.
struct Agent {
    config: String,
}

impl Agent {
    fn prepare(config: &str) -> Result<Self> {
        Ok(Self { config: config.into() })
    }

    fn with(&self, measure: impl FnOnce(&TestAgent) -> Result<f64>) -> Result<f64> {
        let agent = TestAgent::try_start_with(&self.config)?;
        let measured = measure(&agent);
        agent.finish();
        measured
    }

    fn inside(agent: &TestAgent) -> Result<f64> {
        let program = std::env::current_exe()?;
        let bind = format!("{}:/bench:ro", program.display());
        // Seccomp has a cost of its own, which is not the meters'.
        let flags = ["run", "--rm", "--security-opt", "seccomp=unconfined", "-v", &bind];
        number(
            agent.run(&[&flags[..], &[IMAGE, "/bench", "measure-getpid"]].concat())?.into_bytes(),
        )
    }
}

/// A peer that runs until it is told to print what it saw.
pub struct Tracer {
    child: Child,
}

impl Tracer {
    fn start(program: &str) -> Result<Self> {
        Self::start_command(&["bpftrace", "-e", program])
    }

    pub fn start_command(command: &[&str]) -> Result<Self> {
        // It wants tracefs, which is not mounted everywhere: mounted where it alone sees it.
        let script = "mount -t tracefs none /sys/kernel/tracing; \
                      mount -t debugfs none /sys/kernel/debug; exec \"$0\" \"$@\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .args(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // It says "Attaching" before and nothing after; the maps tell when it counts.
        std::thread::sleep(Duration::from_secs(2));
        ensure!(child.try_wait()?.is_none(), "{command:?} ended at once");
        Ok(Self { child })
    }

    pub fn stop(self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let output = self.child.wait_with_output()?;
        ensure!(!output.stdout.is_empty(), "the tracer counted nothing");
        Ok(())
    }
}

//! What counting costs a system call: `getpid`, which does nothing else, in a
//! container and outside, with the agent, without it, and under bpftrace.
//!
//! Each round measures the untraced process again right before and after, and
//! compares with the mean of the two: the machine's speed drifts.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::{IMAGE, TestAgent};

use crate::peers::{PEERS, Peer};
use crate::spread::Spread;

const ROUNDS: usize = 9;
const CHUNKS: usize = 60;
/// Under a tracer that is slow.
const FEW_CHUNKS: usize = 3;
const CALLS: u32 = 5000;
const GETPID: u32 = 39;

/// Nanoseconds of one call, the best of many chunks: what disturbs only adds. Begins when
/// told to on standard input, so that a tracer can be put on it, or when that ends.
pub fn measure_getpid(chunks: Option<&str>) -> Result<f64> {
    let chunks = chunks.map_or(Ok(CHUNKS), str::parse)?;
    std::io::stdin().read_line(&mut String::new())?;
    let chunk = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(rustix::process::getpid());
        }
        began.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    Ok((0..chunks).map(|_| chunk()).fold(f64::INFINITY, f64::min))
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
    for peer in PEERS {
        if !peer.is_installed() {
            println!("  {}: not installed", peer.name);
        } else if let Err(error) = report(peer.name, || under(peer)) {
            println!("  {}: left out: {error:#}", peer.name);
        }
    }
    Ok(())
}

/// A process that waits until the tracer is on it.
fn under(peer: &Peer) -> Result<f64> {
    let chunks = if peer.slow { FEW_CHUNKS } else { CHUNKS };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["measure-getpid", &chunks.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let tracer = peer.start(child.id());
    child.stdin.take().context("its input is a pipe")?.write_all(b"go\n")?;
    let output = child.wait_with_output()?;
    tracer?.stop_having_seen("getpid", GETPID)?;
    number(output.stdout)
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
    number(Command::new(program).arg("measure-getpid").stdin(Stdio::null()).output()?.stdout)
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

//! What counting costs a system call: `getpid`, which does nothing else, in a
//! container and outside, with the agent, without it, and under bpftrace. And what the audit's
//! default events cost who opens and closes a file in a loop: for reading, which the kernel
//! filters, and for writing, where each open is an event.
//!
//! Each round measures the untraced process again right before and after, and
//! compares with the mean of the two: the machine's speed drifts.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, Mode, OFlags};
use tenantry_e2e::agent::{IMAGE, TestAgent};

use crate::peers::{PEERS, Peer};
use crate::spread::Spread;

const ROUNDS: usize = 9;
const CHUNKS: usize = 60;
/// Under a tracer that is slow.
const FEW_CHUNKS: usize = 3;
const CALLS: u32 = 5000;
const GETPID: u32 = 39;

/// What is measured.
const GETPID_CALL: &str = "getpid";
const READING: &str = "openat-reading";
const WRITING: &str = "openat-writing";
/// Is there in each container, too, and takes whatever is done to it.
const OPENED: &str = "/dev/null";

/// Nanoseconds of one call (of `openat` and `close`, where it is these), the best of many
/// chunks: what disturbs only adds. Begins when told to on standard input, so that a tracer can
/// be put on it, or when that ends.
pub fn measure(call: &str, chunks: Option<&str>) -> Result<f64> {
    let chunks = chunks.map_or(Ok(CHUNKS), str::parse)?;
    std::io::stdin().read_line(&mut String::new())?;
    let open = |flags| -> Result<()> {
        let flags = flags | OFlags::CLOEXEC;
        // Closed as it is dropped.
        std::hint::black_box(rustix::fs::openat(CWD, OPENED, flags, Mode::empty())?);
        Ok(())
    };
    let once = || match call {
        READING => open(OFlags::RDONLY),
        WRITING => open(OFlags::WRONLY),
        _ => {
            std::hint::black_box(rustix::process::getpid());
            Ok(())
        }
    };
    let chunk = || -> Result<f64> {
        let began = Instant::now();
        for _ in 0..CALLS {
            once()?;
        }
        Ok(began.elapsed().as_nanos() as f64 / f64::from(CALLS))
    };
    (0..chunks).try_fold(f64::INFINITY, |best, _| Ok(best.min(chunk()?)))
}

pub fn run() -> Result<()> {
    println!("getpid, × an untraced process (median [quartiles] of {ROUNDS} paired rounds)");
    let config = |latency: bool| format!("[meters]\nsyscall_latency = {latency}\n");
    let counting = Agent::prepare(&config(false))?;
    let call = GETPID_CALL;
    report(call, "counting, in a container", || counting.with(|agent| inside(agent, call)))?;
    report(call, "counting, in no container", || counting.with(|_| outside(call)))?;
    let sampling = Agent::prepare(&config(true))?;
    report(call, "counting and latency 1 in 16, in a container", || {
        sampling.with(|agent| inside(agent, call))
    })?;
    report(call, "counting and latency 1 in 16, in no container", || {
        sampling.with(|_| outside(call))
    })?;
    for peer in PEERS {
        if !peer.is_installed() {
            println!("  {}: not installed", peer.name);
        } else if let Err(error) = report(call, peer.name, || under(peer)) {
            println!("  {}: left out: {error:#}", peer.name);
        }
    }
    println!("openat and close of {OPENED}, the default events on, × an untraced process");
    for (call, what) in [(READING, "for reading"), (WRITING, "for writing, each an event")] {
        report(call, &format!("{what}, in a container"), || {
            sampling.with(|agent| inside(agent, call))
        })?;
        report(call, &format!("{what}, in no container"), || sampling.with(|_| outside(call)))?;
    }
    Ok(())
}

/// A process that waits until the tracer is on it.
fn under(peer: &Peer) -> Result<f64> {
    let chunks = if peer.slow { FEW_CHUNKS } else { CHUNKS };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["measure", GETPID_CALL, &chunks.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let tracer = peer.start(child.id());
    child.stdin.take().context("its input is a pipe")?.write_all(b"go\n")?;
    let output = child.wait_with_output()?;
    tracer?.stop_having_seen("getpid", GETPID)?;
    number(output.stdout)
}

fn report(call: &str, what: &str, mut measure: impl FnMut() -> Result<f64>) -> Result<()> {
    let mut ratios = Vec::new();
    let mut added = Vec::new();
    for _ in 0..ROUNDS {
        let before = outside(call)?;
        let measured = measure()?;
        let base = (before + outside(call)?) / 2.0;
        ratios.push(measured / base);
        added.push(measured - base);
    }
    let (ratio, added) =
        (Spread::of(&ratios).context("no rounds")?, Spread::of(&added).context("no rounds")?);
    println!("  {what:46} × {ratio}   + {added:.0} ns");
    Ok(())
}

/// A fresh process, as every measured one is.
fn outside(call: &str) -> Result<f64> {
    let program = std::env::current_exe()?;
    number(Command::new(program).args(["measure", call]).stdin(Stdio::null()).output()?.stdout)
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
}

fn inside(agent: &TestAgent, call: &str) -> Result<f64> {
    let program = std::env::current_exe()?;
    let bind = format!("{}:/bench:ro", program.display());
    // Seccomp has a cost of its own, which is not the meters'.
    let flags = ["run", "--rm", "--security-opt", "seccomp=unconfined", "-v", &bind];
    number(agent.run(&[&flags[..], &[IMAGE, "/bench", "measure", call]].concat())?.into_bytes())
}

//! What the scheduler's programs cost where threads do nothing but switch: `perf bench
//! sched pipe`, two threads that hand a byte to and fro, in a container and outside, and
//! under the peers.
//!
//! A container's threads switch more slowly than the host's without any program (its
//! cgroups are deeper), so each place is its own measure: in each round one agent is
//! started, and programs are taken off the kernel between the measurements. Peers are
//! compared with the mean of right before and right after.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::TestAgent;

use crate::peers::{Tracer, is_installed};
use crate::programs::detach;
use crate::spread::Spread;

const ROUNDS: usize = 7;
/// Of each measurement, the best: what disturbs only adds.
const RUNS: usize = 10;
const PIPE: [&str; 6] = ["perf", "bench", "sched", "pipe", "-l", "5000"];
/// As libbpf-tools' runqlat: a hash by thread, waits by cgroup.
const BPFTRACE: &str = "tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @queued[args->pid] = nsecs; } \
     tracepoint:sched:sched_switch { if (args->prev_state == 0) { @queued[args->prev_pid] = nsecs; } \
     $q = @queued[args->next_pid]; if ($q) { @wait[cgroup] = hist(nsecs - $q); } delete(@queued[args->next_pid]); }";

/// Ratios to the same place without programs.
#[derive(Debug, Default)]
struct Ratios {
    scheduler_inside: Vec<f64>,
    scheduler_outside: Vec<f64>,
    all_inside: Vec<f64>,
    all_outside: Vec<f64>,
}

pub fn run() -> Result<()> {
    println!("perf bench sched pipe, × without programs (median [quartiles] of {ROUNDS} rounds)");
    if !is_installed("perf") {
        println!("  perf is not installed (linux-perf)");
        return Ok(());
    }
    let mut ratios = Ratios::default();
    for _ in 0..ROUNDS {
        round(&mut ratios)?;
    }
    print("scheduler meters alone, in a container", &ratios.scheduler_inside)?;
    print("scheduler meters alone, in no container", &ratios.scheduler_outside)?;
    print("all meters, in a container", &ratios.all_inside)?;
    print("all meters, in no container", &ratios.all_outside)?;
    beside("runqlat", &["runqlat", "1000"])?;
    beside("bpftrace: run-queue waits by cgroup", &["bpftrace", "-e", BPFTRACE])
}

fn print(what: &str, ratios: &[f64]) -> Result<()> {
    println!("  {what:46} × {}", Spread::of(ratios).context("no rounds")?);
    Ok(())
}

/// Everything on, then the scheduler's programs alone, then none.
fn round(ratios: &mut Ratios) -> Result<()> {
    let agent = TestAgent::try_start()?;
    let measured = in_one_agent(&agent);
    agent.finish();
    let [all, scheduler, none] = measured?;
    ratios.all_inside.push(all.inside / none.inside);
    ratios.all_outside.push(all.outside / none.outside);
    ratios.scheduler_inside.push(scheduler.inside / none.inside);
    ratios.scheduler_outside.push(scheduler.outside / none.outside);
    Ok(())
}

struct Places {
    inside: f64,
    outside: f64,
}

fn in_one_agent(agent: &TestAgent) -> Result<[Places; 3]> {
    // perf and its libraries are the host's.
    let binds = ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"];
    let flags = [&binds[..], &["--security-opt", "seccomp=unconfined"]].concat();
    agent.run_detached("pipe", &flags, &["sleep", "1000"])?;
    let places = || -> Result<Places> {
        let inside = best(|| agent.run(&[&["exec", "pipe"], &PIPE[..]].concat()))?;
        Ok(Places { inside, outside: outside()? })
    };
    let all = places()?;
    detach(agent, |link| !link.starts_with("link_scheduler") && !link.starts_with("link_thread"))?;
    let scheduler = places()?;
    detach(agent, |_| true)?;
    Ok([all, scheduler, places()?])
}

fn outside() -> Result<f64> {
    best(|| Ok(String::from_utf8(Command::new(PIPE[0]).args(&PIPE[1..]).output()?.stdout)?))
}

/// Microseconds of a round trip.
fn best(mut run: impl FnMut() -> Result<String>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        let text = run()?;
        let line = text.lines().find_map(|line| line.trim().strip_suffix(" usecs/op"));
        best = best.min(line.with_context(|| format!("no usecs/op: {text}"))?.parse()?);
    }
    ensure!(best.is_finite(), "nothing was measured");
    Ok(best)
}

fn beside(what: &str, tracer: &[&str]) -> Result<()> {
    if !is_installed(tracer[0]) {
        println!("  {} is not installed", tracer[0]);
        return Ok(());
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let before = outside()?;
        let tracer = Tracer::start(tracer)?;
        let traced = outside();
        ensure!(!tracer.stop()?.is_empty(), "{what} saw nothing");
        ratios.push(traced? / ((before + outside()?) / 2.0));
    }
    print(what, &ratios)
}

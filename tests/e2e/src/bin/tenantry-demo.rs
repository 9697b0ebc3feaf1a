//! `cargo xtask demo`: the main job on real containers, in under a minute.
//!
//! A request server and its load generator run alone; then a neighbour spins,
//! writes and sends beside them; then the neighbour is limited, live. Each phase
//! prints what the server's clients felt, and at the end what each container did,
//! as the kernel meters saw it.

use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::host::disk_below;

const PHASE_SECONDS: &str = "8";
const REQUESTS_PER_SECOND: &str = "400";
/// Rounds of hashing for each request: the server wants a third of a CPU.
const WORK: &str = "200000";

fn main() -> ExitCode {
    let keep = std::env::args().skip(1).any(|argument| argument == "--keep");
    let unknown = std::env::args().skip(1).find(|argument| argument != "--keep");
    let outcome = match unknown {
        Some(argument) => Err(anyhow::anyhow!("no such option: {argument}; there is --keep")),
        None => demonstrate(keep),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(keep: bool) -> Result<()> {
    if let Some(why) = tenantry_e2e::obstacle() {
        bail!("{why}");
    }
    let began = Instant::now();
    println!("starting an agent in a scratch directory, and making an image from busybox …");
    let mut agent = TestAgent::try_start()?;
    println!("  metrics: http://{}/metrics\n", agent.listen);
    agent.run_detached("server", &[], &["workload", "serve", "8080", "--work", WORK])?;
    agent.run_detached("sink", &[], &["workload", "sink", "9000"])?;
    let server = format!("{}:8080", agent.address("server"));

    let mut phases = Vec::new();
    phases.push(("alone", load(&agent, &server)?));
    let mut neighbour = noise(&agent)?;
    std::thread::sleep(Duration::from_secs(1));
    phases.push(("beside the neighbour", load(&agent, &server)?));
    let limits = limit(&agent)?;
    std::thread::sleep(Duration::from_secs(1));
    phases.push(("neighbour limited", load(&agent, &server)?));
    let stats = agent.run(&["stats", "--json"])?;

    println!("{:24}{:>10}{:>10}{:>10}{:>10}", "server, as felt", "p50", "p99", "max", "requests");
    for (name, latency) in &phases {
        let time = |field: &str| milliseconds(latency[field].as_u64());
        let answered = latency["requests"].as_u64().unwrap_or(0);
        println!(
            "{name:24}{:>10}{:>10}{:>10}{answered:>10}",
            time("p50_us"),
            time("p99_us"),
            time("max_us")
        );
    }
    println!(
        "\nlimits that were set on the neighbour while it ran, as the kernel reads them back:"
    );
    print!("{limits}");
    println!("\nwhat each container did, counted in the kernel:");
    for container in json(&stats).as_array().into_iter().flatten() {
        describe(container);
    }
    println!("\nmetrics: http://{}/metrics   (took {} s)", agent.listen, began.elapsed().as_secs());
    if keep {
        agent.keep();
        let program = tenantry_e2e::programs().join("tenantry");
        println!(
            "kept running. Look around:\n  export TENANTRY_RUN_DIR={}\n  {} ps\nend it:\n  {1} rm -f server sink noise; kill {}",
            agent.run_dir().display(),
            program.display(),
            agent.pid()
        );
        return Ok(());
    }
    let _ = neighbour.kill();
    neighbour.wait()?;
    agent.finish();
    println!("cleaned up: nothing of it is left on this host.");
    Ok(())
}

/// One phase: an open-loop load from a container of its own; what it felt.
fn load(agent: &TestAgent, server: &str) -> Result<Value> {
    let command = ["workload", "load", server, "--rate", REQUESTS_PER_SECOND];
    let seconds = ["--seconds", PHASE_SECONDS];
    let answer = agent
        .run(&[&["run", "--rm", "--name", "load", "demo"][..], &command, &seconds].concat())?;
    let line = answer.lines().last().context("the load generator said nothing")?;
    Ok(json(line))
}

/// Spins twice on every CPU, writes past the page cache, and sends as fast as it can.
fn noise(agent: &TestAgent) -> Result<Child> {
    let sink = format!("{}:9000", agent.address("sink"));
    let threads = (2 * std::thread::available_parallelism()?.get()).to_string();
    let command =
        ["workload", "noise", "--spin", &threads, "--write", "/data/noise", "--send", &sink];
    Ok(agent
        .client(
            &[&["run", "--rm", "--name", "noise", "demo"][..], &command, &["--seconds", "60"]]
                .concat(),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}

fn limit(agent: &TestAgent) -> Result<String> {
    let disk = disk_below(&agent.scratch).context("the scratch directory lies on no disk")?;
    let writes = format!("{}:4m", disk.display());
    let flags = ["--cpus", "0.1", "--io-write", &writes, "--egress", "20mbit"];
    agent.run(&[&["limit", "noise"][..], &flags].concat())
}

fn describe(container: &Value) {
    let number = |field: &str| container[field].as_u64().unwrap_or(0);
    let mebibytes = |field: &str| number(field) as f64 / f64::from(1 << 20);
    println!(
        "  {:8} CPU {:6.2} s   run queue p99 {:>9}   in {:7.1} MiB   out {:7.1} MiB   read {:6.1} MiB   written {:6.1} MiB",
        container["name"].as_str().unwrap_or_default(),
        number("cpu_usage_usec") as f64 / 1e6,
        milliseconds(container["run_queue_p99_ns"].as_u64().map(|ns| ns / 1000)),
        mebibytes("network_receive_bytes"),
        mebibytes("network_transmit_bytes"),
        mebibytes("disk_read_bytes"),
        mebibytes("disk_write_bytes"),
    );
    // The most frequent, and of the others those that failed.
    let calls = container["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (frequent, others) = calls.split_at(calls.len().min(4));
    let failed = others.iter().filter(|call| call["errors"].as_u64() > Some(0)).take(2);
    let syscalls: Vec<String> = frequent
        .iter()
        .chain(failed)
        .map(|call| {
            let errors = match call["errors"].as_u64() {
                Some(errors) if errors > 0 => format!(" ({errors} errors)"),
                _ => String::new(),
            };
            format!("{} {}{errors}", call["name"].as_str().unwrap_or_default(), call["count"])
        })
        .collect();
    println!("           {}", syscalls.join(", "));
}

fn milliseconds(microseconds: Option<u64>) -> String {
    microseconds.map_or("-".into(), |us| format!("{:.2} ms", us as f64 / 1000.0))
}

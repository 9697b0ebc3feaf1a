//! Two hundred containers of one image that stay: how long the last took beside the first,
//! what each takes beside its workload, and how soon a new agent has them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tenantry_e2e::agent::TestAgent;

use super::LIMITS;
use super::peers::{Docker, Podman};
use crate::spread::Spread;

const MANY: usize = 200;
/// The first and the last so many are compared: a single start says little.
const END: usize = 10;
/// Of each peer.
const FEW: usize = 10;
const RESTARTS: usize = 5;

/// What stays beside each container of a peer.
pub fn monitors(podman: &Podman, docker: Option<&Docker>) {
    println!("memory beside each container's workload, KiB (PSS)");
    let left_out = |error| println!("  left out: {error:#}");
    let _ = of_podman(podman).map_err(left_out);
    let _ = docker.map(of_docker).transpose().map_err(left_out);
}

fn of_podman(podman: &Podman) -> Result<()> {
    for number in 0..FEW {
        podman.detached(&format!("stays{number}"))?;
    }
    print_monitors("podman: conmon", &processes_with("conmon", &podman.root()));
    podman.clear()
}

fn of_docker(docker: &Docker) -> Result<()> {
    let before = sum_of_pss(&docker.daemons());
    for number in 0..FEW {
        docker.detached(&format!("stays{number}"))?;
    }
    let grown = sum_of_pss(&docker.daemons()).saturating_sub(before) / FEW as u64;
    print_monitors("docker: containerd-shim", &processes_with("containerd-shim", &docker.root()));
    println!("  {:52} {grown:.0}", "docker: growth of dockerd and containerd");
    docker.clear()
}

fn print_monitors(name: &str, pids: &[u32]) {
    let each: Vec<f64> = pids.iter().filter_map(|pid| pss(*pid)).map(|kib| kib as f64).collect();
    match Spread::of(&each) {
        Some(spread) => println!("  {name:52} {spread:.0} of {}", each.len()),
        None => println!("  {name:52} not found"),
    }
}

pub fn run(mut agent: TestAgent) -> Result<()> {
    let before = pss(agent.pid()).context("the agent runs")?;
    let mut times = Vec::new();
    for number in 0..MANY {
        let began = Instant::now();
        agent.run_detached(&format!("many{number}"), &LIMITS, &["sleep", "100000"])?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        if [FEW, MANY].contains(&(number + 1)) {
            let count = number + 1;
            let grown = pss(agent.pid()).context("the agent runs")?.saturating_sub(before);
            let workloads = (0..count).map(|number| agent.pid_of(&format!("many{number}")));
            let shims = workloads.map(parent).collect::<Result<Vec<u32>>>()?;
            print_monitors(&format!("tenantry: shim, {count} containers"), &shims);
            let name = format!("tenantry: the agent's growth, {count} containers");
            println!("  {name:52} {:.0} each", grown as f64 / count as f64);
        }
    }
    println!("{MANY} containers of one image, `run -d`, ms (median [quartiles])");
    let first = Spread::of(&times[..END]).context("no starts")?;
    let last = Spread::of(&times[MANY - END..]).context("no starts")?;
    println!("  the first {END}: {first:.1}; the last {END}: {last:.1}");
    println!("  the last beside the first: × {:.2}", last.median / first.median);
    restarts(&mut agent)?;
    agent.finish();
    Ok(())
}

fn restarts(agent: &mut TestAgent) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        let pid = agent.pid_of("many0");
        agent.kill_nine();
        let began = Instant::now();
        agent.spawn()?;
        let running = agent.run(&["ps", "-q"])?.lines().count();
        times.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(running == MANY, "{running} of {MANY} run");
        ensure!(agent.pid_of("many0") == pid, "it is another process now");
    }
    let spread = Spread::of(&times).context("no restarts")?;
    println!("killed with {MANY} running: the next one lists them all after {spread:.0} ms");
    Ok(())
}

/// Those whose program is called so and whose arguments name this path.
fn processes_with(program: &str, path: &std::path::Path) -> Vec<u32> {
    let path = path.to_string_lossy().into_owned();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let matches = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let of = line.split('\0').next().map(PathBuf::from).unwrap_or_default();
        let name = of.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(program) && line.contains(&path)
    };
    pids.filter(matches).collect()
}

fn parent(pid: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|pid| pid.trim().parse().ok()).context("no PPid")
}

fn sum_of_pss(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| pss(*pid)).sum()
}

/// The process' own memory and its part of what it shares, in KiB.
fn pss(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

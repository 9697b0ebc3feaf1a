//! From the command to the end of `/bin/true` in a container, removal included:
//! ours with overlay, network, seccomp, limits and tracing on; the peers as they
//! come: crun and runc bare (no image, no network), podman with everything.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde_json::{Value, json};
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::image;

use crate::spread::Spread;

const ROUNDS: usize = 30;
/// Slow ones need fewer to be told apart.
const SLOW_ROUNDS: usize = 8;

pub fn run() -> Result<()> {
    let agent = TestAgent::try_start()?;
    let limits = ["--cpus", "1", "--memory", "64m", "--pids", "64"];
    let full = agent_command(&agent, &limits, &["run", "--rm"]);
    let bare = agent_command(&agent, &[], &["run", "--rm", "--network", "none"]);
    let mut arms = vec![
        Arm::new("tenantry: overlay, network, seccomp, limits, meters", full, ROUNDS),
        Arm::new("tenantry: no network, no limits", bare, ROUNDS),
    ];
    let bundle = Bundle::make(&agent.scratch.join("bundle"))?;
    hide_hybrid_cgroups()?;
    for runtime in ["crun", "runc"] {
        let command = bundle.command(runtime);
        match check(&command) {
            Ok(()) => arms.push(Arm::new(&format!("{runtime} run, bare bundle"), command, ROUNDS)),
            Err(error) => println!("  {runtime}: left out: {error:#}"),
        }
    }
    let podman = podman(&bundle.rootfs, &agent.scratch);
    match check(&podman) {
        Ok(()) => arms.push(Arm::new("podman run --rm --rootfs, no network", podman, SLOW_ROUNDS)),
        Err(error) => println!("  podman: left out: {error:#}"),
    }
    // In turns, so that a slow minute slows all of them.
    for round in 0..ROUNDS {
        for arm in arms.iter_mut().filter(|arm| round < arm.rounds) {
            arm.times.push(time(&arm.command)?);
        }
    }
    println!("run /bin/true, from command to removal (median [quartiles], in turns)");
    let median = |arm: &Arm| Spread::of(&arm.times).map(|spread| spread.median);
    let ours = median(&arms[0]).context("no rounds")?;
    for arm in &arms {
        let spread = Spread::of(&arm.times).context("no rounds")?;
        println!("  {:52} {spread:.1} ms   ours is × {:.2} of it", arm.name, ours / spread.median);
    }
    where_the_time_goes(&agent, &limits)?;
    // Podman mounts its store upon itself and leaves it so.
    let _ = unmount(agent.scratch.join("podman/root/overlay"), UnmountFlags::DETACH);
    agent.finish();
    Ok(())
}

/// crun 1.8 refuses a host where cgroup v2 lies beside v1. In a mount namespace of
/// our own, which all arms then share, it does not see the one beside.
fn hide_hybrid_cgroups() -> Result<()> {
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).exists() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        unmount(unified, UnmountFlags::DETACH)?;
    }
    Ok(())
}

fn where_the_time_goes(agent: &TestAgent, limits: &[&str]) -> Result<()> {
    agent.run(
        &[&["run", "-d", "--name", "steps"][..], limits, &[IMAGE, "sleep", "1000"]].concat(),
    )?;
    let steps = agent.native("steps")["start_steps_usec"].take();
    println!("steps of one such start, in microseconds (steps of a stage run side by side):");
    for step in steps.as_array().into_iter().flatten() {
        println!("    {:24} {:>6}", step["name"].as_str().unwrap_or_default(), step["usec"]);
    }
    Ok(())
}

struct Arm {
    name: String,
    command: Vec<String>,
    rounds: usize,
    times: Vec<f64>,
}

impl Arm {
    fn new(name: &str, command: Vec<String>, rounds: usize) -> Self {
        Self { name: name.into(), command, rounds, times: Vec::new() }
    }
}

fn agent_command(agent: &TestAgent, limits: &[&str], verb: &[&str]) -> Vec<String> {
    let program = tenantry_e2e::programs().join("tenantry").display().to_string();
    let run_dir = agent.run_dir().display().to_string();
    let words = [&[program.as_str(), "--run-dir", &run_dir][..], verb, limits, &[IMAGE, "true"]];
    words.concat().iter().map(|word| (*word).to_owned()).collect()
}

fn time(command: &[String]) -> Result<f64> {
    let began = Instant::now();
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{}: {status}", command.join(" "));
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn check(command: &[String]) -> Result<()> {
    let output = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} is not installed", command[0]))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", error.lines().last().unwrap_or("it failed"));
    Ok(())
}

struct Bundle {
    directory: PathBuf,
    rootfs: PathBuf,
}

impl Bundle {
    fn make(directory: &Path) -> Result<Self> {
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(&rootfs)?;
        let tar = directory.join("rootfs.tar");
        image::write_rootfs(&tar)?;
        let unpacked = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&rootfs).status()?;
        ensure!(unpacked.success(), "tar: {unpacked}");
        let spec = Command::new("runc").arg("spec").current_dir(directory).status();
        ensure!(spec.is_ok_and(|status| status.success()), "runc spec (is runc installed?)");
        let path = directory.join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["process"]["terminal"] = json!(false);
        // This machine may not raise limits.
        spec["process"]["rlimits"] = json!([]);
        std::fs::write(&path, spec.to_string())?;
        Ok(Self { directory: directory.into(), rootfs })
    }

    fn command(&self, runtime: &str) -> Vec<String> {
        let bundle = self.directory.display().to_string();
        let words = [runtime, "run", "--bundle", &bundle, "tenantry-bench"];
        words.map(str::to_owned).into()
    }
}

fn podman(rootfs: &Path, scratch: &Path) -> Vec<String> {
    let (root, run) = (scratch.join("podman/root"), scratch.join("podman/run"));
    let (root, run) = (root.display().to_string(), run.display().to_string());
    let rootfs = rootfs.display().to_string();
    let words = [
        "podman",
        "--root",
        &root,
        "--runroot",
        &run,
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "--rm",
        "--network",
        "none",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1000:1000",
        "--rootfs",
        &rootfs,
        "/bin/true",
    ];
    words.map(str::to_owned).into()
}

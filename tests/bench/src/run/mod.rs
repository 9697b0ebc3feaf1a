//! Containers from their command to their end, beside peers: one after the other, fifty at
//! once, two hundred that stay, what each takes, and an agent that comes back to them.
//!
//! Ours have overlay, network, seccomp, limits and tracing on; crun and runc are bare (a
//! bundle, no image, no network), Podman has no network, Docker has its default bridge.

mod crowd;
mod many;
mod peers;
mod start;

use anyhow::Result;
use tenantry_e2e::agent::{IMAGE, TestAgent};

use peers::{Arm, Bundle, Docker, Podman};

const LIMITS: [&str; 6] = ["--cpus", "1", "--memory", "64m", "--pids", "64"];

pub fn run() -> Result<()> {
    let agent = TestAgent::try_start_with("max_containers = 250\n[foreign]\nmax = 5\n")?;
    let bundle = Bundle::make(&agent.scratch.join("bundle"))?;
    let podman = Podman::new(&agent.scratch.join("podman"), &bundle.rootfs);
    let docker = Docker::start(&bundle.tar);
    let docker = docker.inspect_err(|error| println!("  docker: left out: {error:#}")).ok();
    let mut arms = vec![
        Arm::new("tenantry: overlay, network, seccomp, limits, meters", ours(&agent, &LIMITS)),
        Arm::new("tenantry: no network, no limits", ours(&agent, &["--network", "none"])),
        bundle.steps("tenantry-runtime"),
        bundle.steps("crun"),
        bundle.run("crun"),
        bundle.steps("runc"),
        bundle.run("runc"),
        podman.run(),
    ];
    arms.extend(docker.as_ref().map(Docker::run));
    arms.retain(|arm| match arm.once() {
        Ok(_) => true,
        Err(error) => {
            println!("  {}: left out: {error:#}", arm.name);
            false
        }
    });
    let one_by_one = start::run(&arms)?;
    start::where_the_time_goes(&agent, &LIMITS)?;
    crowd::run(&arms, &one_by_one)?;
    many::monitors(&podman, docker.as_ref());
    drop((podman, docker));
    many::run(agent)
}

fn ours(agent: &TestAgent, flags: &[&str]) -> Vec<Vec<String>> {
    let program = tenantry_e2e::programs().join("tenantry").display().to_string();
    let run_dir = agent.run_dir().display().to_string();
    let words =
        [&[program.as_str(), "--run-dir", &run_dir, "run", "--rm"], flags, &[IMAGE, "true"]];
    vec![words.concat().iter().map(|word| (*word).to_owned()).collect()]
}

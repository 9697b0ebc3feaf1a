//! A client library of others, Docker's SDK for Python as Debian has it, against our socket.

use std::path::Path;
use std::process::Command;

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::skip_unless_possible;

const LIBRARY: &str = "/usr/lib/python3/dist-packages/docker";
/// Debian's own: another one that is first in the path has its own libraries.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn dockers_library_for_python_lives_a_containers_life() {
    skip_unless_possible!();
    if !Path::new(LIBRARY).exists() {
        println!("SKIPPED: {LIBRARY} is not there (Debian: python3-docker)");
        return;
    }
    let agent = TestAgent::start();
    let mut python = Command::new(PYTHON);
    python.arg("-c").arg(include_str!("python_client/life.py")).arg(agent.docker_socket());
    // No configuration of the person who runs the test.
    python.env("DOCKER_CONFIG", agent.scratch.join("docker")).env_remove("PYTHONPATH");
    let output = python.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.ends_with("whole\n"), "{text}\n{}", agent.log());
    agent.finish();
}

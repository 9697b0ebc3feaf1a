//! The stock `docker` client against a test's own agent.

use std::process::{Command, Output, Stdio};

use crate::agent::TestAgent;

/// Whether there is a client to test with.
pub fn is_installed() -> bool {
    Command::new("docker").arg("--version").output().is_ok()
}

/// A client's verb, ready to run, without input.
pub fn command(agent: &TestAgent, arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command
        .arg("-H")
        .arg(format!("unix://{}", agent.docker_socket().display()))
        .args(arguments)
        .stdin(Stdio::null())
        .env("DOCKER_BUILDKIT", "0")
        // No configuration of the person who runs the test.
        .env("DOCKER_CONFIG", agent.scratch.join("docker"));
    command
}

pub fn output(agent: &TestAgent, arguments: &[&str]) -> Output {
    command(agent, arguments).output().expect("docker runs")
}

/// A verb that must succeed; its standard output, without the last newline.
#[track_caller]
pub fn ok(agent: &TestAgent, arguments: &[&str]) -> String {
    let output = output(agent, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {error}{}", arguments.join(" "), agent.log());
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A verb that must fail; the client's complaint, without the last newline.
#[track_caller]
pub fn fails(agent: &TestAgent, arguments: &[&str]) -> String {
    let output = output(agent, arguments);
    assert!(!output.status.success(), "docker {} succeeded", arguments.join(" "));
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// Leaves a test that cannot run, and says why; the runner counts it as skipped.
#[macro_export]
macro_rules! skip_without_docker {
    () => {
        $crate::skip_unless_possible!();
        if !$crate::docker::is_installed() {
            println!("SKIPPED: no docker client is installed");
            return;
        }
    };
}

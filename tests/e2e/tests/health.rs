//! Health checks: of the command line and of an image, by the stock client.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{command, ok};
use tenantry_e2e::{skip_without_docker, until};

fn status(agent: &TestAgent, name: &str) -> String {
    let format = "{{if .State.Health}}{{.State.Health.Status}}{{end}}";
    ok(agent, &["inspect", "--format", format, name])
}

fn health(agent: &TestAgent, name: &str) -> Value {
    let text = ok(agent, &["inspect", "--format", "{{json .State.Health}}", name]);
    serde_json::from_str(&text).expect("JSON")
}

/// The client that listens, killed at the end of the test however it ends.
struct Listener(Child);

impl Listener {
    fn of(agent: &TestAgent) -> Self {
        let arguments = ["events", "--filter", "event=health_status", "--format", "{{.Action}}"];
        let child = command(agent, &arguments).stdout(Stdio::piped()).spawn();
        let listener = Listener(child.expect("docker runs"));
        // There is no word for "I am listening": the agent has it when it has the request.
        std::thread::sleep(std::time::Duration::from_millis(500));
        listener
    }

    fn end(mut self) -> Vec<String> {
        let _ = self.0.kill();
        let stdout = self.0.stdout.take().expect("a pipe");
        BufReader::new(stdout).lines().map_while(Result::ok).collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_container_is_starting_then_what_its_check_says() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let listener = Listener::of(&agent);
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        "echo looked; test -f /tmp/well",
        "--health-interval",
        "300ms",
        "--health-retries",
        "3",
        "--health-timeout",
        "5s",
        IMAGE,
        "sleep",
        "1000",
    ];
    ok(&agent, &run);
    assert_eq!(status(&agent, "web"), "starting");
    assert!(ok(&agent, &["ps"]).contains("(health: starting)"));
    until("it is unhealthy", || status(&agent, "web") == "unhealthy");
    assert!(ok(&agent, &["ps"]).contains("(unhealthy)"));
    let told = health(&agent, "web");
    assert!(told["FailingStreak"].as_u64().unwrap() >= 3, "{told}");
    let last = told["Log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["ExitCode"].as_i64(), last["Output"].as_str()), (Some(1), Some("looked\n")));
    ok(&agent, &["exec", "web", "touch", "/tmp/well"]);
    until("it is healthy", || status(&agent, "web") == "healthy");
    assert_eq!(health(&agent, "web")["FailingStreak"], 0);
    assert_eq!(ok(&agent, &["ps", "-q", "--filter", "health=healthy"]).lines().count(), 1);
    assert_eq!(ok(&agent, &["ps", "-q", "--filter", "health=unhealthy"]), "");
    // No more than five are kept, however long it runs.
    until("there were many", || health(&agent, "web")["Log"].as_array().unwrap().len() == 5);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(health(&agent, "web")["Log"].as_array().unwrap().len(), 5);
    // One that stands still is not asked.
    ok(&agent, &["pause", "web"]);
    let newest = |agent: &TestAgent| health(agent, "web")["Log"][4]["Start"].clone();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = newest(&agent);
    std::thread::sleep(std::time::Duration::from_millis(900));
    assert_eq!(newest(&agent), before);
    ok(&agent, &["unpause", "web"]);
    until("it is asked again", || newest(&agent) != before);
    ok(&agent, &["restart", "-t", "0", "web"]);
    // The file is in its layer, and a start begins anew.
    until("it is healthy again", || status(&agent, "web") == "healthy");
    let events = listener.end();
    let expected = ["health_status: unhealthy", "health_status: healthy", "health_status: healthy"];
    assert_eq!(events, expected);
    ok(&agent, &["rm", "-f", "web"]);
    agent.finish();
}

#[test]
fn a_check_that_takes_too_long_is_ended_and_has_failed() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        "exec sleep 4321",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "1",
        IMAGE,
        "sleep",
        "1000",
    ];
    ok(&agent, &run);
    until("it is unhealthy", || status(&agent, "web") == "unhealthy");
    let last = health(&agent, "web")["Log"][0].clone();
    assert_eq!(last["ExitCode"], -1);
    assert!(last["Output"].as_str().unwrap().contains("exceeded timeout"), "{last}");
    let probes = || {
        let top = ok(&agent, &["top", "web"]);
        top.lines().filter(|line| line.contains("sleep 4321")).count()
    };
    // At most the one that runs now, and one that begins.
    until("those before are gone", || probes() <= 2);
    ok(&agent, &["stop", "-t", "0", "web"]);
    agent.finish();
}

#[test]
fn an_images_check_holds_unless_it_is_switched_off() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let directory = agent.scratch.join("context");
    std::fs::create_dir(&directory).unwrap();
    let text = format!(
        "FROM {IMAGE}\nHEALTHCHECK --interval=200ms --retries=1 CMD [\"test\", \"-f\", \"/data/well\"]\nCMD [\"sleep\", \"1000\"]\n"
    );
    std::fs::write(directory.join("Dockerfile"), text).unwrap();
    let built = command(&agent, &["build", "-q", "-t", "checked", directory.to_str().unwrap()])
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    ok(&agent, &["run", "-d", "--name", "web", "checked"]);
    until("it is unhealthy", || status(&agent, "web") == "unhealthy");
    ok(&agent, &["run", "-d", "--name", "other", "--no-healthcheck", "checked"]);
    assert_eq!(status(&agent, "other"), "");
    // The next agent goes on asking.
    ok(&agent, &["exec", "web", "touch", "/data/well"]);
    agent.kill_nine();
    agent.spawn().unwrap();
    until("it is healthy", || status(&agent, "web") == "healthy");
    assert_eq!(status(&agent, "other"), "");
    ok(&agent, &["rm", "-f", "web", "other"]);
    agent.finish();
}

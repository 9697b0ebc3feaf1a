//! Rules over audit events, on real containers: what matches is a line of the audit file, an
//! event of the stream and a count; files that are wrong change nothing.

use std::path::Path;

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

const OWN: &str = r#"disable = ["exec_from_temporary"]

[[rule]]
name = "true_runs"
description = "Somebody runs true"
severity = "critical"
kinds = ["exec"]
condition = 'process.executable = "/bin/true" and container.image.name startswith "demo"'
rate = "1/h"
"#;

/// Alerts in the audit file, of a container and a rule.
fn alerts(agent: &TestAgent, container: &str, rule: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap();
    text.lines()
        .map(json)
        .filter(|event| event["event"]["action"] == "alert")
        .filter(|event| event["container"]["name"] == container && event["rule"]["name"] == rule)
        .collect()
}

fn count(agent: &TestAgent, family: &str, rule: &str) -> Option<f64> {
    agent.metrics().sum(&format!("tenantry_rule_{family}_total"), &[("rule", rule)])
}

fn start(file: &Path, mut agent: TestAgent) -> TestAgent {
    std::fs::write(file, OWN).unwrap();
    agent.configure(&format!("[rules]\nfiles = [\"{}\"]\n", file.display())).unwrap();
    agent.spawn_with_image().unwrap();
    agent
}

#[test]
fn a_shell_in_a_container_is_an_alert_in_file_chain_stream_and_metric() {
    skip_unless_possible!();
    let agent = TestAgent::prepare().unwrap();
    let agent = start(&agent.scratch.join("own.toml"), agent);
    assert_eq!(count(&agent, "matches", "shell_in_container"), Some(0.0), "before the first");
    let heard = agent.scratch.join("heard.jsonl");
    let out = std::fs::File::create(&heard).unwrap();
    let arguments = ["events", "--json", "--kind", "alert"];
    let mut stream = agent.client(&arguments).stdout(out).spawn().unwrap();
    let streamed = || std::fs::read_to_string(&heard).unwrap();
    until("the stream to be open", || {
        agent.ok(&["run", "--rm", "--name", "probe", IMAGE, "sh", "-c", ":"]);
        !streamed().is_empty()
    });
    let before = count(&agent, "matches", "shell_in_container").unwrap();

    agent.ok(&["run", "--name", "web", IMAGE, "sh", "-c", "/bin/true; /bin/true; /bin/true"]);
    until("the alert is in the file", || !alerts(&agent, "web", "shell_in_container").is_empty());
    until("three matches are counted", || count(&agent, "matches", "true_runs") == Some(3.0));
    let shell = &alerts(&agent, "web", "shell_in_container");
    assert_eq!(shell.len(), 1, "{shell:?}");
    let alert = &shell[0];
    println!("{alert}");
    assert_eq!(alert["rule"]["severity"], "notice");
    assert_eq!(alert["rule"]["action"], "exec");
    assert_eq!(alert["process"]["executable"], "/bin/sh");
    assert_eq!(alert["process"]["container_pid"], 1);
    assert_eq!(count(&agent, "matches", "shell_in_container"), Some(before + 1.0));
    // Of the three a rate of one in an hour lets one through.
    assert_eq!(alerts(&agent, "web", "true_runs").len(), 1);
    assert_eq!(count(&agent, "suppressed", "true_runs"), Some(2.0));
    assert_eq!(count(&agent, "matches", "exec_from_temporary"), None, "it is switched off");
    until("the stream has it", || streamed().contains("\"web\""));
    stream.kill().unwrap();
    stream.wait().unwrap();

    // It has its place in the chain, and the account of events stays exact.
    agent.ok(&["audit", "verify", agent.data_dir().join("audit.jsonl").to_str().unwrap()]);
    let execs = |family: &str| {
        let labels = [("name", "web"), ("kind", "exec")];
        agent.metrics().sum(&format!("tenantry_events_{family}_total"), &labels)
    };
    until("four execs are delivered", || execs("delivered") == Some(4.0));
    assert_eq!(execs("produced"), Some(4.0));
    agent.ok(&["rm", "web"]);
    agent.finish();
}

#[test]
fn wrong_rules_are_told_with_their_place_and_the_old_ones_stay() {
    skip_unless_possible!();
    let agent = TestAgent::prepare().unwrap();
    let file = agent.scratch.join("own.toml");
    let agent = start(&file, agent);
    let path = file.to_str().unwrap();
    let wrong = OWN.replace("process.executable", "process.executed").replace("1/h", "often");
    std::fs::write(&file, wrong).unwrap();
    let expected = [
        format!("{path}:8:14: process.executed is no field; process.executable is one"),
        format!("{path}:9:8: rate = \"often\": a number and s, min, h or d"),
    ];
    for verb in [&["rules", "reload"][..], &["rules", "check", path]] {
        let (_, told) = agent.fails(verb);
        assert!(expected.iter().all(|line| told.contains(line)), "{verb:?}: {told}");
    }
    let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the agent to log it", || agent.log().contains("the old rules stay"));

    agent.ok(&["run", "--rm", "--name", "one", IMAGE, "/bin/true"]);
    until("the old rule to match", || alerts(&agent, "one", "true_runs").len() == 1);

    std::fs::write(&file, OWN.replace("/bin/true", "/bin/false")).unwrap();
    let told = agent.ok(&["rules", "reload"]);
    assert!(told.contains(path), "{told}");
    let shown = json(&agent.ok(&["rules", "show", "true_runs", "--json"]));
    assert!(shown["rules"][0]["condition"].as_str().unwrap().contains("/bin/false"), "{shown}");
    assert_eq!(shown["rules"][0]["matches"], 1, "it goes on counting");
    agent.ok(&["run", "--rm", "--name", "two", IMAGE, "/bin/true"]);
    agent.output(&["run", "--rm", "--name", "three", IMAGE, "/bin/false"]);
    until("the new rule to match", || alerts(&agent, "three", "true_runs").len() == 1);
    assert!(alerts(&agent, "two", "true_runs").is_empty());
    agent.finish();
}

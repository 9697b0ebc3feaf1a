//! Which audit events a container has is its own choice, kept over restarts of container and
//! agent; what the choice leaves out is counted.

use serde_json::Value;
use tenantry_e2e::agent::{self, TestAgent};
use tenantry_e2e::{skip_unless_possible, until};

/// Opens a file for writing, which is an event by default, each time it is told to.
const SCRIPT: &str = "while read line; do echo x > /tmp/written-$line; done < /tmp/orders";

fn opens_of(agent: &TestAgent, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(agent::json).collect();
    let of = |line: &&Value| line["event"]["action"] == "open" && line["container"]["name"] == name;
    let path = |line: &Value| line["file"]["path"].as_str().unwrap_or_default().to_owned();
    let paths = lines.iter().filter(of).map(path);
    paths.filter(|path| path.starts_with("/tmp/written-")).collect()
}

/// The container opens `/tmp/written-ORDER` for writing, and has done it.
fn order(agent: &TestAgent, order: &str) {
    let script = format!(
        "echo {order} > /tmp/orders; while ! [ -e /tmp/written-{order} ]; do sleep 0.05; done"
    );
    agent.ok(&["exec", "web", "sh", "-c", &script]);
}

fn filtered(agent: &TestAgent) -> u64 {
    let metrics = agent.metrics();
    let labels = [("name", "web"), ("kind", "open")];
    metrics.sum("tenantry_events_filtered_total", &labels).unwrap_or(0.0) as u64
}

#[test]
fn a_containers_own_choice_of_events_holds_over_restarts_until_it_is_taken_back() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let script = format!("[ -e /tmp/orders ] || mkfifo /tmp/orders; while true; do {SCRIPT}; done");
    agent.run_detached("web", &[], &["sh", "-c", &script]).unwrap();
    order(&agent, "default");
    until("an open for writing is a line", || opens_of(&agent, "web") == ["/tmp/written-default"]);

    let chosen = agent::json(&agent.ok(&["audit", "filter", "web", "--kinds", "exec,exit"]));
    assert_eq!(chosen["own"]["kinds"], serde_json::json!(["exec", "exit"]));
    assert_eq!(chosen["filter"]["opens"], serde_json::json!(["write", "denied"]), "as for all");
    let before = filtered(&agent);
    order(&agent, "chosen");
    until("what is left out is counted", || filtered(&agent) > before);
    let error = agent.fails(&["audit", "filter", "web", "--kinds", "dance"]).1;
    assert!(
        error.contains("kinds") && error.contains("dance") && error.contains("exec"),
        "{error}"
    );

    agent.ok(&["stop", "-t", "0", "web"]);
    agent.ok(&["start", "web"]);
    order(&agent, "restarted");
    agent.kill_nine();
    agent.spawn().unwrap();
    let kept = agent::json(&agent.ok(&["audit", "filter", "web"]));
    assert_eq!(kept, chosen);
    order(&agent, "adopted");

    let reset = agent::json(&agent.ok(&["audit", "filter", "web", "--reset"]));
    assert_eq!(reset["own"], Value::Null);
    order(&agent, "reset");
    let expected = ["/tmp/written-default", "/tmp/written-reset"];
    until("the last open is a line", || opens_of(&agent, "web").len() >= 2);
    assert_eq!(opens_of(&agent, "web"), expected);
    agent.finish();
}

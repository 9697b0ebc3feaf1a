//! A child that the kernel kills for want of memory while the container's first process
//! goes on: counted, and told with evidence.

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

#[test]
fn a_killed_child_is_counted_and_its_evidence_kept_while_the_container_lives() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload memory --bytes 200m; echo over; sleep 1000";
    agent.run_detached("hog", &["--memory", "64m"], &["sh", "-c", script]).unwrap();
    until("the child was killed", || agent.ok(&["logs", "hog"]).contains("over"));
    let events = || -> Vec<Value> {
        let text =
            std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(json).filter(|event| event["event"]["action"] == "oom").collect()
    };
    until("the event is in the audit file", || !events().is_empty());
    let events = events();
    println!("{events:?}");
    assert_eq!(events.len(), 1);
    let (event, oom) = (&events[0], &events[0]["oom"]);
    let process = &event["process"];
    assert_eq!(
        (&event["container"]["name"], &process["name"]),
        (&"hog".into(), &"workload".into())
    );
    assert_eq!(oom["limit_bytes"], 64 << 20);
    // Under the limit lie page tables, the shell and the kernel's slack as well.
    let anonymous = oom["anon_bytes"].as_u64().unwrap();
    assert!(((48 << 20)..=(64 << 20)).contains(&anonymous), "{anonymous}");
    assert_eq!(oom["trigger_pid"], process["pid"]);
    let first = agent.native("hog")["pid"].clone();
    assert_eq!(process["parent"]["pid"], first);
    let neighbours = oom["neighbours"].as_array().unwrap();
    let shell = neighbours.iter().find(|neighbour| neighbour["pid"] == first);
    assert_eq!(shell.expect("the shell is named")["comm"], "sh", "{neighbours:?}");

    assert_eq!(agent.state("hog"), "running");
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("container_oom_events_total", &[("name", "hog")]), Some(1.0));
    for (family, expected) in [("produced", 1.0), ("delivered", 1.0), ("lost", 0.0)] {
        let labels = [("name", "hog"), ("kind", "oom")];
        let name = format!("tenantry_events_{family}_total");
        assert_eq!(metrics.sum(&name, &labels), Some(expected), "{family}");
    }
    let stats = agent.stats("hog");
    assert_eq!((&stats["oom_kills"], &stats["ooms"]["produced"]), (&1.into(), &1.into()));

    // Removed, its last values linger, this one among them.
    agent.ok(&["rm", "-f", "hog"]);
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("tenantry_container_running", &[("name", "hog")]), None);
    assert_eq!(metrics.sum("container_oom_events_total", &[("name", "hog")]), Some(1.0));
    let produced = [("name", "hog"), ("kind", "oom")];
    assert_eq!(metrics.sum("tenantry_events_produced_total", &produced), Some(1.0));
    agent.finish();
}

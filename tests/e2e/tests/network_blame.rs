//! Who keeps whose packets waiting, from the kernel to the command line: containers behind one
//! bridge, and an uplink that is slower than they are.

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::uplink::{FAR, Uplink};
use tenantry_e2e::{patience, skip_unless_possible, until};

/// Seconds per second that `victim` waited for the network, by kind of culprit.
fn wait(answer: &Value, victim: &str, kind: &str) -> f64 {
    let waits = answer["waits"].as_array().unwrap().iter();
    let of_kind = waits.filter(|wait| {
        wait["victim"] == victim && wait["resource"] == "network" && wait["culprit_kind"] == kind
    });
    of_kind.map(|wait| wait["ratio"].as_f64().unwrap()).sum()
}

fn culprits<'a>(answer: &'a Value, victim: &str) -> Vec<&'a str> {
    let found = answer["culprits"].as_array().unwrap().iter();
    let of_victim = found.filter(|one| one["victim"] == victim && one["resource"] == "network");
    of_victim.map(|one| one["culprit"].as_str().unwrap()).collect()
}

#[test]
fn a_neighbour_that_fills_the_uplink_is_named() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let mut uplink = Uplink::create("tbf rate 20mbit burst 8000 limit 300000");
    uplink.serve(9000, "sink 9000 --tcp");
    uplink.serve(9001, "accept 9001 --count 1000000 --bytes 1");
    let small = format!("workload connections --to {FAR}:9001 --count 1000000 --bytes 100");
    agent.run_detached("victim", &[], &small.split(' ').collect::<Vec<_>>()).unwrap();
    agent.run_detached("quiet", &[], &["sleep", "1000"]).unwrap();
    std::thread::sleep(patience(3));
    // Alone: packets pass at once, and nobody is in the way.
    let alone = json(&agent.ok(&["blame", "--json", "--window", "2s"]));
    assert_eq!(wait(&alone, "victim", "container"), 0.0, "{alone:#}");
    assert_eq!(culprits(&alone, "victim"), Vec::<&str>::new(), "{alone:#}");

    let bulk = format!("workload stream --to {FAR}:9000 --seconds 1000");
    agent.run_detached("bulk", &[], &bulk.split(' ').collect::<Vec<_>>()).unwrap();
    std::thread::sleep(patience(5));
    // One stream's queue runs empty for a moment when it lost something.
    until("a queue stands", || uplink.backlog_bytes() > 10_000);
    let answer = json(&agent.ok(&["blame", "--json", "--window", "3s"]));
    let all: f64 = ["container", "self", "host", "quota", "unexplained"]
        .iter()
        .map(|kind| wait(&answer, "victim", kind))
        .sum();
    let by_neighbour = wait(&answer, "victim", "container");
    println!("the victim waited for {all:.3} s/s, {by_neighbour:.3} of them for the neighbour");
    assert_eq!(culprits(&answer, "victim"), ["bulk"], "{answer:#}");
    assert!((0.3..1.02).contains(&all), "{answer:#}");
    assert!(by_neighbour > 0.9 * all, "{answer:#}");
    let is_quiet = |one: &Value| one["victim"] == "quiet" || one["culprit"] == "quiet";
    assert!(!answer["waits"].as_array().unwrap().iter().any(is_quiet), "{answer:#}");
    let own = wait(&answer, "bulk", "self");
    assert!((0.5..1.02).contains(&own), "the bulk stream stands in its own way: {answer:#}");
    assert_eq!(culprits(&answer, "bulk"), Vec::<&str>::new(), "{answer:#}");

    let table = agent.ok(&["blame"]);
    println!("{table}");
    assert!(table.contains("bulk keeps victim waiting for network"), "{table}");
    let pair = [("victim", "victim"), ("culprit", "bulk"), ("resource", "network")];
    let shown = agent.metrics().sum("tenantry_blame_seconds_total", &pair).expect("a series");
    assert!(shown > 0.3, "{shown} s");
    agent.finish();
}

#[test]
fn a_limit_of_its_own_makes_no_culprit() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let mut uplink = Uplink::create("tbf rate 50mbit burst 8000 limit 300000");
    uplink.serve(9000, "sink 9000 --tcp");
    let bulk = format!("workload stream --to {FAR}:9000 --seconds 1000");
    let flags = ["--egress", "5mbit"];
    agent.run_detached("limited", &flags, &bulk.split(' ').collect::<Vec<_>>()).unwrap();
    std::thread::sleep(patience(5));
    let answer = json(&agent.ok(&["blame", "--json", "--window", "3s"]));
    println!("{answer:#}");
    assert!((0.5..1.02).contains(&wait(&answer, "limited", "quota")), "{answer:#}");
    assert_eq!(answer["culprits"].as_array().unwrap().len(), 0, "{answer:#}");
    agent.finish();
}

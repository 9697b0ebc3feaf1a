//! Who keeps whom waiting, from the kernel to the command line: two containers on one CPU.

use std::process::Command;
use std::time::Instant;

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{patience, skip_unless_possible};

/// Binds a container's only process to a CPU, from outside.
fn bind(agent: &TestAgent, name: &str, mask: &str) {
    let pid = agent.pid_of(name).to_string();
    let done = Command::new("taskset").args(["-p", mask, &pid]).output().expect("taskset");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Seconds that a container's first process waited for a CPU, as the kernel accounts it.
fn run_delay(agent: &TestAgent, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/schedstat", agent.pid_of(name))).unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e9
}

const SPIN: &str = "while :; do :; done";

#[test]
fn a_neighbour_that_spins_on_the_same_cpu_is_named() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    assert!(agent.ok(&["blame"]).contains("nobody waited"), "{}", agent.ok(&["blame"]));
    for name in ["victim", "batch", "quiet"] {
        let command = if name == "quiet" { "sleep 1000" } else { SPIN };
        agent.run_detached(name, &[], &["sh", "-c", command]).unwrap();
        bind(&agent, name, "1");
    }
    // What began before they were bound is over.
    std::thread::sleep(patience(3));
    let (delay, began) = (run_delay(&agent, "victim"), Instant::now());
    std::thread::sleep(patience(5));
    let delayed = run_delay(&agent, "victim") - delay;
    let seconds = began.elapsed().as_secs().clamp(1, 100);
    let answer = json(&agent.ok(&["blame", "--json", "--window", &format!("{seconds}s")]));
    let waits = answer["waits"].as_array().unwrap();
    let of_victim = || waits.iter().filter(|wait| wait["victim"] == "victim");
    let sum: f64 = of_victim().map(|wait| wait["seconds"].as_f64().unwrap()).sum();
    let covered = answer["seconds"].as_f64().unwrap();
    println!("{delayed:.3} s of run delay in {seconds} s; {sum:.3} s blamed in {covered:.3} s");
    let (kernels, ours) = (delayed / began.elapsed().as_secs_f64(), sum / covered);
    assert!((ours / kernels - 1.0).abs() < 0.2, "{ours} s/s against the kernel's {kernels} s/s");
    let culprits = answer["culprits"].as_array().unwrap();
    let named = |victim: &str| culprits.iter().find(|one| one["victim"] == victim);
    assert_eq!(named("victim").expect("a culprit")["culprit"], "batch", "{answer:#}");
    assert_eq!(named("batch").expect("a culprit")["culprit"], "victim", "{answer:#}");
    assert!(culprits.iter().all(|one| one["culprit"] != "quiet" && one["victim"] != "quiet"));

    let table = agent.ok(&["blame"]);
    println!("{table}");
    assert!(table.contains("batch keeps victim waiting for cpu"), "{table}");
    assert!(!table.contains('\x1b'), "no colours but on a terminal");

    let pair = [("victim", "victim"), ("culprit", "batch"), ("resource", "cpu")];
    let shown = agent.metrics().sum("tenantry_blame_seconds_total", &pair).expect("a series");
    assert!(shown >= 1.0, "{shown} s");
    let run_queue = agent.metrics().sum("tenantry_run_queue_seconds_sum", &[("name", "victim")]);
    std::thread::sleep(patience(1));
    let labels = [("victim", "victim"), ("resource", "cpu")];
    let all = agent.metrics().sum("tenantry_blame_seconds_total", &labels).unwrap();
    // The agent is as old as its containers: all their waits are in the series.
    assert!(all >= run_queue.unwrap() * 0.99 - 0.05, "{all} s of {run_queue:?} s");

    // The culprit goes, and with it the blame.
    agent.ok(&["rm", "--force", "batch"]);
    std::thread::sleep(patience(2));
    let answer = json(&agent.ok(&["blame", "--json", "--window", "1s"]));
    let is_blamed = |one: &serde_json::Value| one["culprit"] == "batch";
    assert!(!answer["culprits"].as_array().unwrap().iter().any(is_blamed), "{answer:#}");
    for window in ["0s", "3m", "soon"] {
        let (_, error) = agent.fails(&["blame", "--window", window]);
        assert!(error.contains("1s to 120s"), "{error}");
    }
    agent.finish();
}

#[test]
fn a_quota_makes_no_culprit() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("victim", &["--cpus", "0.2"], &["sh", "-c", SPIN]).unwrap();
    agent.run_detached("quiet", &[], &["sleep", "1000"]).unwrap();
    std::thread::sleep(patience(4));
    let answer = json(&agent.ok(&["blame", "--json", "--window", "3s"]));
    assert_eq!(answer["culprits"].as_array().unwrap().len(), 0, "{answer:#}");
    let wait = |kind: &str| {
        let waits = answer["waits"].as_array().unwrap().iter();
        let of_kind = waits.filter(|w| w["victim"] == "victim" && w["culprit_kind"] == kind);
        of_kind.map(|wait| wait["ratio"].as_f64().unwrap()).sum::<f64>()
    };
    println!("{answer:#}");
    assert!(wait("quota") > 0.3, "{answer:#}");
    assert!(wait("container") < 0.01, "{answer:#}");
    agent.finish();
}

//! Who keeps whom waiting, from the kernel to the command line: two containers on one CPU.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{cgroup, patience, skip_unless_possible, until};

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

/// Seconds in which some task of a container stood still for `memory` or `io`, as the kernel has
/// it.
fn stall(agent: &TestAgent, name: &str, resource: &str) -> f64 {
    let id = agent.native(name)["id"].as_str().unwrap().to_owned();
    let group = Path::new(&agent.cgroup_parent).join(id).join(format!("{resource}.pressure"));
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let text =
        mounts.iter().find_map(|mount| std::fs::read_to_string(Path::new(mount).join(&group)).ok());
    let text = text.expect("a pressure file");
    let total = text.lines().next().unwrap().rsplit_once("total=").unwrap().1;
    total.parse::<f64>().unwrap() / 1e6
}

/// Pages of its files that a container read again, as the kernel has it.
fn refaults(agent: &TestAgent, name: &str) -> u64 {
    let id = agent.native(name)["id"].as_str().unwrap().to_owned();
    let file = cgroup::root("memory").join(&agent.cgroup_parent).join(id).join("memory.stat");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("workingset_refault_file "));
    count.expect("a count").parse().unwrap()
}

#[test]
fn who_takes_a_neighbours_memory_is_named() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let read = "workload randread --cached --path /reads --bytes 200m --rate 2000 --seconds 600";
    agent.run_detached("victim", &[], &["sh", "-c", read]).unwrap();
    // All containers together have little more than the victim reads.
    agent.limit_memory(256 << 20).unwrap();
    let little = "while :; do workload memory --bytes 2m --seconds 1; done";
    agent.run_detached("little", &[], &["sh", "-c", little]).unwrap();
    until("all of it to be in memory", || agent.ok(&["logs", "victim"]).contains("prepared"));
    let (before, began) = (refaults(&agent, "victim"), Instant::now());
    let grow = ["noise", "--grow", "192m", "--grow-rate", "60m", "--seconds", "600"];
    agent.run_detached("hog", &[], &[&["workload"], &grow[..]].concat()).unwrap();
    let of_victim = |answer: &serde_json::Value| -> Vec<String> {
        let culprits = answer["culprits"].as_array().unwrap().iter();
        let of_memory =
            culprits.filter(|one| one["victim"] == "victim" && one["resource"] == "memory");
        of_memory.map(|one| one["culprit"].as_str().unwrap().to_owned()).collect()
    };
    let ask = || json(&agent.ok(&["blame", "--json", "--window", "2s"]));
    until("a neighbour to be named", || !of_victim(&ask()).is_empty());
    println!("named after {:.1} s", began.elapsed().as_secs_f64());
    // And later, when the kernel sees little pressure for memory, but the file is read again.
    std::thread::sleep(patience(5));
    let (pressure, again) = (stall(&agent, "victim", "memory"), refaults(&agent, "victim"));
    std::thread::sleep(patience(3));
    let answer = ask();
    let pressure = stall(&agent, "victim", "memory") - pressure;
    let again = refaults(&agent, "victim") - again;
    println!("{again} pages read again in 3 s, {pressure:.3} s of the kernel's memory stall");
    assert!(again > 300 && refaults(&agent, "victim") > before + again, "no victim: {again}");
    assert_eq!(of_victim(&answer), ["hog"], "{answer:#}");
    let culprits = answer["culprits"].as_array().unwrap();
    assert!(culprits.iter().all(|one| one["culprit"] != "little"), "{answer:#}");
    println!("{}", agent.ok(&["blame"]));
    agent.finish();
}

#[test]
fn who_stands_still_at_its_own_memory_limit_waits_for_that() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    // More than it may keep in memory, read again and again.
    let script = "dd if=/dev/zero of=/big bs=1M count=96 2>/dev/null; \
                  while :; do cat /big > /dev/null; done";
    agent.run_detached("small", &["--memory", "32m"], &["sh", "-c", script]).unwrap();
    // Somebody who grows meanwhile is no reason for it.
    let grow = ["workload", "noise", "--grow", "64m", "--grow-rate", "20m", "--seconds", "600"];
    agent.run_detached("grows", &[], &grow).unwrap();
    let stalls = || ["memory", "io"].map(|resource| stall(&agent, "small", resource));
    until("it to stand still", || stalls()[0] > 0.1);
    let of_small = || {
        let labels = [("victim", "small"), ("resource", "memory")];
        agent.metrics().sum("tenantry_blame_seconds_total", &labels).unwrap_or(0.0)
    };
    until("that to be seen", || of_small() > 0.0);
    let (stalled, blamed) = (stalls(), of_small());
    std::thread::sleep(patience(8));
    let (now, ours) = (stalls(), of_small() - blamed);
    let (memory, io) = (now[0] - stalled[0], now[1] - stalled[1]);
    println!("{memory:.3} s of the kernel's memory stall, {io:.3} s of I/O, {ours:.3} s blamed");
    // All of the memory stall, and of the I/O stall what brought back what was reclaimed. Each
    // has up to a second of looks that the others do not have.
    let (least, most) = (memory * 0.7, memory.max(io) * 1.3);
    assert!((least..=most).contains(&ours), "{ours} s against the kernel's {memory} s, {io} s");
    // Not from its beginning on: there it was not at its limit yet.
    let answer = json(&agent.ok(&["blame", "--json", "--window", "5s"]));
    let waits = answer["waits"].as_array().unwrap().iter();
    let of_memory: Vec<_> = waits.filter(|wait| wait["resource"] == "memory").collect();
    assert!(!of_memory.is_empty(), "{answer:#}");
    let is_limits =
        |wait: &&serde_json::Value| wait["victim"] == "small" && wait["culprit_kind"] == "quota";
    assert!(of_memory.iter().all(is_limits), "{answer:#}");
    println!("{}", agent.ok(&["blame"]));
    agent.finish();
}

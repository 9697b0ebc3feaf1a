//! Who takes whose memory, from the kernel to the command line: on both kinds of cgroups.

use std::path::Path;
use std::time::{Duration, Instant};

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{cgroup, skip_unless_possible, until};

/// For what happens by itself meanwhile, and takes no longer on a slow machine.
fn sleep(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
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
    sleep(5);
    let (pressure, again) = (stall(&agent, "victim", "memory"), refaults(&agent, "victim"));
    sleep(3);
    let answer = ask();
    let pressure = stall(&agent, "victim", "memory") - pressure;
    let again = refaults(&agent, "victim") - again;
    println!("{again} pages read again, {pressure:.3} s of the kernel's memory stall");
    assert!(again > 300 && refaults(&agent, "victim") > before + again, "no victim: {again}");
    assert_eq!(of_victim(&answer), ["hog"], "{answer:#}");
    // For a CPU they may well wait for each other, where there are few. What the hog itself waits
    // for while it gives back more than it takes, nobody can tell.
    let culprits = answer["culprits"].as_array().unwrap().iter();
    let mut of_memory = culprits.filter(|one| one["resource"] == "memory");
    let is_right = |one: &serde_json::Value| one["culprit"] != "little" || one["victim"] == "hog";
    assert!(of_memory.all(is_right), "{answer:#}");
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
    sleep(8);
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

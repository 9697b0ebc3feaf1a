//! System calls by namespace, of a container whose process leaves its own.

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

/// `uts:[4026532300]` and nothing else.
fn inode(link: &str) -> Option<u64> {
    link.trim().strip_prefix("uts:[")?.strip_suffix(']')?.parse().ok()
}

#[test]
fn a_process_that_leaves_its_containers_namespace_is_seen_where_it_is() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload syscalls --getpid 1000; \
                  exec unshare -u sh -c 'workload syscalls --getpid 500; \
                  readlink /proc/self/ns/uts; exec sleep 1000'";
    let flags = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    agent.run_detached("mover", &flags, &["sh", "-c", script]).unwrap();
    agent.run_detached("other", &[], &["sleep", "1000"]).unwrap();
    until("it says where it is", || inode(&agent.ok(&["logs", "mover"])).is_some());
    let there = inode(&agent.ok(&["logs", "mover"])).unwrap();
    let calls = |labels: &[(&str, &str)]| {
        let labels = [&[("name", "mover"), ("type", "uts")], labels].concat();
        agent.metrics().sum("tenantry_namespace_syscalls_total", &labels).unwrap_or(0.0)
    };
    // The last calls of the sleep that is to come may be under way.
    until("both are counted", || {
        let all = agent.metrics().sum("tenantry_syscalls_total", &[("name", "mover")]);
        Some(calls(&[])) == all
    });
    let moved = calls(&[("inode", &there.to_string())]);
    let home = calls(&[]) - moved;
    // What the programs call besides is far less.
    assert!((500.0..800.0).contains(&moved), "{moved}");
    assert!((1000.0..1400.0).contains(&home), "{home}");

    let all = json(&agent.ok(&["namespaces", "--json", "--type", "uts"]));
    let find = |inode: u64| -> Value {
        let mut all = all.as_array().unwrap().iter();
        all.find(|one| one["inode"] == inode).cloned().unwrap_or_default()
    };
    let tenants = find(there)["containers"].clone();
    assert_eq!(tenants[0]["name"], "mover", "{all}");
    let other = agent.native("other")["namespaces"]["uts"].as_u64().unwrap();
    assert_eq!(find(other)["containers"][0]["name"], "other", "{all}");
    assert_eq!(find(other)["containers"][0]["lives_here"], true, "{all}");
    assert!(agent.ok(&["namespaces"]).contains("SYSCALLS"));
    agent.finish();
}

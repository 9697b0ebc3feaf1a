//! The agent dies; its containers do not notice.

use tenantry_e2e::agent::{self, TestAgent};
use tenantry_e2e::{skip_unless_possible, until};

#[test]
fn a_killed_agent_is_followed_by_one_that_knows_everything() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let script = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done";
    agent.run_detached("counter", &["--cpus", "0.5"], &["sh", "-c", script]).unwrap();
    let ends = "sleep 2; exit 42";
    agent.run_detached("ends", &[], &["sh", "-c", ends]).unwrap();
    let before = agent.native("counter");
    let calls = |agent: &TestAgent| {
        agent.metrics().sum("tenantry_syscalls_total", &[("name", "counter")]).unwrap()
    };
    let counted = calls(&agent);
    // A program that never executes another: only its own calls keep it counted.
    let reads = "while :; do read line < /proc/uptime; done";
    agent.run_detached("reader", &["--cpus", "0.1"], &["sh", "-c", reads]).unwrap();
    agent.kill_nine();
    std::thread::sleep(std::time::Duration::from_secs(3));
    agent.spawn().unwrap();
    let after = agent.native("counter");
    for field in ["id", "pid", "started_at", "slot", "cgroups", "namespaces", "limits", "address"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(after["state"], "running");
    // The exit that nobody was there to see is not lost.
    assert_eq!(agent.state("ends"), "exited");
    assert_eq!(agent.inspect("ends")["State"]["ExitCode"], 42);
    // Counters went on without the agent; each turn of the loop makes several calls.
    assert!(calls(&agent) > counted + 10.0, "{counted} and then {}", calls(&agent));
    let read = || {
        let labels = [("name", "reader"), ("syscall", "read")];
        agent.metrics().sum("tenantry_syscalls_total", &labels).unwrap()
    };
    let so_far = read();
    until("the reader is still counted", || read() > so_far);
    // Not one line of the log is missing.
    let lines = || agent.ok(&["logs", "counter"]).lines().count();
    let so_far = lines();
    until("the log goes on", || lines() > so_far);
    let log = agent.ok(&["logs", "counter"]);
    for (index, line) in log.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string());
    }
    agent.ok(&["limit", "counter", "--pids", "50"]);
    agent.ok(&["exec", "counter", "true"]);
    agent.ok(&["stop", "-t", "0", "counter"]);
    agent.finish();
}

#[test]
fn an_agent_that_is_asked_to_end_leaves_its_containers_running() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    agent.run_detached("web", &["--restart", "always"], &["sleep", "1000"]).unwrap();
    let pid = agent.native("web")["pid"].clone();
    agent.stop_agent();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    agent.spawn().unwrap();
    assert_eq!(agent.native("web")["pid"], pid);
    agent.finish();
}

#[test]
fn the_last_events_before_the_end_are_in_the_audit_file() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    for n in 0..5 {
        agent.ok(&["run", "--rm", "--name", &format!("last{n}"), "demo", "true"]);
    }
    agent.stop_agent();
    let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap();
    for kind in ["exec", "exit"] {
        let is_wanted = |line: &&str| agent::json(line)["event"]["action"] == kind;
        assert_eq!(text.lines().filter(is_wanted).count(), 5, "{text}");
    }
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn two_agents_run_side_by_side() {
    skip_unless_possible!();
    let (first, second) = (TestAgent::start(), TestAgent::start());
    first.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    second.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    assert_ne!(first.native("web")["id"], second.native("web")["id"]);
    second.finish();
    assert_eq!(first.state("web"), "running");
    first.finish();
}

#[test]
fn the_next_agent_knows_what_was_delivered_and_no_event_rewrites_the_table_of_names() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let script = "n=0; while [ $n -lt 1000 ]; do n=$((n+1)); /bin/true; done; sleep 1000";
    agent.run_detached("busy", &[], &["sh", "-c", script]).unwrap();
    let table = agent.run_dir().join("slots.json");
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&table).unwrap());
    let before = inode();
    let account = |agent: &TestAgent| {
        let stats = agent.stats("busy");
        ["execs", "exits"].map(|kind| {
            let count = |field: &str| stats[kind][field].as_u64().unwrap();
            (count("produced"), count("delivered"), count("lost"))
        })
    };
    let is_even = |agent: &TestAgent| {
        account(agent)
            .iter()
            .all(|(produced, delivered, lost)| *produced >= 1000 && *produced == delivered + lost)
    };
    until("all is told", || is_even(&agent));
    assert_eq!(inode(), before, "a new file took its place");
    let told = account(&agent);
    agent.kill_nine();
    agent.spawn().unwrap();
    assert_eq!(account(&agent), told);
    // And from there it goes on.
    agent.ok(&["exec", "busy", "true"]);
    until("one more is told", || is_even(&agent) && account(&agent)[0].0 == told[0].0 + 1);
    agent.finish();
}

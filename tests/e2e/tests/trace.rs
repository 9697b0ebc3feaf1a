//! A trace of one container through the command line, against the always-on counters.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::{patience, skip_unless_possible, until};

const NO_SAMPLING: &str = "[meters]\nsyscall_latency = false\n";
/// It waits until somebody writes into the pipe, then works, then waits again.
const WORK: &str = "mkfifo /tmp/go; read x < /tmp/go; \
                    workload syscalls --getpid 5000 --failing-openat 300; read x < /tmp/go";

fn count(stats: &Value, name: &str) -> (u64, u64) {
    let calls = stats["syscalls"].as_array().expect("syscalls is a list");
    let call = calls.iter().find(|call| call["name"] == name);
    call.map_or((0, 0), |call| (call["count"].as_u64().unwrap(), call["errors"].as_u64().unwrap()))
}

fn is_attached(agent: &TestAgent) -> bool {
    let labels = [("probe", "syscall_enter"), ("status", "active")];
    agent.metrics().sum("tenantry_probe_status", &labels) == Some(1.0)
}

fn trace(agent: &TestAgent, name: &str, seconds: u64) -> Child {
    let time = format!("{seconds}s");
    let mut command = agent.client(&["trace", "syscalls", name, "--for", &time, "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the client runs")
}

fn outcome(child: Child) -> Value {
    let output = child.wait_with_output().expect("the client ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    json(&String::from_utf8(output.stdout).expect("JSON is text"))
}

/// Asks the native API itself, which says so in its status.
fn is_traced(agent: &TestAgent, name: &str) -> bool {
    let mut stream = UnixStream::connect(agent.run_dir().join("tenantry.sock")).expect("a socket");
    write!(stream, "GET /v1/containers/{name}/trace HTTP/1.0\r\nHost: tenantry\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().is_some_and(|line| line.contains(" 200"))
}

/// The counters when nothing moves any more.
fn settled(agent: &TestAgent, name: &str) -> Value {
    let mut stats = agent.stats(name);
    until("the container waits", || {
        let earlier = std::mem::replace(&mut stats, Value::Null);
        std::thread::sleep(patience(1) / 5);
        stats = agent.stats(name);
        earlier["syscalls"] == stats["syscalls"]
    });
    stats
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
}

#[test]
fn a_trace_times_every_call_and_leaves_the_probe_as_it_was() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with(NO_SAMPLING).unwrap();
    agent.run_detached("web", &[], &["sh", "-c", WORK]).unwrap();
    let stuck = || agent.ok(&["exec", "web", "sh", "-c", "test -p /tmp/go && echo yes || echo no"]);
    until("the pipe is there", || stuck().trim() == "yes");
    assert!(!is_attached(&agent));
    let before = settled(&agent, "web");
    let child = trace(&agent, "web", patience(60).as_secs());
    until("the probe is attached", || is_attached(&agent));
    agent.ok(&["exec", "web", "sh", "-c", "echo go > /tmp/go"]);
    until("the work is done", || count(&agent.stats("web"), "getpid").0 >= 5000);
    let after = settled(&agent, "web");
    // The client ends the trace when it is interrupted, and still tells what it saw.
    interrupt(&child);
    let traced = outcome(child);
    assert_eq!(traced["running"], false);
    // The shell waits in the open of the pipe: that call began before the trace.
    for (name, under_way) in [("getpid", 0), ("openat", 1)] {
        let (earlier, later) = (count(&before, name), count(&after, name));
        let calls = traced["syscalls"].as_array().unwrap();
        let call = calls.iter().find(|call| call["name"] == name).expect(name);
        let expected = (later.0 - earlier.0 - under_way, later.1 - earlier.1);
        let timed = (call["calls"].as_u64().unwrap(), call["errors"].as_u64().unwrap());
        assert_eq!(timed, expected, "{name}");
        assert!(call["p50_ns"].as_u64() <= call["p99_ns"].as_u64(), "{call}");
    }
    let totals = traced["syscalls"].as_array().unwrap().iter().map(|call| &call["total_ns"]);
    assert!(totals.map(|total| total.as_u64().unwrap()).is_sorted_by(|a, b| a >= b), "{traced}");
    assert!(!is_attached(&agent));
    // A short one ends by itself.
    let ended = outcome(trace(&agent, "web", 1));
    assert_eq!(ended["running"], false);
    assert!(!is_attached(&agent));
    let (_, error) = agent.fails(&["trace", "syscalls", "nobody"]);
    assert!(error.contains("nobody"), "{error}");
    let (_, error) = agent.fails(&["trace", "syscalls", "web", "--for", "2h"]);
    assert!(error.contains("1 to 3600"), "{error}");
    agent.finish();
}

#[test]
fn a_fifth_trace_is_refused_by_name_and_a_new_agent_ends_those_of_the_old() {
    skip_unless_possible!();
    let mut agent = TestAgent::try_start_with(NO_SAMPLING).unwrap();
    let names = ["a1", "a2", "a3", "a4", "a5"];
    for name in names {
        agent.run_detached(name, &[], &["sleep", "1000"]).unwrap();
    }
    let long = patience(60).as_secs();
    let mut children: Vec<Child> = Vec::new();
    for name in &names[..4] {
        children.push(trace(&agent, name, long));
        until("the trace runs", || is_traced(&agent, name));
    }
    let (_, error) = agent.fails(&["trace", "syscalls", "a5"]);
    assert!(names[..4].iter().all(|name| error.contains(name)), "{error}");
    let (_, error) = agent.fails(&["trace", "syscalls", "a1"]);
    assert!(error.contains("a1 is traced already"), "{error}");
    assert!(is_attached(&agent));
    agent.kill_nine();
    for mut child in children {
        let _ = child.wait();
    }
    agent.spawn().unwrap();
    assert!(!is_attached(&agent));
    outcome(trace(&agent, "a5", 1));
    agent.finish();
}

//! More events than the agent can take: each is delivered or counted, by container and kind, in the
//! file as in the metrics, and a moment later all is well again. The witness of what was
//! produced is the workload, which counts what it does.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tenantry_e2e::agent::{self, IMAGE, TestAgent};
use tenantry_e2e::{patience, skip_unless_possible, until};

/// The agent runs for so long, and then is stopped for so long.
const RUNS: Duration = Duration::from_millis(5);
const STOPS: Duration = Duration::from_millis(95);
const KINDS: [&str; 3] = ["open", "connect", "exec"];

#[derive(Clone, Copy, Debug)]
struct Account {
    produced: u64,
    delivered: u64,
    lost: u64,
}

impl Account {
    fn of(agent: &TestAgent, name: &str, kind: &str) -> Self {
        let metrics = agent.metrics();
        let sum = |what: &str| {
            let metric = format!("tenantry_events_{what}_total");
            metrics.sum(&metric, &[("name", name), ("kind", kind)]).unwrap_or(0.0) as u64
        };
        Self { produced: sum("produced"), delivered: sum("delivered"), lost: sum("lost") }
    }

    fn adds_up(self) -> bool {
        self.produced == self.delivered + self.lost
    }
}

/// Waits for its end. What the workload counted.
fn counted(agent: &TestAgent, name: &str) -> [u64; 3] {
    agent.ok(&["wait", name]);
    let told: Value = agent::json(agent.ok(&["logs", name]).trim());
    ["opens", "connects", "execs"].map(|kind| told[kind].as_u64().unwrap())
}

fn lines_of(agent: &TestAgent, name: &str) -> [u64; 3] {
    let file = std::fs::File::open(agent.data_dir().join("audit.jsonl")).unwrap();
    let mut found = [0; 3];
    let named = format!("\"name\":\"{name}\",\"image\"");
    for line in BufReader::new(file).lines().map(Result::unwrap) {
        if let Some(kind) = KINDS.iter().position(|kind| {
            line.contains(&format!("\"action\":\"{kind}\"")) && line.contains(&named)
        }) {
            found[kind] += 1;
        }
    }
    found
}

#[test]
fn in_overload_each_event_is_delivered_or_counted_and_soon_none_is_lost_again() {
    skip_unless_possible!();
    let config = "[audit]\nmax_bytes = 4294967296\n[audit.filter]\nopens = [\"all\"]\n";
    let agent = TestAgent::try_start_with(config).unwrap();
    let pid = Pid::from_raw(agent.pid() as i32).unwrap();
    let storm = ["workload", "storm", "--seconds", "3", "--workers", "2"];
    agent.run_detached("storm", &[], &storm).unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        kill_process(pid, Signal::STOP).unwrap();
        std::thread::sleep(STOPS);
        kill_process(pid, Signal::CONT).unwrap();
        std::thread::sleep(RUNS);
    }
    let done = counted(&agent, "storm");
    let ended = Instant::now();
    let accounts = || KINDS.map(|kind| Account::of(&agent, "storm", kind));
    until("all to be accounted", || accounts().into_iter().all(Account::adds_up));
    let took = ended.elapsed();
    assert!(took < patience(2), "recovery took {took:?}");
    let [open, connect, exec] = accounts();
    assert_eq!(connect.produced, done[1]);
    // Its own start, and that of each program it starts, opens something, too.
    let starts = 4 * (done[2] + 1);
    assert!((done[0]..=done[0] + starts).contains(&open.produced), "{open:?} {done:?}");
    assert!(open.lost > 0 && connect.lost > 0, "{open:?} {connect:?}");
    let produced: u64 = [open, connect, exec].iter().map(|it| it.produced).sum();
    let delivered: u64 = [open, connect, exec].iter().map(|it| it.delivered).sum();
    println!(
        "{open:?} {connect:?} {exec:?}: {:.1} × what was delivered; accounted after {took:?}",
        produced as f64 / delivered as f64
    );
    let in_file = lines_of(&agent, "storm");
    assert_eq!(in_file, [open.delivered, connect.delivered, exec.delivered]);
    agent.ok(&["audit", "verify", agent.data_dir().join("audit.jsonl").to_str().unwrap()]);

    let calm = ["workload", "storm", "--seconds", "1", "--rate", "2000"];
    agent.ok(&[&["run", "-d", "--name", "calm", IMAGE], &calm[..]].concat());
    let done = counted(&agent, "calm");
    let accounts = || KINDS.map(|kind| Account::of(&agent, "calm", kind));
    until("all to be accounted", || accounts().into_iter().all(Account::adds_up));
    let [open, connect, exec] = accounts();
    assert_eq!([open.lost, connect.lost, exec.lost], [0, 0, 0]);
    assert_eq!((connect.delivered, exec.delivered), (done[1], done[2] + 1));
    agent.finish();
}

//! Thousands of processes that live for a millisecond, in containers that live for one second:
//! each exec and each exit is in the audit file, of its own container.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tenantry_e2e::agent::{self, IMAGE, TestAgent};
use tenantry_e2e::{in_virtual_machine, skip_unless_possible, until};

/// Beside the shell that starts them.
const PROCESSES: usize = 50;
/// Containers that come and go at the same time.
const AT_ONCE: usize = 4;

#[test]
fn ten_thousand_short_processes_in_two_hundred_short_containers_are_all_attributed() {
    skip_unless_possible!();
    let containers: u32 = if in_virtual_machine() { 20 } else { 200 };
    let agent = TestAgent::try_start_with("[audit]\nmax_bytes = 1073741824\n").unwrap();
    // The witness of what ran is the shell in the container, which counts.
    let script =
        format!("i=0; while [ $i -lt {PROCESSES} ]; do /bin/true; i=$((i+1)); done; echo $i");
    let next = AtomicU32::new(0);
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= containers {
                        return;
                    }
                    let name = format!("short{number}");
                    let run = ["run", "--rm", "--name", &name, IMAGE, "sh", "-c", &script];
                    assert_eq!(agent.ok(&run).trim(), PROCESSES.to_string());
                }
            });
        }
    });
    let expected = containers as usize * (PROCESSES + 1);
    let path = agent.data_dir().join("audit.jsonl");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(agent::json).collect()
    };
    let of = |lines: &[Value], action: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["event"]["action"] == action).cloned().collect()
    };
    until("the last exit is written", || of(&lines(), "exit").len() >= expected);
    let lines = lines();
    for action in ["exec", "exit"] {
        let found = of(&lines, action);
        assert_eq!(found.len(), expected, "{action}: each once, none lost");
        let mut by_name: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for line in &found {
            let container = &line["container"];
            assert_eq!(container["image"]["name"], IMAGE, "{line}");
            let text = |field: &str| container[field].as_str().unwrap().to_owned();
            assert_eq!(text("id").len(), 64, "{line}");
            *by_name.entry(text("name")).or_default().entry(text("id")).or_default() += 1;
        }
        let names = (0..containers).map(|number| format!("short{number}"));
        assert_eq!(by_name.len(), containers as usize, "{action}: no other names");
        for name in names {
            let ids: Vec<usize> = by_name[&name].values().copied().collect();
            assert_eq!(ids, [PROCESSES + 1], "{action} of {name}: all of one id");
        }
    }
    assert_eq!(of(&lines, "gap").len(), 0, "the file took all of them");
    agent.finish();
}

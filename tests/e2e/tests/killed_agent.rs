//! kill -9 of the agent at many points of create, start, restart, stop and remove: whatever was
//! cut off, the next agent has each container whole or not at all, and the same wish succeeds.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::skip_unless_possible;

const POINTS: u32 = 30;

/// What is cut off, and what has to be there before it.
struct Verb {
    arguments: &'static [&'static str],
    before: &'static [&'static [&'static str]],
}

const RUN: &[&str] = &[
    "run",
    "-d",
    "--name",
    "cc",
    "--network",
    "n",
    "-p",
    "127.0.0.1:48217:80",
    "--restart",
    "no",
    "-v",
    "kept:/kept",
    "--memory",
    "64m",
    IMAGE,
    "sleep",
    "1000",
];
const GONE: &[&str] = &["rm", "-f", "cc"];

const VERBS: [Verb; 5] = [
    Verb { arguments: RUN, before: &[GONE] },
    Verb { arguments: &["stop", "-t", "0", "cc"], before: &[GONE, RUN] },
    Verb { arguments: &["start", "cc"], before: &[GONE, RUN, &["stop", "-t", "0", "cc"]] },
    Verb { arguments: &["network", "connect", "m", "cc"], before: &[GONE, RUN] },
    Verb { arguments: GONE, before: &[GONE, RUN] },
];

fn prepare(agent: &TestAgent, verb: &Verb) {
    for words in verb.before {
        if *words != GONE || container(agent).is_some() {
            agent.ok(words);
        }
    }
}

fn container(agent: &TestAgent) -> Option<Value> {
    let found = agent.output(&["inspect", "cc"]);
    found.status.success().then(|| json(&String::from_utf8_lossy(&found.stdout))[0].take())
}

/// The processes whose cgroup has the container's id in its path, as /proc has them.
fn processes(id: &str) -> Vec<String> {
    let of_container = |entry: fs::DirEntry| {
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        cgroup.contains(id).then_some(name)
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of_container).collect()
}

/// What the agent says of the container is what /proc says.
#[track_caller]
fn is_whole(agent: &TestAgent, what: &str) {
    let Some(view) = container(agent) else { return };
    let id = view["Id"].as_str().unwrap();
    let pid = view["State"]["Pid"].as_u64().unwrap();
    let status = view["State"]["Status"].as_str().unwrap();
    let there = processes(id);
    match status {
        "running" => assert!(there.contains(&pid.to_string()), "{what}: {pid} of {there:?}"),
        "created" | "exited" => assert!(there.is_empty(), "{what}: {status}, and {there:?}"),
        other => panic!("{what}: {other}"),
    }
}

/// Nothing that was half made keeps the same wish from being granted now.
#[track_caller]
fn can_go_on(agent: &TestAgent) {
    match container(agent) {
        None => drop(agent.ok(RUN)),
        Some(view) if view["State"]["Running"] == false => drop(agent.ok(&["start", "cc"])),
        Some(_) => {}
    }
    agent.ok(&["exec", "cc", "touch", "/kept/here"]);
}

#[test]
fn an_agent_killed_at_any_point_leaves_containers_that_the_next_one_finds_whole() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    agent.ok(&["network", "create", "n"]);
    agent.ok(&["network", "create", "m"]);
    let takes: Vec<Duration> = VERBS
        .iter()
        .map(|verb| {
            prepare(&agent, verb);
            let began = Instant::now();
            agent.ok(verb.arguments);
            began.elapsed()
        })
        .collect();
    let mut cut_off = 0;
    for point in 0..POINTS {
        let index = point as usize % VERBS.len();
        let verb = &VERBS[index];
        prepare(&agent, verb);
        let null = Stdio::null;
        let client =
            agent.client(verb.arguments).stdin(null()).stdout(null()).stderr(null()).spawn();
        // Points all over the verb, in no order that its rounds repeat.
        std::thread::sleep(takes[index] * (point * 17 % POINTS) / POINTS);
        agent.kill_nine();
        cut_off += u32::from(!client.unwrap().wait().unwrap().success());
        agent.spawn().unwrap();
        let what = format!("point {point} of {}", verb.arguments.join(" "));
        is_whole(&agent, &what);
        can_go_on(&agent);
    }
    println!("{cut_off} of {POINTS} points lay inside a verb");
    assert!(cut_off > POINTS / 4);
    agent.ok(GONE);
    agent.ok(&["network", "rm", "n", "m"]);
    agent.finish();
}

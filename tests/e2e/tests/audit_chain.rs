//! The audit file's chain of hashes: edits are found, a killed agent and a full disk leave a
//! chain that goes on. The witnesses are `sha256sum` and the kernel's own ends: kill −9, ENOSPC.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tenantry_e2e::agent::{self, IMAGE, TestAgent};
use tenantry_e2e::small_disk::SmallDisk;
use tenantry_e2e::{skip_unless_possible, until};

fn audit_file(agent: &TestAgent) -> PathBuf {
    agent.data_dir().join("audit.jsonl")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Of a chain that must be right.
#[track_caller]
fn verified(agent: &TestAgent, path: &Path) -> Value {
    agent::json(&agent.ok(&["audit", "verify", "--json", text(path)]))
}

/// What `verify` says, which must have found something.
#[track_caller]
fn found(agent: &TestAgent, arguments: &[&str]) -> String {
    let output = agent.output(&[&["audit", "verify"], arguments].concat());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}

/// By the program of that name.
fn sha256sum(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum runs");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// As ARCHITECTURE.md tells a stranger to do.
fn check_by_sha256sum(lines: &str) {
    let mut previous: Option<String> = None;
    for line in lines.lines() {
        let value = agent::json(line);
        let before = previous.unwrap_or_else(|| value["prev"].as_str().unwrap().to_owned());
        let (hashed, _) = line.rsplit_once(",\"hash\":").unwrap();
        let hash = sha256sum(format!("{before}{hashed}").as_bytes());
        assert_eq!(value["hash"], hash.as_str(), "{line}");
        previous = Some(hash);
    }
}

#[test]
fn an_edited_byte_is_found_and_so_is_an_end_that_was_cut_off() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let path = audit_file(&agent);
    for n in 0..3 {
        agent.ok(&["run", "--rm", "--name", &format!("web{n}"), IMAGE, "sh", "-c", "true; true"]);
        // The agent runs and writes.
        verified(&agent, &path);
    }
    agent.stop_agent();
    let whole = std::fs::read_to_string(&path).unwrap();
    check_by_sha256sum(&whole);
    let summary = verified(&agent, &path);
    assert_eq!(summary["lines"], whole.lines().count());
    assert_eq!((&summary["lost"], &summary["torn"]), (&0.into(), &0.into()));
    let head = agent.ok(&["audit", "head", text(&path)]).trim().to_owned();
    let last = agent::json(whole.lines().last().unwrap());
    assert_eq!(head, format!("{}:{}", last["seq"], last["hash"].as_str().unwrap()));
    agent.ok(&["audit", "verify", "--head", &head, text(&path)]);

    let copy = agent.scratch.join("copy.jsonl");
    let at = whole.find("\"user\":{\"id\":0").unwrap() + "\"user\":{\"id\":".len();
    let line = whole[..at].lines().count();
    let mut edited = whole.clone().into_bytes();
    edited[at] = b'1';
    std::fs::write(&copy, edited).unwrap();
    let told = found(&agent, &[text(&copy)]);
    let place = format!("copy.jsonl line {line}, sequence {line}: edited");
    assert!(told.contains(&place), "{told}");

    let cut = whole.len() - whole.lines().last().unwrap().len() - 1;
    std::fs::write(&copy, &whole[..cut]).unwrap();
    agent.ok(&["audit", "verify", text(&copy)]);
    let told = found(&agent, &["--head", &head, text(&copy)]);
    assert!(told.contains("missing: the chain ends at"), "{told}");
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn an_agent_killed_while_it_writes_is_followed_by_one_that_goes_on_with_the_chain() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let path = audit_file(&agent);
    let script = "while :; do /bin/true; done";
    for name in ["one", "two"] {
        agent.run_detached(name, &[], &["sh", "-c", script]).unwrap();
    }
    let last = |agent: &TestAgent| verified(agent, &path)["last_sequence"].as_u64().unwrap_or(0);
    let mut so_far = 0;
    for _ in 0..8 {
        until("events to be written", || last(&agent) > so_far + 500);
        so_far = last(&agent);
        agent.kill_nine();
        agent.spawn().unwrap();
        assert!(last(&agent) >= so_far);
    }
    agent.ok(&["rm", "-f", "one", "two"]);
    agent.stop_agent();
    let summary = verified(&agent, &path);
    println!("killed 8 times: {summary}");
    check_by_sha256sum(
        &std::fs::read_to_string(&path)
            .unwrap()
            .lines()
            .take(50)
            .fold(String::new(), |lines, line| lines + line + "\n"),
    );
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn what_a_full_disk_refuses_is_streamed_counted_and_stands_as_a_gap() {
    skip_unless_possible!();
    let mut agent = TestAgent::prepare().unwrap();
    let disk = SmallDisk::mounted_at(agent.scratch.join("small"), "64k");
    let path = disk.path().join("audit.jsonl");
    agent.configure(&format!("[audit]\npath = \"{}\"\n", path.display())).unwrap();
    agent.spawn_with_image().unwrap();
    let count = |agent: &TestAgent, name: &str| agent.metrics().sum(name, &[]).unwrap_or(0.0);
    let (lost, written) =
        ("tenantry_audit_records_lost_total", "tenantry_audit_records_written_total");
    let heard = agent.scratch.join("heard.jsonl");
    let file = std::fs::File::create(&heard).unwrap();
    let arguments = ["events", "--json", "--kind", "exec"];
    let mut stream = agent.client(&arguments).stdout(file).spawn().unwrap();
    let streamed = || std::fs::read_to_string(&heard).unwrap().lines().count();
    until("the stream to be open", || {
        agent.ok(&["run", "--rm", IMAGE, "true"]);
        streamed() > 0
    });
    let before = streamed();
    let script = "n=0; while [ $n -lt 200 ]; do n=$((n+1)); /bin/true; done";
    agent.ok(&["run", "--rm", "--name", "busy", IMAGE, "sh", "-c", script]);
    until("the stream to have each exec", || streamed() >= before + 201);
    assert!(count(&agent, lost) > 200.0, "{} execs and exits are lost", count(&agent, lost));
    // A piece of a line is never left behind. A short line may have found room behind a gap.
    let full = verified(&agent, &path);
    let own = full["gaps"].as_f64().unwrap() + 1.0;
    assert_eq!(full["lines"].as_f64(), Some(count(&agent, written) + own));

    disk.resize("4m");
    agent.ok(&["run", "--rm", "--name", "after", IMAGE, "true"]);
    until("the gap to be written", || {
        verified(&agent, &path)["lost"].as_f64() == Some(count(&agent, lost))
    });
    let lines = std::fs::read_to_string(&path).unwrap();
    let mut lines_told = lines.lines().map(agent::json);
    let line = lines_told.rfind(|line| line["event"]["action"] == "gap").unwrap();
    let gap = &line["gap"];
    assert!(gap["lost"].as_f64() > Some(200.0), "{gap}");
    assert!(gap["error"].as_str().unwrap().starts_with("No space left on device"), "{gap}");
    assert!(gap["since"].as_str() < line["@timestamp"].as_str(), "{line}");
    check_by_sha256sum(&lines);
    println!("{gap}");
    stream.kill().unwrap();
    stream.wait().unwrap();
    agent.clear().unwrap();
    agent.stop_agent();
    drop(disk);
    agent.configure("").unwrap();
    agent.spawn().unwrap();
    agent.finish();
}

/// Ids and data of a stream of server-sent events, until one is enough.
fn stream(
    agent: &TestAgent,
    head: &str,
    mut is_enough: impl FnMut(u64) -> bool,
) -> Vec<(u64, String)> {
    let mut socket = UnixStream::connect(agent.run_dir().join("tenantry.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(format!("{head}\r\nHost: tenantry\r\n\r\n").as_bytes()).unwrap();
    let (mut events, mut id) = (Vec::new(), None);
    for line in BufReader::new(socket).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("id: ") {
            id = Some(number.parse().unwrap());
        } else if let Some(data) = line.strip_prefix("data: ") {
            // What is no line of the file has no id.
            let Some(id) = id.take() else { continue };
            events.push((id, data.to_owned()));
            if is_enough(id) {
                break;
            }
        }
    }
    events
}

#[test]
fn who_comes_back_with_the_last_id_gets_each_line_of_the_file_once() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let path = audit_file(&agent);
    let last = |agent: &TestAgent| verified(agent, &path)["last_sequence"].as_u64().unwrap();
    let work = |agent: &TestAgent, times: u32| {
        let script = format!("n=0; while [ $n -lt {times} ]; do n=$((n+1)); /bin/true; done");
        agent.ok(&["run", "--rm", "--name", "web", IMAGE, "sh", "-c", &script]);
    };
    work(&agent, 100);
    let mut heard = stream(&agent, "GET /v1/events?since=0 HTTP/1.1", |id| id == 50);
    // While nobody listens: events, a killed agent, and more events.
    work(&agent, 100);
    agent.kill_nine();
    agent.spawn().unwrap();
    work(&agent, 100);
    let end = last(&agent) + 150;
    let head = "GET /v1/events HTTP/1.1\r\nLast-Event-ID: 50".to_owned();
    std::thread::scope(|scope| {
        let later = scope.spawn(|| stream(&agent, &head, |id| id >= end));
        work(&agent, 100);
        heard.extend(later.join().unwrap());
    });
    let ids: Vec<u64> = heard.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (1..=end).collect::<Vec<_>>());
    let written = std::fs::read_to_string(&path).unwrap();
    for ((id, data), line) in heard.iter().zip(written.lines()) {
        assert_eq!(data, line, "{id}");
    }
    // The same lines by query: all, by page, the newest of a kind, with and without the agent.
    let asked = |arguments: &[&str]| agent.ok(&[&["audit", "--json"], arguments].concat());
    let begin = asked(&["--until", agent::json(&heard[300].1)["@timestamp"].as_str().unwrap()]);
    assert!(written.starts_with(&begin) && begin.lines().count() > 200);
    assert!(asked(&["--since", "1h"]).starts_with(&written));
    let page: String = written.lines().skip(100).take(50).map(|line| format!("{line}\n")).collect();
    assert_eq!(asked(&["--after", "100", "-n", "50"]), page);
    let is_wanted = |line: &&str| {
        let event = agent::json(line);
        event["event"]["action"] == "exit" && event["container"]["name"] == "web"
    };
    let exits: Vec<&str> = written.lines().filter(is_wanted).collect();
    let newest = exits[exits.len() - 7..].join("\n") + "\n";
    assert_eq!(asked(&["--container", "web", "--kind", "exit", "-n", "7"]), newest);
    assert_eq!(
        asked(&["--container", "web", "--kind", "exit", "-n", "7", "--file", text(&path)]),
        newest
    );
    let (_, told) = agent.fails(&["audit", "--kind", "execs"]);
    assert!(told.contains("kind \"execs\" is not allowed: exec, exit"), "{told}");
    // Only what is asked for, and no number that is not there yet.
    let execs = stream(&agent, "GET /v1/events?since=0&kind=exec&container=web HTTP/1.1", |id| {
        id >= end - 10
    });
    assert!(execs.len() > 300);
    for (_, data) in &execs {
        assert!(agent::json(data)["event"]["action"] == "exec", "{data}");
    }
    let socket = agent.run_dir().join("tenantry.sock");
    let refused = |query: &str| {
        let mut socket = UnixStream::connect(&socket).unwrap();
        let head =
            format!("GET /v1/events?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        std::io::read_to_string(socket).unwrap()
    };
    let told = refused("since=999999999");
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("\"field\":\"since\""), "{told}");
    assert!(refused("since=x").contains("a whole number"));
    agent.finish();
}

/// Sequence numbers of a client's output, and how many lines it was told that it lost.
fn sequences(path: &Path) -> (Vec<u64>, u64) {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let events: Vec<Value> = whole.lines().map(agent::json).collect();
    let lost = events.iter().filter_map(|event| event["lost"]["count"].as_u64()).sum();
    (events.iter().filter_map(|event| event["seq"].as_u64()).collect(), lost)
}

#[test]
fn a_stuck_reader_loses_its_own_events_exactly_and_a_quick_one_none() {
    skip_unless_possible!();
    // Little of what memory no longer holds is in the files.
    let config = "[audit]\nmax_bytes = 262144\nkeep_files = 1\n";
    let agent = TestAgent::try_start_with(config).unwrap();
    let path = audit_file(&agent);
    let listen = |name: &str| {
        let heard = agent.scratch.join(name);
        let file = std::fs::File::create(&heard).unwrap();
        (agent.client(&["events", "--json"]).stdout(file).spawn().unwrap(), heard)
    };
    let (mut quick, quick_heard) = listen("quick.jsonl");
    let (mut stuck, stuck_heard) = listen("stuck.jsonl");
    until("both to hear", || {
        agent.ok(&["run", "--rm", IMAGE, "true"]);
        !sequences(&quick_heard).0.is_empty() && !sequences(&stuck_heard).0.is_empty()
    });
    let stuck_pid = rustix::process::Pid::from_child(&stuck);
    rustix::process::kill_process(stuck_pid, rustix::process::Signal::STOP).unwrap();
    let word = "x".repeat(1000);
    let script =
        format!("n=0; while [ $n -lt 1000 ]; do n=$((n+1)); /bin/true {word} {word} {word}; done");
    let last = || verified(&agent, &path)["last_sequence"].as_u64().unwrap();
    let mut bytes = 0;
    until("more than memory and sockets hold", || {
        agent.ok(&["run", "--rm", IMAGE, "sh", "-c", &script]);
        bytes = std::fs::metadata(&quick_heard).unwrap().len();
        bytes > 12 << 20
    });
    let end = last();
    until("the quick one to have all", || sequences(&quick_heard).0.last() >= Some(&end));
    let (numbers, lost) = sequences(&quick_heard);
    assert_eq!(lost, 0);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "a hole or a double");

    rustix::process::kill_process(stuck_pid, rustix::process::Signal::CONT).unwrap();
    until("the stuck one to be at the end", || sequences(&stuck_heard).0.last() >= Some(&end));
    let (numbers, lost) = sequences(&stuck_heard);
    let span = numbers[numbers.len() - 1] - numbers[0] + 1;
    assert!(lost > 0 && numbers.windows(2).all(|pair| pair[1] > pair[0]));
    assert_eq!(numbers.len() as u64 + lost, span, "each line was delivered or counted");
    let counted = agent.metrics().sum("tenantry_stream_events_lost_total", &[]);
    assert_eq!(counted, Some(lost as f64));
    println!("{bytes} bytes: the stuck reader had {} lines and lost {lost}", numbers.len());
    for client in [&mut quick, &mut stuck] {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    agent.finish();
}

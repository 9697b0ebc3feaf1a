//! Held below its limits for a while, and surely back: by a release, by the lease's end, by
//! the next agent, and by the shim alone when nobody is left. The witnesses are the kernel's
//! own files, `tc`, and the processor time in `/proc`.

use std::path::Path;
use std::time::{Duration, Instant};

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::host::cpu_ticks;
use tenantry_e2e::witness::{Files, Witness, rate_of};
use tenantry_e2e::{in_virtual_machine, patience, skip_unless_possible, until};

/// `major:minor` of a whole disk.
fn disk() -> String {
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let mut names: Vec<_> = disks.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| name.starts_with("loop") || name.starts_with("zram"));
    let number = std::fs::read_to_string(format!("/sys/block/{}/dev", names[0])).unwrap();
    number.trim().to_owned()
}

fn spin(agent: &TestAgent, name: &str, flags: &[&str]) {
    let command = ["workload", "spin", "--seconds", "10000", "--threads", "1"];
    agent.run_detached(name, flags, &command).unwrap();
}

fn throttle(agent: &TestAgent, name: &str) -> serde_json::Value {
    agent_request(agent, "GET", name, "")
}

/// The endpoint itself, by hand.
fn agent_request(agent: &TestAgent, method: &str, name: &str, body: &str) -> serde_json::Value {
    use std::io::{Read as _, Write as _};
    let socket = agent.run_dir().join("tenantry.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let length = body.len();
    let head = format!(
        "{method} /v1/containers/{name}/throttle HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    json(answer.split_once("\r\n\r\n").expect("a head").1)
}

fn assert_restored_within(what: &str, before: &[(Witness, Files)], time: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let all = before.iter();
        let wrong: Vec<_> = all.filter(|(witness, files)| witness.files() != *files).collect();
        if wrong.is_empty() {
            return begun.elapsed();
        }
        if begun.elapsed() > time {
            let (witness, files) = wrong[0];
            let now = witness.files();
            let differ: Vec<_> = files.iter().filter(|(path, text)| now[*path] != **text).collect();
            let says: Vec<_> = differ.iter().map(|(path, _)| &now[*path]).collect();
            panic!("{what}: not as before: {differ:?}, but {says:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cpu_ratio(agent: &TestAgent, name: &str, time: Duration) -> f64 {
    let pid = agent.pid_of(name);
    let (begun, before) = (Instant::now(), cpu_ticks(pid).unwrap());
    std::thread::sleep(time);
    (cpu_ticks(pid).unwrap() - before) as f64 / 100.0 / begun.elapsed().as_secs_f64()
}

/// All that can be throttled on any of our kernels.
fn all_flags(device: &str) -> Vec<String> {
    let io = format!("{device}:1000000");
    let flags = ["--cpus", "0.2", "--io-write", &io, "--egress", "5mbit", "--ingress", "5mbit"];
    [&flags[..], &["--egress-bulk"]].concat().into_iter().map(str::to_owned).collect()
}

fn hold(agent: &TestAgent, name: &str, time: &str, flags: &[String]) {
    let mut arguments = vec!["limit", name, "--for", time];
    arguments.extend(flags.iter().map(String::as_str));
    agent.ok(&arguments);
}

#[test]
fn held_for_a_while_and_released_it_uses_what_it_may() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &["--cpus", "0.9", "--egress", "50mbit"]);
    let witness = Witness::of(&agent, "spin");
    let before = witness.files();
    hold(&agent, "spin", "10m", &all_flags(&disk()));
    let held = witness.files();
    assert_ne!(held, before);
    let quota = witness.quota();
    assert!(quota.1.starts_with("20000"), "{quota:?}");
    assert_eq!(rate_of(&witness.veth), "5Mbit");
    let ratio = cpu_ratio(&agent, "spin", Duration::from_secs(3));
    println!("CPUs while held to 0.2: {ratio:.3}");
    assert!(in_virtual_machine() || (0.17..0.23).contains(&ratio), "{ratio}");
    // The record is the operator's, and does not change.
    assert_eq!(agent.native("spin")["limits"]["cpus"], 0.9);
    let state = throttle(&agent, "spin")["throttle"].take();
    assert_eq!(state["owner"], "operator");
    assert!(
        state["files"].as_array().unwrap().iter().all(|f| f["holder"] == "throttle"),
        "{state}"
    );
    // The same again writes nothing.
    let body = r#"{"cpus":0.2,"lease_seconds":600}"#;
    let first = agent_request(&agent, "PUT", "spin", body);
    assert!(!first["applied"].as_array().unwrap().is_empty(), "the rest was released: {first}");
    let again = agent_request(&agent, "PUT", "spin", body);
    assert_eq!(again["applied"].as_array().unwrap().len(), 0, "{again}");
    assert_eq!(rate_of(&witness.veth), "", "what the new set does not name is free again");
    // What is not tighter than the operator's limit is no throttle.
    let loose = agent_request(&agent, "PUT", "spin", r#"{"cpus":1.5,"lease_seconds":600}"#);
    assert_eq!(loose["throttle"]["actuators"].as_array().unwrap().len(), 0, "{loose}");
    assert_eq!(witness.files(), before);
    hold(&agent, "spin", "10m", &["--cpu-idle".to_owned()]);
    assert!(witness.files().iter().any(|(path, text)| path.ends_with("cpu.idle") && text == "1\n"));
    let answer = agent.ok(&["limit", "spin", "--release"]);
    assert!(answer.contains("not held"), "{answer}");
    assert_eq!(witness.files(), before);
    agent.finish();
}

#[test]
fn a_lease_that_nobody_renews_ends_by_itself() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &[]);
    let witness = Witness::of(&agent, "spin");
    let before = witness.files();
    hold(&agent, "spin", "1s", &all_flags(&disk()));
    let took = assert_restored_within("expired", &[(witness, before)], patience(10));
    println!("expired after {took:?}");
    until("it is told", || throttle(&agent, "spin")["throttle"].is_null());
    agent.finish();
}

#[test]
fn an_agent_that_is_killed_leaves_nobody_throttled() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    spin(&agent, "limited", &["--cpus", "0.8", "--egress", "50mbit:1m"]);
    spin(&agent, "free", &[]);
    let names = ["limited", "free"];
    let before: Vec<_> = names
        .map(|name| Witness::of(&agent, name))
        .into_iter()
        .map(|witness| {
            let files = witness.files();
            (witness, files)
        })
        .collect();
    names.iter().for_each(|name| hold(&agent, name, "3s", &all_flags(&disk())));
    agent.kill_nine();
    assert!(before.iter().all(|(witness, files)| witness.files() != *files), "held without agent");
    let took = assert_restored_within("by the shim", &before, patience(13));
    println!("restored by the shims {took:?} after the kill, the lease being 3 s");
    agent.spawn().unwrap();
    assert!(agent.log().contains("the lease had lapsed"), "{}", agent.log());
    names.iter().for_each(|name| assert!(throttle(&agent, name)["throttle"].is_null()));
    agent.finish();
}

#[test]
fn the_next_agent_restores_before_the_lease_ends() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    spin(&agent, "spin", &["--cpus", "0.8"]);
    let witness = Witness::of(&agent, "spin");
    let before = witness.files();
    let mut flags = all_flags(&disk());
    flags.push("--cpu-idle".to_owned());
    hold(&agent, "spin", "1h", &flags);
    agent.kill_nine();
    agent.spawn().unwrap();
    // It is ready: no wait.
    assert_eq!(witness.files(), before);
    // And one that is asked to end leaves nothing held either.
    hold(&agent, "spin", "1h", &flags);
    agent.stop_agent();
    assert_eq!(witness.files(), before);
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn an_agent_that_hangs_does_not_keep_it_throttled() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &[]);
    let witness = Witness::of(&agent, "spin");
    let before = witness.files();
    hold(&agent, "spin", "2s", &all_flags(&disk()));
    let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    signal(rustix::process::Signal::STOP);
    let hung = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_restored_within("hung", &[(witness, before)], patience(12))
    }));
    signal(rustix::process::Signal::CONT);
    println!("restored {:?} after the agent hung", hung.expect("restored"));
    until("it knows", || throttle(&agent, "spin")["throttle"].is_null());
    agent.finish();
}

#[test]
fn an_operator_s_change_wins_and_stays() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &["--cpus", "0.9"]);
    let witness = Witness::of(&agent, "spin");
    hold(&agent, "spin", "10m", &all_flags(&disk()));
    agent.ok(&["limit", "spin", "--cpus", "0.7", "--egress", "20mbit"]);
    let quota = || witness.quota().1;
    assert!(quota().starts_with("70000"), "{}", quota());
    assert_eq!(rate_of(&witness.veth.replace("veth", "ifb")), "20Mbit");
    assert_eq!(rate_of(&witness.veth), "5Mbit", "what he did not name is still held");
    let state = throttle(&agent, "spin")["throttle"].take();
    assert_eq!(state["actuators"], serde_json::json!(["io.max", "net.ingress"]), "{state}");
    assert_eq!(
        state["yielded"],
        serde_json::json!(["cpu.max", "net.egress", "net.priority"]),
        "{state}"
    );
    agent.ok(&["limit", "spin", "--release"]);
    assert!(quota().starts_with("70000"), "{}", quota());
    assert_eq!(rate_of(&witness.veth.replace("veth", "ifb")), "20Mbit");
    assert_eq!(rate_of(&witness.veth), "");
    assert!(agent.log().contains("unthrottle"), "{}", agent.log());
    agent.finish();
}

#[test]
fn what_somebody_else_wrote_is_seen_and_left_alone() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &[]);
    let witness = Witness::of(&agent, "spin");
    let before = witness.files();
    agent_request(&agent, "PUT", "spin", r#"{"cpus":0.2,"cpu_weight":50,"lease_seconds":600}"#);
    let held = witness.files();
    let is_weight = |path: &Path| path.ends_with("cpu.weight") || path.ends_with("cpu.shares");
    let (path, ours) = held.iter().find(|(path, _)| is_weight(path)).unwrap();
    assert_ne!(before[path], *ours);
    std::fs::write(path, "333").unwrap();
    let state = throttle(&agent, "spin")["throttle"].take();
    let files = state["files"].as_array().unwrap();
    let weight = files.iter().find(|file| file["actuator"] == "cpu.weight").unwrap();
    assert_eq!((&weight["holder"], &weight["now"]), (&"other".into(), &"333".into()));
    let body = r#"{"cpus":0.3,"cpu_weight":60,"lease_seconds":600}"#;
    let state = agent_request(&agent, "PUT", "spin", body)["throttle"].take();
    assert_eq!(state["yielded"], serde_json::json!(["cpu.weight"]), "{state}");
    assert_eq!(witness.files()[path], "333\n");
    agent.ok(&["limit", "spin", "--release"]);
    let after = witness.files();
    let mut expected = before.clone();
    expected.insert(path.clone(), "333\n".to_owned());
    assert_eq!(after, expected);
    agent.finish();
}

#[test]
fn a_restarted_container_is_not_throttled_and_bad_wishes_are_named() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "spin", &["--cpus", "0.8"]);
    let before: Vec<String> = Witness::of(&agent, "spin").files().into_values().collect();
    hold(&agent, "spin", "10m", &all_flags(&disk()));
    agent.ok(&["stop", "-t", "0", "spin"]);
    let (_, error) = agent.fails(&["limit", "spin", "--for", "10m", "--cpus", "0.5"]);
    assert!(error.contains("exited"), "{error}");
    agent.ok(&["start", "spin"]);
    let after: Vec<String> = Witness::of(&agent, "spin").files().into_values().collect();
    assert_eq!(after, before);
    assert!(throttle(&agent, "spin")["throttle"].is_null());
    let check = |body: &str, field: &str| {
        let answer = agent_request(&agent, "PUT", "spin", body);
        assert_eq!(answer["field"], field, "{body}: {answer}");
    };
    check(r#"{"cpus":0.001,"lease_seconds":60}"#, "cpus");
    check(r#"{"cpus":0.5,"lease_seconds":0}"#, "lease_seconds");
    check(r#"{"cpus":0.5,"lease_seconds":86401}"#, "lease_seconds");
    check(r#"{"lease_seconds":60}"#, "throttle");
    check(r#"{"cpu_weight":0,"lease_seconds":60}"#, "cpu_weight");
    check(r#"{"io_weight":0,"lease_seconds":60}"#, "io_weight");
    if Path::new("/sys/fs/cgroup/memory").exists() {
        let body = r#"{"cpus":0.5,"memory_high_bytes":67108864,"lease_seconds":60}"#;
        let answer = agent_request(&agent, "PUT", "spin", body);
        assert!(answer["message"].as_str().unwrap().contains("soft limit"), "{answer}");
        let now: Vec<String> = Witness::of(&agent, "spin").files().into_values().collect();
        assert_eq!(now, before, "all or nothing");
    }
    agent.finish();
}

/// Kills the agent at a random moment while it throttles, `times` times: each time, no limit
/// is tighter than the operator's 10 s after the lease.
fn kill_at_random(times: u32) {
    let mut agent = TestAgent::start();
    let names = ["aa", "bb", "cc"];
    for name in names {
        let flags: &[&str] = if name == "aa" { &["--cpus", "0.8"] } else { &[] };
        agent.run_detached(name, flags, &["sleep", "100000"]).unwrap();
    }
    let mut before = Vec::new();
    for name in names {
        let witness = Witness::of(&agent, name);
        let files = witness.files();
        before.push((witness, files));
    }
    let device = disk();
    let io = format!(r#""io":[{{"device":"{device}","write_bytes_per_second":1000000}}]"#);
    let bodies = [
        format!(r#"{{"cpus":0.2,{io},"egress_bits_per_second":5000000,"lease_seconds":1}}"#),
        format!(r#"{{"cpu_idle":true,{io},"egress_bulk":true,"lease_seconds":1}}"#),
        r#"{"cpus":0.1,"cpu_weight":10,"io_weight":1,"lease_seconds":1}"#.to_owned(),
    ];
    let mut random = u64::from(std::process::id()) | 1;
    let mut next = |below: u64| {
        // xorshift: any sequence will do, and this one needs no crate.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut held, mut slowest) = (0, Duration::ZERO);
    for round in 0..times {
        let socket = agent.run_dir().join("tenantry.sock");
        let requests: Vec<_> = (0..6)
            .map(|_| (names[next(3) as usize], bodies[next(3) as usize].clone(), next(20)))
            .collect();
        let (answered, answers) = std::sync::mpsc::channel();
        let client = std::thread::spawn(move || {
            for (name, body, pause_ms) in requests {
                use std::io::{Read as _, Write as _};
                std::thread::sleep(Duration::from_millis(pause_ms));
                let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&socket) else {
                    return;
                };
                let length = body.len();
                let head = format!(
                    "PUT /v1/containers/{name}/throttle HTTP/1.1\r\nHost: t\r\n\
                     Connection: close\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.read_to_end(&mut Vec::new());
                let _ = answered.send(());
            }
        });
        // After so many answers, and a part of the time that one takes on this machine.
        let (began, before_it) = (Instant::now(), next(6) as usize);
        let seen = answers.iter().take(before_it).count();
        let one = began.elapsed() / seen.max(1) as u32;
        std::thread::sleep(one.min(patience(1)) * next(1000) as u32 / 1000);
        agent.kill_nine();
        client.join().unwrap();
        held += u32::from(before.iter().any(|(witness, files)| witness.files() != *files));
        // Sometimes the next agent is there first, sometimes nobody is.
        if round % 4 == 3 {
            let took = assert_restored_within("by the shims", &before, patience(11));
            slowest = slowest.max(took);
        }
        agent.spawn().unwrap();
        let took = assert_restored_within("by the next agent", &before, Duration::ZERO);
        slowest = slowest.max(took);
    }
    println!("{times} kills, {held} while something was held, restored within {slowest:?}");
    // Before the first answer nothing is held; afterwards most often something.
    assert!(held * 3 > times, "most kills hit nothing: {held} of {times}");
    agent.finish();
}

#[test]
fn whenever_the_agent_is_killed_nobody_stays_throttled() {
    skip_unless_possible!();
    kill_at_random(if in_virtual_machine() { 5 } else { 50 });
}

/// `cargo test --release -p tenantry-e2e --test throttle -- --ignored`
#[test]
#[ignore = "takes most of an hour"]
fn a_thousand_kills_leave_nobody_throttled() {
    skip_unless_possible!();
    let times = std::env::var("TENANTRY_KILLS").ok().and_then(|text| text.parse().ok());
    kill_at_random(times.unwrap_or(1000));
}

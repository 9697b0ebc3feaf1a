//! What the meters count is what happened, to the last one.

use std::time::Duration;

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::{patience, skip_unless_possible, until};

fn syscall(stats: &Value, name: &str) -> (u64, u64) {
    let calls = stats["syscalls"].as_array().expect("syscalls is a list");
    let call = calls.iter().find(|call| call["name"] == name);
    call.map_or((0, 0), |call| (call["count"].as_u64().unwrap(), call["errors"].as_u64().unwrap()))
}

#[test]
fn five_thousand_getpid_and_three_hundred_failing_openat_show_exactly() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload syscalls --getpid 5000 --failing-openat 300; sleep 1000";
    // The shell makes calls of its own: the same script without the work tells how many.
    let empty = "workload syscalls; sleep 1000";
    agent.run_detached("work", &[], &["sh", "-c", script]).unwrap();
    agent.run_detached("none", &[], &["sh", "-c", empty]).unwrap();
    let settled = |name: &str| {
        let asleep = || {
            let stats = agent.stats(name);
            // Both programs have ended, and the shell's sleep began.
            stats["exits"]["produced"].as_u64() >= Some(1)
                && syscall(&stats, "clock_nanosleep").0 + syscall(&stats, "nanosleep").0 == 0
                && stats["execs"]["produced"].as_u64() >= Some(2)
        };
        until("the work is done", asleep);
        std::thread::sleep(patience(1) / 4);
        agent.stats(name)
    };
    let (work, none) = (settled("work"), settled("none"));
    let difference = |name: &str| {
        let (with, without) = (syscall(&work, name), syscall(&none, name));
        (with.0 - without.0, with.1 - without.1)
    };
    assert_eq!(difference("getpid"), (5000, 0));
    assert_eq!(difference("openat"), (300, 300));
    let metrics = agent.metrics();
    let labels = [("name", "work"), ("syscall", "getpid")];
    let (count, _) = syscall(&work, "getpid");
    assert_eq!(metrics.sum("tenantry_syscalls_total", &labels), Some(count as f64));
    let failed = |name, class| {
        let labels = [("name", name), ("syscall", "openat"), ("class", class)];
        metrics.sum("tenantry_syscall_errors_total", &labels).unwrap_or(0.0)
    };
    assert_eq!(failed("work", "not_found") - failed("none", "not_found"), 300.0);
    for name in ["work", "none"] {
        let openat = syscall(if name == "work" { &work } else { &none }, "openat");
        let all = [("name", name), ("syscall", "openat")];
        let errors = metrics.sum("tenantry_syscall_errors_total", &all).unwrap_or(0.0);
        assert_eq!(errors, openat.1 as f64, "{name}: the classes add up");
    }
    agent.finish();
}

#[test]
fn a_hundred_datagrams_show_exactly_on_both_sides() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("sink", &[], &["workload", "sink", "9000", "--count", "100"]).unwrap();
    let to = format!("{}:9000", agent.address("sink"));
    std::thread::sleep(patience(1) / 4);
    let send = ["workload", "datagrams", "--to", &to, "--count", "100", "--bytes", "1000"];
    let script = format!("{}; sleep 1000", send.join(" "));
    agent.run_detached("source", &[], &["sh", "-c", &script]).unwrap();
    until("all were received", || agent.state("sink") == "exited");
    let metrics = agent.metrics();
    let network = |name, direction, unit| {
        let series = format!("tenantry_network_{direction}_{unit}_total");
        metrics.sum(&series, &[("name", name), ("interface", "external")]).unwrap_or(0.0)
    };
    // 20 bytes of IP and 8 of UDP travel with each 1,000.
    assert_eq!(network("source", "transmit", "packets"), 100.0);
    assert_eq!(network("source", "transmit", "bytes"), 102_800.0);
    assert_eq!(network("sink", "receive", "packets"), 100.0);
    assert_eq!(network("sink", "receive", "bytes"), 102_800.0);
    // A second witness: the kernel's own counters of the sender's interface.
    let device = agent.ok(&["exec", "source", "cat", "/sys/class/net/eth0/statistics/tx_packets"]);
    assert!(device.trim().parse::<u64>().unwrap() >= 100, "{device}");
    agent.finish();
}

#[test]
fn eight_mebibytes_each_way_past_the_page_cache_show_exactly() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload directio --path /data/file --bytes 8m; sleep 1000";
    // The first one brings the programs' own pages in from the disk, which are reads, too.
    for name in ["rehearsal", "disk"] {
        agent.run_detached(name, &[], &["sh", "-c", script]).unwrap();
        until("the work is done", || agent.stats(name)["exits"]["produced"].as_u64() >= Some(1));
    }
    let stats = agent.stats("disk");
    assert_eq!(stats["disk_write_bytes"], 8 << 20, "{stats}");
    // Blocks of the file system's own that nobody had in memory are read for the container, too;
    // the shell and its child, which it waited for, are all of it.
    let io = std::fs::read_to_string(format!("/proc/{}/io", agent.pid_of("disk"))).unwrap();
    let read = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).unwrap();
    let read_bytes = stats["disk_read_bytes"].as_u64().unwrap();
    assert!((8 << 20..=read.parse().unwrap()).contains(&read_bytes), "{stats} {io}");
    let written =
        agent.metrics().sum("tenantry_disk_bytes_total", &[("name", "disk"), ("op", "write")]);
    assert_eq!(written, Some(f64::from(8 << 20)));
    agent.finish();
}

#[test]
fn the_run_queue_wait_is_what_the_kernel_says_too() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent
        .run_detached("spin", &[], &["workload", "spin", "--seconds", "1000", "--threads", "4"])
        .unwrap();
    let pid = agent.native("spin")["pid"].as_i64().unwrap();
    let waited = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
            .filter_map(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
    };
    std::thread::sleep(Duration::from_secs(2));
    let (kernel, metrics) = (waited(), agent.metrics());
    let ours = metrics.sum("tenantry_run_queue_seconds_sum", &[("name", "spin")]).unwrap() * 1e9;
    let ratio = ours / kernel as f64;
    println!("run-queue wait: {ours:.0} ns, kernel {kernel} ns, ratio {ratio:.3}");
    assert!((0.85..1.15).contains(&ratio), "{ratio}");
    agent.finish();
}

#[test]
fn a_thousand_short_containers_are_all_attributed() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let (rounds, parallel) = if tenantry_e2e::in_virtual_machine() { (5, 4) } else { (50, 20) };
    for round in 0..rounds {
        let children: Vec<_> = (0..parallel)
            .map(|n| {
                let name = format!("r{round}-{n}");
                let mut command = agent.client(&["run", "--rm", "--name", &name, IMAGE, "true"]);
                command.stderr(std::process::Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{error}\n{}", agent.log());
        }
    }
    let total = rounds * parallel;
    let mut execs = 0;
    until("every event is in the audit file", || {
        let text =
            std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap_or_default();
        let mut events: Vec<Value> = text.lines().map(json).collect();
        events.retain(|event| event["event"]["action"] != "chain");
        execs = events.iter().filter(|event| event["event"]["action"] == "exec").count();
        for event in &events {
            let of = &event["container"];
            let name = of["name"].as_str().unwrap_or_default();
            let is_known = name.starts_with('r') && of["image"]["name"] == IMAGE;
            assert!(is_known, "not attributed: {event}");
            assert_eq!(of["id"].as_str().map(str::len), Some(64), "{event}");
        }
        execs >= total
    });
    assert_eq!(execs, total, "each run executes one program");
    assert_eq!(agent.ok(&["ps", "-a", "-q"]), "");
    agent.finish();
}

#[test]
fn exec_and_exit_events_say_who_what_and_where() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "/bin/workload exit 9; /bin/busybox sleep 1000";
    agent.run_detached("web", &[], &["sh", "-c", script]).unwrap();
    let events = || -> Vec<Value> {
        let text =
            std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap_or_default();
        text.lines().map(json).filter(|event| event["container"]["name"] == "web").collect()
    };
    until("three programs were executed", || {
        events().iter().filter(|event| event["event"]["action"] == "exec").count() == 3
    });
    let events = events();
    let first = &events[0];
    let process = &first["process"];
    assert_eq!(process["args"], serde_json::json!(["sh", "-c", script]));
    assert_eq!((&process["container_pid"], &process["user"]["id"]), (&1.into(), &0.into()));
    let view = agent.native("web");
    assert_eq!(process["pid"], view["pid"]);
    for namespace in first["namespaces"].as_array().unwrap() {
        let kind = namespace["type"].as_str().unwrap();
        assert_eq!(namespace["inode"], view["namespaces"][kind], "{kind}");
    }
    let mut processes = events.iter().map(|event| &event["process"]);
    let work = processes.clone().find(|of| of["executable"] == "/bin/workload").unwrap();
    assert_eq!(work["parent"]["pid"], process["pid"]);
    let exit = processes.find(|of| of["pid"] == work["pid"] && of["exit_code"].is_number());
    assert_eq!(exit.expect("its exit is there")["exit_code"], 9);
    let stats = agent.stats("web");
    for kind in ["execs", "exits"] {
        let count = |field: &str| stats[kind][field].as_u64().unwrap();
        assert_eq!(count("produced"), count("delivered") + count("lost"), "{kind}: {stats}");
    }
    agent.finish();
}

//! A disk whose queue knows weights, shared by two who read all they can: the lighter one has
//! less while the other wants the disk, and all of it otherwise. The witness is what the kernel
//! counted for each process, in `/proc/<pid>/io`.

use std::path::Path;
use std::time::{Duration, Instant};

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::loop_device::LoopDevice;
use tenantry_e2e::witness::{Files, Witness};
use tenantry_e2e::{patience, skip_unless_possible, until};

const WINDOW: Duration = Duration::from_secs(3);

fn read_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).expect("a number")
}

/// Megabytes a second that each has read.
fn rates(agent: &TestAgent, names: &[&str]) -> Vec<f64> {
    let pids: Vec<u32> = names.iter().map(|name| agent.pid_of(name)).collect();
    let (began, before) = (Instant::now(), pids.iter().map(|pid| read_bytes(*pid)));
    let before: Vec<u64> = before.collect();
    std::thread::sleep(WINDOW);
    let seconds = began.elapsed().as_secs_f64();
    let rate = |(pid, before): (&u32, u64)| (read_bytes(*pid) - before) as f64 / 1e6 / seconds;
    pids.iter().zip(before).map(rate).collect()
}

/// Of the first window in which they share as they should, or of the last one: bfq may favour
/// whoever began first for some seconds.
fn rates_once(agent: &TestAgent, names: &[&str], fits: impl Fn(&[f64]) -> bool) -> Vec<f64> {
    let mut last = Vec::new();
    for _ in 0..6 {
        last = rates(agent, names);
        if fits(&last) {
            break;
        }
    }
    last
}

/// Reads 4 KiB here and there past the page cache, `rate` times a second if it can. A rate that
/// the disk can serve leaves nothing to share.
fn read(agent: &TestAgent, disk: &LoopDevice, name: &str, rate: &str, workers: &str) {
    let path = format!("/disk/{name}");
    let command = ["workload", "randread", "--path", &path, "--bytes", "33554432", "--rate", rate];
    let more = ["--seconds", "80", "--workers", workers];
    agent.run_detached(name, &["-v", &disk.bind()], &[&command[..], &more].concat()).unwrap();
    let pid = agent.pid_of(name);
    let before = read_bytes(pid);
    until("it reads", || read_bytes(pid) > before + (1 << 16));
}

/// With bfq, on every kernel that has it.
fn weighted_disk(agent: &TestAgent) -> Option<LoopDevice> {
    let mut disk = LoopDevice::attach(agent)?;
    disk.set_scheduler("bfq").then_some(disk)
}

fn weights(witness: &Witness) -> Vec<String> {
    let is_weight = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.ends_with("bfq.weight"))
    };
    let files: Files = witness.files();
    let found = files.into_iter().filter(|(path, _)| is_weight(path));
    found.map(|(_, text)| text.trim().replace("default ", "")).collect()
}

#[test]
fn the_lighter_one_has_less_of_a_disk_while_the_other_wants_it_and_all_otherwise() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let Some(disk) = weighted_disk(&agent) else {
        agent.finish();
        println!("SKIPPED: no loop device with bfq can be had");
        return;
    };
    read(&agent, &disk, "calm", "100000", "4");
    read(&agent, &disk, "greedy", "100000", "4");
    let names = ["greedy", "calm"];
    let share = |rates: &[f64]| rates[0] / (rates[0] + rates[1]);
    let equal = rates_once(&agent, &names, |rates| share(rates) > 0.25);
    let witness = Witness::of(&agent, "greedy");
    let before = witness.files();
    assert_eq!(weights(&witness), ["100"]);
    let hold = |lease: u32| {
        let body = format!(r#"{{"io_weight":1,"lease_seconds":{lease}}}"#);
        put_throttle(&agent, "greedy", &body)
    };
    let answer = hold(600);
    assert_eq!(answer["throttle"]["actuators"], serde_json::json!(["io.weight"]), "{answer}");
    assert_eq!(weights(&witness), ["1"]);
    let light = rates_once(&agent, &names, |rates| share(rates) < 0.5 * share(&equal));
    agent.ok(&["rm", "-f", "calm"]);
    let alone = rates(&agent, &["greedy"])[0];
    println!(
        "MB/s of greedy and calm: {equal:.1?} with equal weights, {light:.1?} with 1 against \
         100, {alone:.1} alone with 1"
    );
    assert!(share(&equal) > 0.25, "{equal:.2?}");
    assert!(share(&light) < 0.5 * share(&equal), "{light:.2?} after {equal:.2?}");
    assert!(alone > 2.0 * light[0], "a weight takes only what others want");
    // What nobody renews the shim gives back.
    hold(3);
    agent.kill_nine();
    assert_eq!(weights(&witness), ["1"], "held without agent");
    let began = Instant::now();
    while witness.files() != before {
        assert!(began.elapsed() < patience(13), "{:?}", weights(&witness));
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.spawn().unwrap();
    agent.ok(&["rm", "-f", "greedy"]);
    drop(disk);
    agent.finish();
}

/// The endpoint itself, by hand.
fn put_throttle(agent: &TestAgent, name: &str, body: &str) -> serde_json::Value {
    use std::io::{Read as _, Write as _};
    let socket = agent.run_dir().join("tenantry.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let head = format!(
        "PUT /v1/containers/{name}/throttle HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    json(answer.split_once("\r\n\r\n").expect("a head").1)
}

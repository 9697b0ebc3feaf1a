//! Limits bite, measured from outside: `/proc`, the clock of a receiver, the
//! container's own fate.

use std::time::{Duration, Instant};

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::cpu_ticks;
use tenantry_e2e::loop_device::LoopDevice;
use tenantry_e2e::{in_virtual_machine, skip_unless_possible, until};

/// Within 5 % of what was asked for. A measurement that something else on the host disturbed
/// is made again, twice at most: a limit that does not bite is wrong each time.
#[track_caller]
fn assert_near(what: &str, wanted: f64, mut measure: impl FnMut() -> f64) {
    for _ in 0..3 {
        let measured = measure();
        let ratio = measured / wanted;
        println!("{what}: {measured:.3} for {wanted:.3} wanted, ratio {ratio:.3}");
        if (0.95..=1.05).contains(&ratio) {
            return;
        }
    }
    panic!("{what}: three measurements are more than 5 % off");
}

/// As [`assert_near`], of what the emulated machine is too slow for or has no time of its own
/// to measure by.
#[track_caller]
fn assert_near_on_the_host(what: &str, wanted: f64, mut measure: impl FnMut() -> f64) {
    match in_virtual_machine() {
        true => println!("{what}: {:.3} for {wanted:.3} wanted, not judged", measure()),
        false => assert_near(what, wanted, measure),
    }
}

#[test]
fn half_a_cpu_is_half_a_cpu() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent
        .run_detached("spin", &[], &["workload", "spin", "--seconds", "1000", "--threads", "2"])
        .unwrap();
    let answer = agent.ok(&["limit", "spin", "--cpus", "0.5"]);
    assert!(answer.contains("cpu.max") || answer.contains("cpu.cfs_quota_us"), "{answer}");
    let pid = agent.native("spin")["pid"].as_u64().unwrap() as u32;
    std::thread::sleep(Duration::from_millis(500));
    assert_near_on_the_host("CPUs", 0.5, || {
        let (began, before) = (Instant::now(), cpu_ticks(pid).unwrap());
        std::thread::sleep(Duration::from_secs(5));
        let used = (cpu_ticks(pid).unwrap() - before) as f64 / 100.0;
        used / began.elapsed().as_secs_f64()
    });
    let throttled =
        agent.metrics().sum("container_cpu_cfs_throttled_periods_total", &[("name", "spin")]);
    assert!(throttled.unwrap() > 0.0);
    agent.ok(&["limit", "spin", "--cpus", "max"]);
    assert!(agent.native("spin")["limits"]["cpus"].is_null());
    agent.finish();
}

#[test]
fn a_container_over_its_memory_is_killed_reported_and_restarted_under_policy() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let flags = ["--memory", "64m", "--restart", "on-failure:1"];
    agent.run_detached("hog", &flags, &["workload", "memory", "--bytes", "200m"]).unwrap();
    until("it was killed twice", || {
        agent.state("hog") == "exited" && agent.native("hog")["restarts"] == 1
    });
    let view = agent.inspect("hog");
    assert_eq!(view["State"]["OOMKilled"], true);
    assert_eq!(view["State"]["ExitCode"], 137);
    let kills = agent.metrics().sum("container_oom_events_total", &[("name", "hog")]);
    assert!(kills >= Some(2.0), "{kills:?}");
    agent.finish();
}

#[test]
fn a_memory_limit_below_what_is_in_use_is_refused_with_both_numbers() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let hold = ["workload", "memory", "--bytes", "100m", "--seconds", "1000"];
    agent.run_detached("holder", &["--memory", "256m"], &hold).unwrap();
    until("it holds its memory", || {
        agent.stats("holder")["memory_working_set_bytes"].as_u64() > Some(100 << 20)
    });
    let (_, error) = agent.fails(&["limit", "holder", "--memory", "32m", "--pids", "77"]);
    assert!(error.contains("33554432") && error.contains("memory"), "{error}");
    let limits = &agent.native("holder")["limits"];
    assert_eq!(limits["memory_bytes"], 256 << 20, "a refused change changes nothing");
    assert!(limits["pids"].is_null(), "not even its other half: {limits}");
    assert_eq!(agent.state("holder"), "running");
    agent.finish();
}

#[test]
fn forks_end_at_the_pids_limit() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("few", &["--pids", "10"], &["sleep", "1000"]).unwrap();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3 & done; wait";
    let output = agent.output(&["exec", "few", "sh", "-c", script]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("fork"), "{error}");
    agent.finish();
}

/// What the emulated machine's disk surely exceeds.
fn disk_limit() -> u64 {
    if in_virtual_machine() { 1_000_000 } else { 5_000_000 }
}

/// Files that were written before, and what a cache may hold, are not the rate.
const SETTLING: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(10);

#[test]
fn a_disk_s_limit_is_what_passes_past_the_page_cache_both_ways() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let Some(disk) = LoopDevice::attach(&agent) else {
        agent.finish();
        println!("SKIPPED: no loop device can be had");
        return;
    };
    let script = "for f in r w; do dd if=/dev/zero of=/disk/$f bs=1M count=64; done
        sync; touch /disk/ready
        while :; do dd if=/dev/zero of=/disk/w bs=64k count=1024 oflag=direct conv=notrunc; done &
        while :; do dd if=/disk/r of=/dev/null bs=64k count=1024 iflag=direct; done";
    agent.run_detached("disk", &["-v", &disk.bind()], &["sh", "-c", script]).unwrap();
    until("the files are there", || disk.mount.join("ready").exists());
    let limit = format!("{}:{}", disk.device, disk_limit());
    let answer = agent.ok(&["limit", "disk", "--io-read", &limit, "--io-write", &limit]);
    assert!(answer.contains("io.max") || answer.contains("blkio.throttle"), "{answer}");
    std::thread::sleep(SETTLING);
    let wanted = disk_limit() as f64 / 1e6;
    for (at, what) in ["MB/s read", "MB/s written"].iter().enumerate() {
        assert_near(what, wanted, || disk.rates(WINDOW)[at]);
    }
    // The disk could do more.
    let max = format!("{}:max", disk.device);
    agent.ok(&["limit", "disk", "--io-read", &max, "--io-write", &max]);
    let free = disk.rates(Duration::from_secs(3));
    println!("MB/s without a limit: {free:.1?}");
    assert!(free.iter().all(|rate| *rate > 1.5 * wanted), "{free:?}");
    agent.ok(&["rm", "-f", "disk"]);
    drop(disk);
    agent.finish();
}

#[test]
fn a_disk_s_limit_holds_what_the_page_cache_writes_later() {
    skip_unless_possible!();
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        println!("SKIPPED: on cgroup v1 late writes are charged to the root");
        return;
    }
    let agent = TestAgent::start();
    let Some(disk) = LoopDevice::attach(&agent) else {
        agent.finish();
        println!("SKIPPED: no loop device can be had");
        return;
    };
    let limit = format!("{}:{}", disk.device, disk_limit());
    let script = "while :; do dd if=/dev/zero of=/disk/f bs=64k count=1024 conv=notrunc; done";
    // With little memory of its own it has soon written all that may lie in the cache.
    let bind = disk.bind();
    let flags = ["-v", &bind, "--memory", "64m", "--io-write", &limit];
    agent.run_detached("writer", &flags, &["sh", "-c", script]).unwrap();
    std::thread::sleep(SETTLING);
    until("the kernel writes", || disk.rates(Duration::from_secs(1))[1] > 0.0);
    // The first seconds of it passed faster: 1.35 of the limit in the first ten (6.1).
    std::thread::sleep(WINDOW);
    let wanted = disk_limit() as f64 / 1e6;
    // How much there is to be written is the kernel's choice, and a slow machine's; what was
    // not written in one window may be in the next.
    let mut shares: Vec<f64> = vec![];
    let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
    while !(0.95..=1.05).contains(&mean(&shares)) {
        assert!(shares.len() < 8, "of the limit was written later: {shares:.3?}");
        shares.push(disk.rates(WINDOW)[1] / wanted);
    }
    println!("of the limit was written later: {shares:.3?}");
    agent.ok(&["limit", "writer", "--io-write", &format!("{}:max", disk.device)]);
    std::thread::sleep(SETTLING);
    let free = disk.rates(WINDOW)[1];
    println!("MB/s written later without a limit: {free:.1}");
    assert!(free > 1.5 * wanted, "{free}");
    agent.ok(&["rm", "-f", "writer"]);
    drop(disk);
    agent.finish();
}

#[test]
fn twenty_megabits_a_second_are_twenty_megabits_a_second_each_way() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    for (name, flag) in [("sender", "--egress"), ("receiver", "--ingress")] {
        agent.run_detached("sink", &[], &["workload", "sink", "9000", "--tcp"]).unwrap();
        agent.run_detached(name, &[], &["sleep", "1000"]).unwrap();
        let limited = if flag == "--egress" { name } else { "sink" };
        let answer = agent.ok(&["limit", limited, flag, "20mbit"]);
        assert!(answer.contains("tbf"), "{answer}");
        let to = format!("{}:9000", agent.address("sink"));
        let received = || {
            let metrics = agent.metrics();
            let labels = [("name", "sink"), ("interface", "eth0")];
            metrics.sum("container_network_receive_bytes_total", &labels).unwrap_or(0.0)
        };
        let streaming = agent
            .client(&["exec", name, "workload", "stream", "--to", &to, "--seconds", "20"])
            .spawn()
            .unwrap();
        // What the bucket held at the start passes at once and is not the rate.
        std::thread::sleep(Duration::from_secs(3));
        assert_near_on_the_host(&format!("Mbit/s {flag}"), 20.0, || {
            let (began, before) = (Instant::now(), received());
            std::thread::sleep(Duration::from_secs(4));
            (received() - before) * 8.0 / 1e6 / began.elapsed().as_secs_f64()
        });
        agent.ok(&["rm", "-f", "sink", name]);
        streaming.wait_with_output().unwrap();
    }
    agent.finish();
}

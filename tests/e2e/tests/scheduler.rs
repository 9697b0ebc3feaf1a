//! The scheduler's account of a container against the kernel's own of its threads.

use std::path::{Path, PathBuf};

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::{patience, skip_unless_possible, until};

/// Directories of the container's threads in `/proc`.
fn threads(agent: &TestAgent, name: &str) -> Vec<PathBuf> {
    let id = agent.native(name)["id"].as_str().unwrap().to_owned();
    let directories = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    directories("/proc".into())
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::read_to_string(path.join("cgroup")).is_ok_and(|text| text.contains(&id))
        })
        .flat_map(|path| directories(path.join("task")).map(|entry| entry.path()))
        .collect()
}

/// Voluntary and involuntary switches so far.
fn switches(threads: &[PathBuf]) -> [u64; 2] {
    let status: Vec<String> = threads
        .iter()
        .map(|thread| std::fs::read_to_string(thread.join("status")).expect("it lives"))
        .collect();
    ["\nvoluntary_ctxt_switches:", "\nnonvoluntary_ctxt_switches:"].map(|field| {
        let number = |text: &String| {
            let line = text.split_once(field).expect("status counts switches").1;
            line.lines().next().unwrap().trim().parse::<u64>().unwrap()
        };
        status.iter().map(number).sum()
    })
}

struct Look {
    before: [u64; 2],
    ours: [u64; 2],
    after: [u64; 2],
}

fn look(agent: &TestAgent, threads: &[PathBuf]) -> Look {
    let before = switches(threads);
    let metrics = agent.metrics();
    let ours = ["voluntary", "involuntary"].map(|kind| {
        let labels = [("name", "work"), ("kind", kind)];
        metrics.sum("tenantry_scheduler_switches_total", &labels).unwrap_or(0.0) as u64
    });
    Look { before, ours, after: switches(threads) }
}

/// Three spinners compete, so that there is pressure.
fn pressure_is_the_kernels_own(agent: &TestAgent) {
    let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let mount = mount.into_iter().find(|path| path.join("cgroup.procs").exists()).unwrap();
    let id = agent.native("work")["id"].as_str().unwrap().to_owned();
    let group = mount.join(&agent.cgroup_parent).join(id);
    if !group.join("cpu.pressure").exists() {
        println!("pressure not compared: this kernel has none");
        return;
    }
    let total = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let total = text.lines().next().unwrap().rsplit_once("total=").unwrap().1;
        total.parse::<f64>().unwrap() / 1e6
    };
    for resource in ["cpu", "memory", "io"] {
        let kernels = || {
            let host = total(Path::new("/proc/pressure").join(resource));
            [total(group.join(format!("{resource}.pressure"))), host]
        };
        let before = kernels();
        let metrics = agent.metrics();
        let after = kernels();
        let name = format!("container_pressure_{resource}_waiting_seconds_total");
        let ours = metrics.sum(&name, &[("name", "work")]).expect("pressure of the container");
        let host = format!("tenantry_host_pressure_{resource}_waiting_seconds_total");
        let ours = [ours, metrics.sum(&host, &[]).expect("pressure of the host")];
        println!("{resource}: container and host {ours:?}, the kernel's {before:?} to {after:?}");
        for n in 0..2 {
            assert!((before[n]..=after[n]).contains(&ours[n]), "{resource}");
        }
        let stalled = format!("container_pressure_{resource}_stalled_seconds_total");
        assert!(metrics.sum(&stalled, &[("name", "work")]).is_some());
        assert!(resource != "cpu" || ours[0] > 0.0, "nobody waited");
    }
}

#[test]
fn every_switch_of_a_containers_threads_is_counted() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    // Spinners are preempted, a server and its clients wait for each other.
    let script = "workload spin --seconds 1000 --threads 3 & workload serve 7000 & sleep 1; \
                  workload load 127.0.0.1:7000 --rate 100 --seconds 1000";
    agent.run_detached("work", &[], &["sh", "-c", script]).unwrap();
    // The shell, three spinners and their main thread, a server's and a client's at least.
    until("all threads are there", || threads(&agent, "work").len() >= 9);
    std::thread::sleep(patience(1));
    let threads = threads(&agent, "work");
    let first = look(&agent, &threads);
    std::thread::sleep(patience(1));
    let second = look(&agent, &threads);
    for (kind, n) in [("voluntary", 0), ("involuntary", 1)] {
        let ours = second.ours[n] - first.ours[n];
        let least = second.before[n] - first.after[n];
        let most = second.after[n] - first.before[n];
        println!("{kind}: {ours}, the kernel's {least} to {most}");
        assert!((least..=most).contains(&ours) && ours > 0, "{kind}");
    }
    let metrics = agent.metrics();
    let off = |state| {
        let labels = [("name", "work"), ("state", state)];
        metrics.sum("tenantry_scheduler_off_cpu_seconds_total", &labels)
    };
    let waits = metrics.sum("tenantry_run_queue_seconds_sum", &[("name", "work")]).unwrap();
    let parts = off("preempted").unwrap() + off("woken").unwrap();
    // The encoder writes both with all digits, but adds them up otherwise.
    assert!((parts - waits).abs() < 1e-6, "{parts} s are not the run queue's {waits} s");
    assert!(off("interruptible").unwrap() > 1.0);
    let on = metrics.sum("tenantry_scheduler_on_cpu_seconds_total", &[("name", "work")]);
    assert!(on.unwrap() > 0.5, "three spinners: {on:?}");
    assert!(metrics.sum("tenantry_host_steal_seconds_total", &[]).is_some());
    pressure_is_the_kernels_own(&agent);
    agent.finish();
}

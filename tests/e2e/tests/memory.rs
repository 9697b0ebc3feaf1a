//! Memory of a container against the cgroup's own files, read by a parser of the test's
//! own, and against a workload that touches a known number of bytes.

use std::path::{Path, PathBuf};

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::{skip_unless_possible, until};

const MIB: f64 = 1048576.0;

/// The container's directory with its memory files, and whether it is v1's.
fn group(agent: &TestAgent, name: &str) -> (PathBuf, bool) {
    let id = agent.native(name)["id"].as_str().unwrap().to_owned();
    let v1 = Path::new("/sys/fs/cgroup/memory").join(&agent.cgroup_parent).join(&id);
    match v1.exists() {
        true => (v1, true),
        false => (Path::new("/sys/fs/cgroup").join(&agent.cgroup_parent).join(id), false),
    }
}

fn number(path: PathBuf) -> f64 {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    text.trim().parse().unwrap()
}

fn stat(group: &Path, key: &str) -> f64 {
    let text = std::fs::read_to_string(group.join("memory.stat")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {key} in {text}")).parse().unwrap()
}

#[test]
fn memory_is_what_was_touched_and_what_the_kernel_says() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    // 40 MiB anonymous, 12 MiB of a file; the shell goes to sleep when both are there.
    let script = "workload memory --bytes 40m & \
                  dd if=/dev/zero of=/data/file bs=1M count=12 2>/dev/null; \
                  cat /data/file > /dev/null; echo done; sleep 1000";
    let flags = ["--memory", "128m"];
    agent.run_detached("hold", &flags, &["sh", "-c", script]).unwrap();
    until("both are in memory", || {
        let logs = agent.ok(&["logs", "hold"]);
        logs.contains("held_bytes") && logs.contains("done")
    });
    let (group, v1) = group(&agent, "hold");
    let metrics = agent.metrics();
    let ours = |name: &str| metrics.sum(name, &[("name", "hold")]);
    let rss = ours("container_memory_rss").unwrap();
    let cache = ours("container_memory_cache").unwrap();
    println!("anonymous {:.1} MiB, page cache {:.1} MiB", rss / MIB, cache / MIB);
    // The programs themselves take little beside what they touch.
    assert!((40.0..48.0).contains(&(rss / MIB)), "{rss}");
    assert!((12.0..20.0).contains(&(cache / MIB)), "{cache}");

    let key = |v1_name: &'static str, v2_name| if v1 { v1_name } else { v2_name };
    let file = |v1_name: &'static str, v2_name| group.join(key(v1_name, v2_name));
    // Everybody sleeps, but for what the kernel writes back: 1 MiB is its play.
    let near = |name: &str, witness: f64| {
        let ours = ours(name).unwrap_or_else(|| panic!("no {name}"));
        println!("{name}: {ours}, the kernel's {witness}");
        assert!((ours - witness).abs() <= MIB, "{name}: {ours}, not {witness}");
    };
    let usage = number(file("memory.usage_in_bytes", "memory.current"));
    let inactive = stat(&group, key("total_inactive_file", "inactive_file"));
    near("container_memory_usage_bytes", usage);
    near("container_memory_working_set_bytes", (usage - inactive).max(0.0));
    near("container_memory_rss", stat(&group, key("total_rss", "anon")));
    near("container_memory_cache", stat(&group, key("total_cache", "file")));
    near("container_memory_mapped_file", stat(&group, key("total_mapped_file", "file_mapped")));
    near("container_memory_total_inactive_file_bytes", inactive);
    if file("memory.max_usage_in_bytes", "memory.peak").exists() {
        near(
            "container_memory_max_usage_bytes",
            number(file("memory.max_usage_in_bytes", "memory.peak")),
        );
    }
    match v1 {
        true => {
            near("container_memory_kernel_usage", number(group.join("memory.kmem.usage_in_bytes")));
        }
        false => near("container_memory_kernel_usage", stat(&group, "kernel")),
    }
    assert_eq!(ours("container_spec_memory_limit_bytes"), Some(128.0 * MIB));
    assert_eq!(ours("container_spec_memory_reservation_limit_bytes"), Some(0.0));
    assert_eq!(ours("container_spec_cpu_shares"), Some(1024.0));
    assert_eq!(ours("container_memory_failcnt"), Some(0.0));
    for scope in ["container", "hierarchy"] {
        let faults = |kind| {
            let labels = [("name", "hold"), ("failure_type", kind), ("scope", scope)];
            metrics.sum("container_memory_failures_total", &labels)
        };
        // Each page of 4 KiB is touched once; huge pages take 512 at a time.
        assert!(faults("pgfault").unwrap() >= 20.0, "{scope}");
        assert!(faults("pgmajfault").is_some());
    }
    agent.finish();
}

//! What disks do for containers, through a real agent: against the cgroups' own files,
//! the workload's own count, and on v2 also what the kernel writes back later.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::scrape::Metrics;
use tenantry_e2e::{in_virtual_machine, skip_unless_possible, until};

const MIB: f64 = 1_048_576.0;

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// `cat` of a file that appears when the script before it is done.
fn wait_for(agent: &TestAgent, name: &str) {
    until("the script is done", || agent.run(&["exec", name, "cat", "/done"]).is_ok());
}

fn disk(metrics: &Metrics, quantity: &str, name: &str, op: &str) -> f64 {
    metrics.sum(&format!("tenantry_disk_{quantity}"), &[("name", name), ("op", op)]).unwrap_or(0.0)
}

#[test]
fn direct_writes_and_their_flushes_have_a_queue_a_duration_and_no_errors() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload directio --path /data/file --bytes 8m; \
                  dd if=/data/file of=/copy bs=1M conv=fsync; touch /done; sleep 1000";
    agent.run_detached("disk", &[], &["sh", "-c", script]).unwrap();
    wait_for(&agent, "disk");
    let metrics = agent.metrics();
    let get = |quantity: &str, op: &str| disk(&metrics, quantity, "disk", op);
    for op in ["read", "write"] {
        let operations = get("operations_total", op);
        assert!(operations >= 8.0, "{op}: {operations}");
        assert_eq!(get("duration_seconds_count", op), operations, "{op}");
        assert_eq!(get("queue_seconds_count", op), operations, "{op}");
        assert_eq!((get("errors_total", op), get("in_flight", op)), (0.0, 0.0), "{op}");
    }
    // The direct ones and, since the container itself called fsync, those of the copy.
    assert!(get("bytes_total", "write") >= 16.0 * MIB, "{}", get("bytes_total", "write"));
    // cAdvisor's names: the cgroup's own files count what was handed to the devices.
    for (op, operation) in [("read", "Read"), ("write", "Write")] {
        let labels = [("name", "disk"), ("operation", operation)];
        let usage = metrics.sum("container_blkio_device_usage_total", &labels);
        assert_eq!(usage, Some(get("bytes_total", op)), "{op}");
        let series = format!("container_fs_{op}s_bytes_total");
        assert_eq!(metrics.sum(&series, &[("name", "disk")]), usage, "{op}");
    }
    agent.finish();
}

#[test]
fn what_the_kernel_writes_back_later_is_the_writers_or_nobodys() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let containers = [("four", 4), ("nine", 9)];
    for (name, mib) in containers {
        let script =
            format!("dd if=/dev/zero of=/data/file bs=1M count={mib}; touch /done; sleep 1000");
        agent.run_detached(name, &[], &["sh", "-c", &script]).unwrap();
        wait_for(&agent, name);
    }
    let before = agent.metrics();
    let dirty = before.sum("tenantry_memory_dirty_bytes", &[("name", "nine")]).unwrap_or(0.0);
    println!("dirty before: {:.1} MiB", dirty / MIB);
    // From outside: the kernel's own threads write, not the containers.
    let scratch = std::fs::File::open(&agent.scratch).unwrap();
    rustix::fs::syncfs(&scratch).unwrap();
    let after = agent.metrics();
    let grown = |read: &dyn Fn(&Metrics) -> f64| read(&after) - read(&before);
    let unattributed = grown(&|metrics| {
        let labels = [("op", "write")];
        metrics.sum("tenantry_disk_unattributed_bytes_total", &labels).unwrap_or(0.0)
    });
    for (name, mib) in containers {
        let total = disk(&after, "bytes_total", name, "write");
        println!("{name}: {:.2} MiB written, v2: {}", total / MIB, is_v2());
        if is_v2() {
            // Its own pages, and a little of what the file system wrote about them.
            let wanted = f64::from(mib) * MIB;
            assert!((wanted..wanted + 0.5 * MIB).contains(&total), "{name}: {total}");
        } else {
            assert!(total < 0.5 * MIB, "{name}: {total}");
        }
    }
    if !is_v2() && dirty >= 8.0 * MIB {
        // Others write, too: at least ours.
        assert!(unattributed >= 9.0 * MIB, "{unattributed}");
    }
    let left = after.sum("tenantry_memory_dirty_bytes", &[("name", "nine")]).unwrap_or(0.0);
    assert!(left < MIB, "{left} bytes are dirty after a sync");
    if in_virtual_machine() {
        println!("unattributed meanwhile: {:.2} MiB", unattributed / MIB);
    }
    agent.finish();
}

/// Native statistics and metrics are one truth.
#[test]
fn the_native_view_adds_up_what_the_metrics_show() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "workload directio --path /data/file --bytes 4m; touch /done; sleep 1000";
    agent.run_detached("disk", &[], &["sh", "-c", script]).unwrap();
    wait_for(&agent, "disk");
    let (metrics, stats) = (agent.metrics(), agent.stats("disk"));
    for op in ["read", "write"] {
        let shown = disk(&metrics, "bytes_total", "disk", op) as u64;
        assert_eq!(stats[format!("disk_{op}_bytes")], Value::from(shown), "{op}");
    }
    agent.finish();
}

/// As any Docker client asks.
fn docker_get(agent: &TestAgent, path: &str) -> Value {
    let mut stream = UnixStream::connect(agent.docker_socket()).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    json(answer.split_once("\r\n\r\n").expect("an HTTP answer").1)
}

/// Bytes and inodes below a directory, itself included, each inode once: as `du` does it.
fn du(path: &Path, seen: &mut BTreeSet<u64>) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if !seen.insert(metadata.ino()) {
        return 0;
    }
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    let below: u64 = match metadata.is_dir() {
        true => below.map(|entry| du(&entry.path(), seen)).sum(),
        false => 0,
    };
    metadata.blocks() * 512 + below
}

#[test]
fn the_writable_layer_takes_what_du_says_and_is_counted_anew_when_it_changed() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with("[meters]\nfs_usage_interval_s = 1\n").unwrap();
    // The first answer has nothing yet: whoever asks first starts the count.
    let script = "mkdir /a; dd if=/dev/urandom of=/a/data bs=1M count=3; ln /a/data /a/again; \
                  ln /a/data /a/once-more; sync; touch /done; sleep 1000";
    agent.run_detached("writer", &[], &["sh", "-c", script]).unwrap();
    wait_for(&agent, "writer");
    let id = agent.native("writer")["id"].as_str().unwrap().to_owned();
    let upper = agent.data_dir().join("containers").join(id).join("upper");
    assert!(upper.is_dir(), "{}", upper.display());
    let shown = |name: &str| agent.metrics().sum(name, &[("name", "writer")]);
    let settled = || {
        until("the layer is counted as it is", || {
            let mut seen = BTreeSet::new();
            let bytes = du(&upper, &mut seen) as f64;
            shown("container_fs_usage_bytes") == Some(bytes)
                && shown("tenantry_fs_inodes") == Some(seen.len() as f64)
        });
    };
    settled();
    let usage = shown("container_fs_usage_bytes").unwrap();
    // The data once, however many names it has.
    assert!((3.0 * MIB..3.5 * MIB).contains(&usage), "{usage}");
    assert!(shown("container_fs_limit_bytes") > Some(usage));
    assert!(shown("tenantry_fs_usage_age_seconds").is_some_and(|age| age >= 0.0));
    // Docker's word for it.
    let sizes = docker_get(&agent, "/containers/json?size=1");
    assert_eq!(sizes[0]["SizeRw"].as_f64(), Some(usage), "{sizes}");
    assert!(sizes[0]["SizeRootFs"].as_f64() > Some(usage), "{sizes}");

    agent.ok(&["exec", "writer", "sh", "-c", "dd if=/dev/urandom of=/more bs=1M count=2; sync"]);
    until("the second file is counted", || {
        shown("container_fs_usage_bytes").is_some_and(|bytes| bytes >= usage + 2.0 * MIB)
    });
    settled();
    agent.ok(&["exec", "writer", "rm", "/more"]);
    until("it is gone again", || {
        shown("container_fs_usage_bytes").is_some_and(|bytes| bytes < usage + MIB)
    });
    agent.finish();
}

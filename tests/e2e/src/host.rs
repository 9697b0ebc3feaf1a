//! What a test may have left on the host: cgroups, mounts, interfaces, firewall
//! tables, pinned maps, processes.

use std::collections::{BTreeSet, HashMap};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Everything that can be left behind, as one line each.
#[derive(Clone, Debug, Default)]
pub struct HostState {
    lines: BTreeSet<String>,
}

impl HostState {
    pub fn take() -> Self {
        let mut lines = BTreeSet::new();
        cgroups(Path::new("/sys/fs/cgroup"), 0, &mut lines);
        for line in read("/proc/self/mountinfo").lines() {
            // Without the mount's own number, which changes.
            let fields: Vec<&str> = line.split(' ').skip(2).collect();
            lines.insert(format!("mount {}", fields.join(" ")));
        }
        for entry in std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            let alias = read(entry.path().join("ifalias"));
            lines.insert(format!(
                "interface {} {}",
                entry.file_name().to_string_lossy(),
                alias.trim()
            ));
        }
        if let Ok(output) = Command::new("nft").args(["list", "tables"]).output() {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                lines.insert(format!("nftables {line}"));
            }
        }
        for entry in std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten() {
            lines.insert(format!("pin {}", entry.path().display()));
        }
        processes(&mut lines);
        Self { lines }
    }

    /// What is there now, was not then, and carries one of `traces`: other programs
    /// of the host come and go meanwhile.
    pub fn left_since(&self, traces: &[&str]) -> Vec<String> {
        let ours = |line: &&String| traces.iter().any(|trace| line.contains(trace));
        Self::take().lines.difference(&self.lines).filter(ours).cloned().collect()
    }
}

fn cgroups(directory: &Path, depth: usize, lines: &mut BTreeSet<String>) {
    // Ours lie at most four below the mount point: hierarchy, parent, container, child.
    if depth > 4 {
        return;
    }
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            lines.insert(format!("cgroup {}", entry.path().display()));
            cgroups(&entry.path(), depth + 1, lines);
        }
    }
}

/// Ours carry their directory in the command line, or their cgroup.
fn processes(lines: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == std::process::id().to_string() {
            continue;
        }
        let command = read(entry.path().join("cmdline")).replace('\0', " ");
        let cgroup = read(entry.path().join("cgroup")).replace('\n', " ");
        let directory = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
        lines.insert(format!("process {pid} {command} {cgroup} {}", directory.display()));
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// What an engine under test has mounted below its own directory, the innermost first.
pub fn unmount_below(root: &Path) {
    let mounts = read("/proc/self/mounts");
    let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let ours: Vec<&str> = ours.filter(|dir| Path::new(dir).starts_with(root)).collect();
    for dir in ours.iter().rev() {
        let _ = Command::new("umount").arg(dir).status();
    }
}

/// The number of open descriptors, threads and so on of a process, from `/proc`.
pub fn status_kib(pid: u32, field: &str) -> Option<u64> {
    let status = read(format!("/proc/{pid}/status"));
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Counters of the network namespace that a process is in, by name: those of one protocol, as
/// `/proc/net/snmp` and `/proc/net/netstat` head their lines (`Tcp`, `TcpExt`, `Udp`).
pub fn namespace_counters(pid: u32, protocol: &str) -> HashMap<String, f64> {
    let text = ["snmp", "netstat"].map(|file| read(format!("/proc/{pid}/net/{file}"))).concat();
    let of_protocol = |line: &str| Some(line.strip_prefix(protocol)?.strip_prefix(':')?.to_owned());
    let lines: Vec<String> = text.lines().filter_map(of_protocol).collect();
    let [names, values] = &lines[..] else { return HashMap::new() };
    let values = values.split_whitespace().map(|value| value.parse().unwrap_or(f64::NAN));
    names.split_whitespace().map(str::to_owned).zip(values).collect()
}

/// User and system time of a process, in clock ticks.
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(stat_field(pid, 14)? + stat_field(pid, 15)?)
}

/// What the living threads of a process have run, to the nanosecond.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let ran = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Some(Duration::from_nanos(tasks.filter_map(ran).sum()))
}

/// Pages that a process touched for the first time, huge ones counted once.
pub fn minor_faults(pid: u32) -> Option<u64> {
    stat_field(pid, 10)
}

/// By its number in proc_pid_stat(5), above 2.
fn stat_field(pid: u32, number: usize) -> Option<u64> {
    let stat = read(format!("/proc/{pid}/stat"));
    // The program's name is in parentheses and may hold anything.
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(number - 3)?.parse().ok()
}

/// What the hypervisor took from all CPUs together since the start, in clock ticks.
pub fn steal_ticks() -> Option<u64> {
    read("/proc/stat").lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

/// The whole disk below a directory, as the limits and the meters name it. `None` for a
/// filesystem without one disk of its own (tmpfs, overlay, btrfs).
pub fn disk_below(directory: &Path) -> Option<PathBuf> {
    let device = std::fs::metadata(directory).ok()?.st_dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut block = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    if block.join("partition").exists() {
        block.pop();
    }
    Some(Path::new("/dev").join(block.file_name()?))
}

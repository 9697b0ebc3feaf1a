//! A foreign container's first process, as `/proc` shows it. Reads, never writes.

use std::path::Path;

use super::walk::id_of;

/// What `/proc` says of a container's first process.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub started_unix_s: f64,
    pub namespaces: Vec<(String, u64)>,
}

impl Process {
    /// The oldest of those that are still there.
    pub fn first(pids: Vec<i32>) -> Option<Self> {
        pids.into_iter().filter_map(Process::read).min_by(|a, b| {
            a.started_unix_s.total_cmp(&b.started_unix_s).then_with(|| a.pid.cmp(&b.pid))
        })
    }

    fn read(pid: i32) -> Option<Self> {
        let process = procfs::process::Process::new(pid).ok()?;
        let started = process.stat().ok()?.starttime as f64 / procfs::ticks_per_second() as f64;
        let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
        let namespaces = kinds.into_iter().filter_map(|kind| {
            let id = id_of(Path::new(&format!("/proc/{pid}/ns/{kind}")))?;
            Some((kind.to_owned(), id))
        });
        Some(Self {
            pid,
            started_unix_s: procfs::boot_time_secs().ok()? as f64 + started,
            namespaces: namespaces.collect(),
        })
    }
}

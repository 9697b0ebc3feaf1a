//! The evidence of an OOM kill: what the kernel program saw, in bytes, and who else was in
//! the container a moment later.

use std::path::Path;

use serde::Serialize;
use tenantry_cgroupfs::Hierarchy;
use tenantry_ebpf::OomEvent;

/// Neighbours that an event names; there may be thousands.
const NEIGHBOURS: usize = 32;
/// Processes that are looked at for them.
const LOOKED_AT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Evidence {
    /// What the victim held when it was chosen. Since Linux 6.2 each sum lacks up to 32 pages
    /// for each CPU.
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub shmem_bytes: u64,
    pub swap_bytes: u64,
    /// The tightest limit of its memory cgroup and those above; absent if the host itself
    /// was short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Use of the cgroup with that limit.
    pub usage_bytes: u64,
    /// Kills that the victim's memory cgroup had counted, this one included.
    pub cgroup_kills: u64,
    /// The process that wanted memory when there was none, as the host numbers it.
    pub trigger_pid: u32,
    pub trigger_comm: String,
    pub oom_score_adj: i32,
    /// Who else was in the container when the agent read the event, the largest first; at
    /// most 32.
    pub neighbours: Vec<Neighbour>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Neighbour {
    /// As the host numbers it.
    pub pid: u32,
    pub comm: String,
    pub rss_bytes: u64,
}

/// Where containers' cgroups are.
#[derive(Clone, Debug)]
pub struct Groups {
    pub hierarchy: Hierarchy,
    pub parent: String,
}

impl Evidence {
    pub fn of(event: &OomEvent, neighbours: Vec<Neighbour>) -> Self {
        Self {
            anon_bytes: event.anon_bytes,
            file_bytes: event.file_bytes,
            shmem_bytes: event.shmem_bytes,
            swap_bytes: event.swap_bytes,
            limit_bytes: event.limit_bytes,
            usage_bytes: event.usage_bytes,
            cgroup_kills: event.cgroup_kills,
            trigger_pid: event.trigger_pid,
            trigger_comm: event.trigger_comm.clone(),
            oom_score_adj: event.score_adjustment,
            neighbours,
        }
    }
}

impl Groups {
    /// Processes of a container beside the victim. Empty if it is gone already.
    pub fn neighbours(&self, container_id: &str, victim: u32) -> Vec<Neighbour> {
        let group = self.hierarchy.group(&format!("{}/{container_id}", self.parent));
        let pids = group.pids().unwrap_or_default();
        let others = pids.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        let others = others.filter(|pid| *pid != victim).take(LOOKED_AT);
        largest(others.filter_map(|pid| read_neighbour(Path::new("/proc"), pid)).collect())
    }
}

fn largest(mut neighbours: Vec<Neighbour>) -> Vec<Neighbour> {
    neighbours.sort_by_key(|neighbour| (u64::MAX - neighbour.rss_bytes, neighbour.pid));
    neighbours.truncate(NEIGHBOURS);
    neighbours
}

/// `None` if the process ended meanwhile.
fn read_neighbour(proc: &Path, pid: u32) -> Option<Neighbour> {
    let dir = proc.join(pid.to_string());
    let comm = std::fs::read_to_string(dir.join("comm")).ok()?;
    let statm = std::fs::read_to_string(dir.join("statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let rss_bytes = pages * rustix::param::page_size() as u64;
    Some(Neighbour { pid, comm: comm.trim_end().into(), rss_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_neighbours_are_named_first_and_not_all() {
        let neighbour =
            |pid, rss_bytes| Neighbour { pid, comm: "x".into(), rss_bytes: rss_bytes * 4096 };
        let all: Vec<Neighbour> = (0..100).map(|n| neighbour(n, u64::from(n) / 2)).collect();
        let named = largest(all);
        assert_eq!(named.len(), NEIGHBOURS);
        assert_eq!((named[0].pid, named[1].pid, named[2].pid), (98, 99, 96));
    }

    #[test]
    fn this_process_is_read_as_a_neighbour() {
        let own = read_neighbour(Path::new("/proc"), std::process::id()).unwrap();
        assert!(own.rss_bytes > 0 && !own.comm.is_empty());
        assert_eq!(read_neighbour(Path::new("/proc"), u32::MAX), None);
    }
}

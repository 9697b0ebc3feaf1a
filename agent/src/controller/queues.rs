//! Which disks share by weight: their scheduler is bfq, or iocost is enabled for them (cgroup v2).
//!
//! Owns the few files that say so. They are read again when half a minute is over, each disk's
//! when a container has used it: who changes a scheduler does it seldom, and until it is seen a
//! weight is not tried, or is tried in vain and followed by a rate.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tenantry_cgroupfs::{Hierarchy, Layout};
use tenantry_control::Device;

const KEPT: Duration = Duration::from_secs(30);
/// A host with more disks than that has the rest without weights.
const MOST_DISKS: usize = 1024;

#[derive(Debug)]
pub struct Queues {
    sys_dev_block: PathBuf,
    /// `None` on v1, where iocost has no weight.
    cost_qos: Option<PathBuf>,
    read_at: Duration,
    with_cost: HashSet<Device>,
    known: HashMap<Device, bool>,
}

impl Queues {
    pub fn of_host(hierarchy: &Hierarchy) -> Queues {
        let is_v2 = hierarchy.layout() == Layout::Unified;
        let cost_qos = is_v2.then(|| hierarchy.unified_mount().join("io.cost.qos"));
        Queues::at(Path::new("/sys/dev/block"), cost_qos)
    }

    fn at(sys_dev_block: &Path, cost_qos: Option<PathBuf>) -> Queues {
        Queues {
            sys_dev_block: sys_dev_block.to_owned(),
            cost_qos,
            read_at: Duration::ZERO,
            with_cost: HashSet::new(),
            known: HashMap::new(),
        }
    }

    /// Of these disks those whose queues heed weights; `now` is on a clock that only goes
    /// forward. A file that cannot be read says no.
    pub fn weighted(
        &mut self,
        now: Duration,
        disks: impl Iterator<Item = Device>,
    ) -> HashSet<Device> {
        if self.known.is_empty() || now.saturating_sub(self.read_at) >= KEPT {
            let text = self.cost_qos.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
            self.with_cost = text.as_deref().map(with_cost).unwrap_or_default();
            self.known.clear();
            self.read_at = now;
        }
        let mut weighted = HashSet::new();
        for disk in disks {
            let is_full = self.known.len() >= MOST_DISKS;
            let is_weighted = match self.known.get(&disk) {
                Some(known) => *known,
                None if is_full => false,
                None => {
                    let is_weighted = self.with_cost.contains(&disk) || self.has_bfq(disk);
                    self.known.insert(disk, is_weighted);
                    is_weighted
                }
            };
            if is_weighted {
                weighted.insert(disk);
            }
        }
        weighted
    }

    fn has_bfq(&self, disk: Device) -> bool {
        let path = self.sys_dev_block.join(disk.to_string()).join("queue/scheduler");
        std::fs::read_to_string(path).is_ok_and(|text| is_bfq(&text))
    }
}

/// `none mq-deadline [bfq]`: the one in brackets is in use.
fn is_bfq(text: &str) -> bool {
    text.split_ascii_whitespace().any(|word| word == "[bfq]")
}

/// The disks of `io.cost.qos` that have `enable=1`.
fn with_cost(text: &str) -> HashSet<Device> {
    let enabled = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let device = words.next()?.parse().ok()?;
        words.any(|word| word == "enable=1").then_some(device)
    };
    text.lines().filter_map(enabled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(minor: u32) -> Device {
        Device { major: 8, minor }
    }

    fn set_scheduler(dir: &Path, minor: u32, text: &str) {
        let queue = dir.join(format!("8:{minor}/queue"));
        std::fs::create_dir_all(&queue).unwrap();
        std::fs::write(queue.join("scheduler"), text).unwrap();
    }

    #[test]
    fn bfq_and_enabled_iocost_heed_weights_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        set_scheduler(dir.path(), 0, "none mq-deadline kyber [bfq]\n");
        set_scheduler(dir.path(), 16, "[none] mq-deadline kyber bfq\n");
        set_scheduler(dir.path(), 32, "[mq-deadline] none\n");
        let qos = dir.path().join("io.cost.qos");
        let of = |minor, is| format!("8:{minor} enable={is} ctrl=auto rpct=0.00\n");
        std::fs::write(&qos, of(16, 0) + &of(32, 1)).unwrap();
        let all = || [0, 16, 32, 48].map(device).into_iter();
        let found = Queues::at(dir.path(), Some(qos)).weighted(Duration::ZERO, all());
        assert_eq!(found, HashSet::from([device(0), device(32)]));
        let found = Queues::at(dir.path(), None).weighted(Duration::ZERO, all());
        assert_eq!(found, HashSet::from([device(0)]), "v1 has no weight for iocost");
    }

    #[test]
    fn what_was_read_is_kept_for_half_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        set_scheduler(dir.path(), 0, "[bfq] none\n");
        let mut queues = Queues::at(dir.path(), None);
        let mut is_weighted = |seconds| {
            let now = Duration::from_secs(seconds);
            !queues.weighted(now, [device(0)].into_iter()).is_empty()
        };
        assert!(is_weighted(100));
        set_scheduler(dir.path(), 0, "bfq [none]\n");
        assert!(is_weighted(129));
        assert!(!is_weighted(130));
        set_scheduler(dir.path(), 0, "[bfq] none\n");
        assert!(!is_weighted(159));
        assert!(is_weighted(160));
    }
}
